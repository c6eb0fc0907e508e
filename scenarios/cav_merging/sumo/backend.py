"""The ``sumo`` backend: libsumo in worker processes, one for each copy, because a process holds one simulation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from marl.envs.batched import Metric
from marl.envs.pools import make_pool
from marl.envs.sumo.install import sumo_home
from marl.envs.workers import Array, Simulator
from marl.errors import NotFiniteError, UserError
from scenarios.cav_merging.config import SIM_STEP_S, CavConfig, Geometry
from scenarios.cav_merging.drivers import ASSERTIVE, STYLES, P
from scenarios.cav_merging.geometry import RoadGeometry
from scenarios.cav_merging.intent import rollout
from scenarios.cav_merging.sumo import exchange
from scenarios.cav_merging.sumo.gui import GuiSimulator, screen
from scenarios.cav_merging.sumo.inputs import Demand, SumoInputs
from scenarios.cav_merging.sumo.networks import NETWORKS, build_network, find_network, read_network
from scenarios.cav_merging.sumo.outputs import EpisodeTable
from scenarios.cav_merging.sumo.protocol import Arrival, Column, Command, Op
from scenarios.cav_merging.sumo.road import RoadNetwork
from scenarios.cav_merging.sumo.simulator import SumoSimulator
from scenarios.cav_merging.traffic import Traffic
from scenarios.cav_merging.twin.backend import Outcome

LOST = Metric("1", "lower", "episode cut short by the loss of its SUMO process; its other figures do not count")
#: What the workers of a pool share from the beginning.
PRELOAD = ("marl.envs.sumo.library", "scenarios.cav_merging.sumo.simulator")
#: Points of 0.2 s that the window draws of a car's announced path.
PATH_POINTS = 8
_HISTORY, _LENGTH, _SEED, _PENDING = "sumo/history", "sumo/length", "sumo/seed", "sumo/pending"
#: Headway times of the styles in their order, which tell the styles apart.
_TAUS = np.array([style[0] for style in STYLES.values()])


def fixed_geometry(geometry: Geometry) -> RoadGeometry:
    """The one road that a configuration describes."""
    if not geometry.fixed:
        raise UserError(
            "world.geometry has spans, which only the twin can draw from; give numbers, or world.net a file"
        )
    start = geometry.before[0] + geometry.converge[0]
    return RoadGeometry(
        merge_start=start,
        merge_end=start + geometry.merge[0],
        road_end=start + geometry.merge[0] + geometry.after[0],
        speed_limit=geometry.speed_limit[0],
        main_lanes=geometry.main_lanes[0],
        converge=geometry.converge[0],
    )


class SumoBackend:
    """B libsumo simulations.

    inputs: the user's files. demand: cars that SUMO lets come by itself, as those say; None: this world places all.
    Raises ``UserError`` if SUMO is not installed or the geometry is not fixed.
    """

    def __init__(
        self,
        config: CavConfig,
        copies: int,
        network: RoadNetwork | None,
        inputs: SumoInputs | None = None,
        demand: Demand | None = None,
    ):
        sumo_home()
        self._folder = tempfile.TemporaryDirectory(prefix="marl-network-")
        if network is None:
            network = self._network(fixed_geometry(config.geometry))
        self._slots, self._agents = config.vehicles, config.max_cavs
        self._demand = demand
        #: Where SUMO drives the automated cars of a user's demand, they are assertive drivers.
        self.assertive = False
        additional = inputs.additional if inputs else ()
        folder = None if config.sumo_output is None else Path(config.sumo_output).absolute()
        self._table = None if folder is None else EpisodeTable(folder)
        self._instances = np.zeros((copies, 2), dtype=np.int64)
        factory: Callable[[], Simulator] = partial(
            SumoSimulator,
            network,
            self._slots,
            config.exact_reset,
            config.car_following,
            demand=demand,
            additional=additional,
            output=folder,
        )
        if config.gui:
            factory = partial(GuiSimulator, network, self._slots, config.car_following, screen(), demand, additional)
        self.pool = make_pool(factory, copies, copies, config.workers, timeout_s=30.0, preload=PRELOAD)
        self._marks = np.zeros((copies, self._agents), dtype=bool) if config.gui else None
        self._exact = config.exact_reset and not config.gui
        self._pending = np.zeros((copies, self._slots), dtype=bool)
        self._seeds = np.zeros(copies, dtype=np.int64)
        # What the simulators were told since the episode's beginning: a snapshot is replayed from it.
        self._history = np.zeros((copies, config.horizon + 2, self._slots + 1, len(Command)))
        self._length = np.zeros(copies, dtype=np.int64)
        self._everybody = np.arange(copies)

    def _network(self, geometry: RoadGeometry) -> RoadNetwork:
        for name, known in NETWORKS.items():
            if known == geometry:
                return read_network(find_network(name))
        path = Path(self._folder.name) / "merge.net.xml"
        build_network(geometry, path)
        return read_network(path)

    def name(self, rows: Tensor, seeds: Tensor, episodes: Tensor) -> None:
        """Copies ``rows`` are about to begin these episodes of these instances, all int64 ``[K]``."""
        self._instances[_host(rows)] = np.stack((_host(seeds), _host(episodes)), 1)

    def begin(self, traffic: Traffic, rows: Tensor, seeds: Tensor) -> None:
        chosen = _host(rows)
        self._seeds[chosen] = _host(seeds) & 0x7FFFFFFF
        self._length[chosen] = 0
        self._pending[chosen] = False
        mask = np.zeros(len(self._length), dtype=bool)
        mask[chosen] = True
        self.pool.seeds[:] = self._seeds
        self.pool.reset(mask)
        told = self.pool.actions
        told[:] = 0.0
        self._insert(told, traffic, _host(traffic.present))
        told[:, -1, Command.OP] = 1.0
        told[:, -1, Command.X] = _host(traffic.flow[:, 1])
        told[:, -1, Command.TYPE] = self.assertive
        told[:, -1, Command.CONTROLLED] = _host(traffic.controlled[:, : self._agents].any(1))
        self._remember(chosen)
        while mask.any():
            mask = self.pool.step(mask)

    def admit(self, traffic: Traffic, copies: Tensor) -> Tensor:
        """Take in the cars that SUMO let come into ``copies`` (bool ``[B]``) last; their slots, bool ``[B, V]``."""
        arrivals, cars = self.pool.outputs["arrivals"], self.pool.outputs["cars"]
        if (unseen := self.pool.outputs["hits"][:, 1]).any():
            raise UserError(
                f"{int(unseen.max())} cars more are on the road at once than there are slots; raise world.max_humans "
                f"({self._slots - self._agents}) by at least as many, or take a preset with more, such as flow"
            )
        new = (arrivals[..., Arrival.NUMBER] > 0) & _host(copies)[:, None]
        filled = torch.from_numpy(new)
        if not new.any():
            return filled
        about, seen = torch.from_numpy(arrivals[new]), torch.from_numpy(cars[new])
        traffic.x[filled], traffic.v[filled] = seen[:, Column.X], seen[:, Column.V]
        traffic.lane[filled], traffic.gained[filled] = seen[:, Column.LANE].long(), seen[:, Column.GAINED]
        traffic.number[filled] = self._slots + about[:, Arrival.NUMBER].long()
        traffic.from_ramp[filled] = about[:, Arrival.FROM_RAMP] > 0
        for tensor, value in ((traffic.look, 0.0), (traffic.merged, False), (traffic.present, True)):
            tensor[filled] = value
        drivers = traffic.drivers[filled]
        for column in (P.DESIRED, P.TAU, P.ACCEL, P.DECEL, P.MIN_GAP, P.LENGTH, P.ASSERTIVE):
            drivers[:, column] = about[:, Arrival[column.name]]
        drivers[:, P.TWO_SQRT] = 2.0 * torch.sqrt(drivers[:, P.ACCEL] * drivers[:, P.DECEL])
        drivers[:, P.KRAUSS] = 0.0
        traffic.drivers[filled] = drivers
        agents = filled[:, : self._agents]
        traffic.target[agents] = traffic.v[:, : self._agents][agents]
        return filled

    def mark(self, corrected: Tensor) -> None:
        """Show these agents (bool ``[B, N]``) as corrected in the next step."""
        if self._marks is not None:
            self._marks |= _host(corrected)

    def insert(self, traffic: Traffic, slots: Tensor) -> None:
        self._pending |= _host(slots)

    def _insert(self, told: Array, traffic: Traffic, slots: Array, ahead_s: float = 0.0) -> None:
        """Write into ``told`` what places the cars of ``slots`` (bool ``[B, V]``), ``ahead_s`` seconds further."""
        rows = told[:, :-1]
        drivers, v = _host(traffic.drivers), _host(traffic.v)
        style = np.abs(drivers[..., P.TAU, None] - _TAUS).argmin(-1)
        rows[..., Command.OP] = slots * float(Op.INSERT)
        rows[..., Command.LANE] = _host(traffic.lane)
        rows[..., Command.X] = _host(traffic.x) + ahead_s * v
        rows[..., Command.V] = v
        rows[..., Command.TYPE] = 2 * style + (drivers[..., P.ASSERTIVE] == ASSERTIVE)
        rows[..., Command.DESIRED] = drivers[..., P.DESIRED]
        rows[..., Command.CONTROLLED] = _host(traffic.controlled)

    def _remember(self, rows: Array) -> None:
        """What copies ``rows`` (int64 ``[K]``) are told belongs to their episodes."""
        self._history[rows, self._length[rows]] = self.pool.actions[rows]
        self._length[rows] += 1

    def advance(self, traffic: Traffic, accel: Tensor, turn: Tensor) -> Outcome:
        told = self.pool.actions
        told[:] = 0.0
        if self._pending.any():
            # A car appears at the end of SUMO's first step and drives in the second: place it where it is by then.
            self._insert(told, traffic, self._pending, ahead_s=SIM_STEP_S)
            self._pending[:] = False
        exchange.command(*map(_host, (traffic.present, traffic.controlled, accel, turn)), told)
        if self._marks is not None:
            marked = told[:, : self._agents]
            marked[..., Command.MARK] = self._marks
            path = rollout(traffic, None, PATH_POINTS)[:, :, -1, 0]
            marked[..., Command.REACH] = _host(path - traffic.x[:, : self._agents])
            self._marks[:] = False
        if self._table is not None:
            begun = np.flatnonzero(self._length == 1)
            self._table.note((*self._instances[b].tolist(), int(self._seeds[b])) for b in begun)
        self._remember(self._everybody)
        lost = self.pool.step()
        cars, collisions = self.pool.outputs["cars"], self.pool.outputs["hits"]
        if not np.isfinite(cars).all():  # here, since what agents see is held in bounds, and NaN becomes one of them
            copy, car, column = np.argwhere(~np.isfinite(cars))[0]
            what = f"SUMO's {Column(column).name} of car {car} in copy {copy} is {cars[copy, car, column]}"
            raise NotFiniteError(what, "mend the network or the demand that SUMO was given")
        read = (traffic.x, traffic.v, traffic.gained, traffic.lane, traffic.present)
        arrays = [_host(tensor) for tensor in read]
        crashed, left = np.empty_like(self._pending), np.empty_like(self._pending)
        hits = np.empty_like(self._length)
        exchange.take(cars, collisions, lost, *arrays, crashed, left, hits)
        if not traffic.compiled:
            for tensor, array in zip(read, arrays, strict=True):
                tensor.copy_(torch.from_numpy(array))
        found = (crashed, left, hits, lost)
        return Outcome(*(torch.from_numpy(array).to(traffic.x.device) for array in found))

    def snapshot(self) -> dict[str, Tensor]:
        if not self._exact:
            raise UserError("world.exact_reset=false cannot be snapshot: SUMO's random stream runs on; set it to true")
        return {name: torch.from_numpy(array.copy()) for name, array in self._own().items()}

    def _own(self) -> dict[str, Array]:
        return {_HISTORY: self._history, _LENGTH: self._length, _SEED: self._seeds, _PENDING: self._pending}

    def restore(self, traffic: Traffic, snapshot: dict[str, Tensor], source: Tensor | None, rows: Tensor) -> None:
        """Play the commands since the beginning of the episodes again."""
        into = _host(rows)
        for name, array in self._own().items():
            saved = _host(snapshot[name])
            array[into] = saved if source is None else saved[_host(source)]
        chosen = np.zeros(len(self._length), dtype=bool)
        chosen[into] = True
        self.pool.seeds[:] = self._seeds
        self.pool.reset(chosen)
        for k in range(int(self._length[into].max())):
            mask = chosen & (self._length > k)
            self.pool.actions[mask] = self._history[mask, k]
            if self.pool.step(mask).any():
                raise UserError("a SUMO process was lost while a snapshot was being restored; restore it again")

    def close(self) -> None:
        self.pool.close()
        self._folder.cleanup()


def _host(tensor: Tensor) -> Array:
    """The tensor as an array on the CPU, its own memory if it is there already."""
    array: Array = tensor.cpu().numpy()
    return array
