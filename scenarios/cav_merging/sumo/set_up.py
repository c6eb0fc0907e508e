"""From a configuration to what is run: the road, the user's files, and who lets the cars come."""

from __future__ import annotations

from marl.errors import UserError
from scenarios.cav_merging.config import DECISION_S, CavConfig
from scenarios.cav_merging.sumo.inputs import Demand, SumoInputs, sumo_demand, sumo_inputs
from scenarios.cav_merging.sumo.networks import read_network
from scenarios.cav_merging.sumo.road import RoadNetwork
from scenarios.cav_merging.sumo.routes import read_demand


def _check_that_somebody_drives(config: CavConfig) -> None:
    """Raises ``UserError`` where an episode would most likely be over before the first car comes."""
    seconds = config.horizon * DECISION_S
    cars = config.flow_veh_per_h[1] * seconds / 3600.0
    if config.cavs[1] + config.humans[1] + 2 * config.contrast == 0 and cars < 1.0:
        source = f"the demand {config.routes}" if config.routes else "world.flow_veh_per_h"
        raise UserError(
            f"nobody would drive: {source} brings {cars:.2g} cars in the {seconds:g} s of an episode, and none is "
            "there at its start; raise the flow, world.horizon or world.cavs"
        )


#: What a configuration draws where SUMO lets the cars come.
_NOBODY_DRAWN = {"cavs": (0, 0), "humans": (0, 0), "contrast": False, "flow_veh_per_h": (0.0, 0.0)}


def _at_the_rates(config: CavConfig, inputs: SumoInputs, network: RoadNetwork) -> CavConfig:
    """The configuration with the rates of a user's demand."""
    demand = read_demand(inputs.routes, network)
    share = {"flow_veh_per_h": (demand.total, demand.total), "ramp_share": demand.ramp / demand.total}
    return config.model_copy(update=share)


def resolve(config: CavConfig) -> tuple[CavConfig, RoadNetwork | None, SumoInputs | None, Demand | None]:
    """The configuration with a user's demand in it, the network, the files, and what SUMO inserts (None: nothing).

    Raises ``UserError`` for files that cannot be run, and where nobody would drive.
    """
    if config.net is None:
        _check_that_somebody_drives(config)
        return config, None, None, None
    inputs = sumo_inputs(config)
    network = read_network(inputs.net, config.edges or None)
    if inputs.routes and config.backend == "sumo" and config.demand == "file":
        return config.model_copy(update=_NOBODY_DRAWN), network, inputs, sumo_demand(config, inputs)
    if inputs.routes:
        config = _at_the_rates(config, inputs, network)
    _check_that_somebody_drives(config)
    return config, network, inputs, None
