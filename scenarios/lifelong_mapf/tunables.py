"""What ``marl tune lifelong_mapf`` can choose: the numbers of the shared guidance, for one kind of map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from marl.envs.batched import BatchedEnv
from marl.errors import UserError
from marl.policies.base import BoundPolicy
from marl.scenario import Parameter, Tunable
from scenarios.lifelong_mapf.baselines import FieldPibt, LifelongWorld
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.search.windowed import Windowed, WindowedConfig
from scenarios.lifelong_mapf.step.instances import number_of_agents

#: Where the search begins unless the configuration names a vector: moderate prices for everything.
_PARAMETERS = (
    Parameter("static_weight", 0.0, 6.0, 0.6, "square"),
    Parameter("occupancy_weight", 0.0, 12.0, 0.6, "square"),
    Parameter("waiting_weight", 0.0, 20.0, 1.5, "square"),
    Parameter("decay", 0.5, 0.998, 0.97, "decay"),
    Parameter("opposing_weight", 0.0, 30.0, 5.0, "square"),
    Parameter("flow_decay", 0.5, 0.998, 0.98, "decay"),
    Parameter("lanes_weight", 0.0, 6.0, 0.3, "square"),
    Parameter("corridor_rows_weight", 0.0, 15.0, 2.0, "square"),
    Parameter("corridor_columns_weight", 0.0, 15.0, 2.0, "square"),
    Parameter("stay_weight", 0.0, 6.0, 0.1, "square"),
    Parameter("contest_weight", 0.0, 6.0, 0.1, "square"),
    Parameter("head_on_weight", 0.0, 6.0, 0.1, "square"),
    Parameter("closer_first", 0.0, 5.0, 0.2, "square"),
    Parameter("crowd", 0.0, 1.0, 0.1, "square"),
)

#: Where the search's own numbers begin: what spreads the agents of a rule delays those of plans.
_SEARCH_START = {
    "static_weight": 0.05,
    "occupancy_weight": 0.6,
    "waiting_weight": 0.2,
    "decay": 0.97,
    "opposing_weight": 0.3,
    "flow_decay": 0.97,
    "lanes_weight": 0.02,
    "corridor_rows_weight": 0.05,
    "corridor_columns_weight": 0.05,
    "stay_weight": 0.7,
    "closer_first": 0.1,
    "crowd": 0.05,
}
_SEARCH = tuple(replace(p, start=_SEARCH_START[p.name]) for p in _PARAMETERS if p.name in _SEARCH_START)

#: A tuning plays with the wanted number of agents divided by each of these.
_PARTS = (1, 2, 4, 8)

#: How much of an increase of latency takes away a gain in throughput: less below the reference than above it.
_FASTER, _SLOWER, _OLDEST = 0.1, 1.0, 0.05


def _parameters(config: MapfConfig, parameters: Sequence[Parameter] = _PARAMETERS) -> list[Parameter]:
    """The numbers; the search begins at the configuration's own ones if it does not leave them at the default."""
    if config.guidance == GuidanceConfig():
        return list(parameters)
    weights = config.guidance.weights()
    return [
        Parameter(p.name, p.low, p.high, min(max(getattr(weights, p.name), p.low), p.high), p.scale) for p in parameters
    ]


def _worlds(config: MapfConfig) -> list[MapfConfig]:
    """The wanted number of agents, a half, a quarter and an eighth: a vector should serve quiet days as well."""
    if config.on_target != "restart":
        raise UserError("guidance is tuned for throughput: use world.on_target=restart")
    if config.tasks is not None:
        raise UserError("a tuning draws starts and goals itself: name the map with --map FILE, without --tasks")
    agents = number_of_agents(config)
    plain = {"central_state": False, "bound_share": False}
    counts = dict.fromkeys(max(agents // part, 1) for part in _PARTS)
    return [config.model_copy(update={"agents": n, **plain}) for n in counts]


def _build(env: BatchedEnv, values: Mapping[str, float]) -> BoundPolicy:
    return FieldPibt(cast(LifelongWorld, env), GuidanceConfig(vector="plain", **values))


def _build_search(env: BatchedEnv, values: Mapping[str, float]) -> BoundPolicy:
    return Windowed(
        cast(LifelongWorld, env), WindowedConfig.model_validate({}), GuidanceConfig(vector="plain", **values)
    )


def _score(
    metrics: Mapping[str, NDArray[np.float64]], reference: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Gain in throughput less what latency costs, in logarithms of ratios to the reference.

    Percentiles count goals that were reached; the oldest goal under way at the end shows those that were not.
    """

    def gain(name: str) -> NDArray[np.float64]:
        return np.asarray(np.log((metrics[name] + 1e-3) / (reference[name] + 1e-3)))

    slow, oldest = gain("latency_p95_steps"), gain("oldest_goal_steps")
    return gain("throughput") - _FASTER * slow - _SLOWER * np.maximum(slow, 0.0) - _OLDEST * oldest


_METRICS = ("throughput", "latency_p95_steps", "oldest_goal_steps")

TUNABLES = {
    "guidance": Tunable(
        summary="costs and priorities of guided_pibt, for a map or a kind of maps; --guidance FILE uses them",
        parameters=_parameters,
        worlds=_worlds,
        build=_build,
        reference="pibt",
        score=_score,
        option="--guidance",
        metrics=_METRICS,
    ),
    "search": Tunable(
        summary="the same numbers for guided_search, which plans on them; guided_search:guidance=FILE uses them",
        parameters=partial(_parameters, parameters=_SEARCH),
        worlds=_worlds,
        build=_build_search,
        reference="windowed",
        score=_score,
        option="--guidance",
        metrics=_METRICS,
    ),
}
