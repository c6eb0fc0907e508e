"""The ``sumo`` backend: libsumo in worker processes, one for each copy, because a process holds one simulation."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from marl.envs.batched import Metric
from marl.envs.workers import WorkerPool
from marl.errors import UserError
from scenarios.cav_merging.config import SIM_STEP_S, CavConfig, Geometry
from scenarios.cav_merging.drivers import ASSERTIVE, STYLES, P
from scenarios.cav_merging.geometry import RoadGeometry
from scenarios.cav_merging.intent import rollout
from scenarios.cav_merging.networks import NETWORKS, RoadNetwork, build_network, find_network, read_network
from scenarios.cav_merging.sumo_gui import GuiSimulator, screen
from scenarios.cav_merging.sumo_install import sumo_home
from scenarios.cav_merging.sumo_simulator import Column, Command, Op, Status, SumoSimulator
from scenarios.cav_merging.traffic import Traffic
from scenarios.cav_merging.twin import Outcome

LOST = Metric("1", "lower", "episode cut short by the loss of its SUMO process; its other figures do not count")
#: Points of 0.2 s that the window draws of a car's announced path.
PATH_POINTS = 8
_HISTORY, _LENGTH, _SEED = "sumo/history", "sumo/length", "sumo/seed"


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

    Raises ``UserError`` if SUMO is not installed or the geometry is not fixed.
    """

    def __init__(self, config: CavConfig, copies: int, network: RoadNetwork | None):
        sumo_home()
        self._folder = tempfile.TemporaryDirectory(prefix="marl-network-")
        if network is None:
            network = self._network(fixed_geometry(config.geometry))
        self._slots, self._agents = config.vehicles, config.max_cavs
        factory = partial(SumoSimulator, network, self._slots, config.exact_reset)
        if config.gui:
            factory = partial(GuiSimulator, network, self._slots, config.exact_reset, screen())
        self.pool = WorkerPool(factory, copies, workers=copies, timeout_s=30.0)
        self._marks = torch.zeros(copies, self._agents, dtype=torch.bool) if config.gui else None
        self._exact = config.exact_reset
        self._pending = torch.zeros(copies, self._slots, dtype=torch.bool)
        self._seeds = torch.zeros(copies, dtype=torch.int64)
        # What the simulators were told since the episode's beginning: a snapshot is replayed from it.
        self._history = torch.zeros(copies, config.horizon + 2, self._slots + 1, len(Command), dtype=torch.float64)
        self._length = torch.zeros(copies, dtype=torch.int64)

    def _network(self, geometry: RoadGeometry) -> RoadNetwork:
        for name, known in NETWORKS.items():
            if known == geometry:
                return read_network(find_network(name))
        path = Path(self._folder.name) / "merge.net.xml"
        build_network(geometry, path)
        return read_network(path)

    def begin(self, traffic: Traffic, rows: Tensor, seeds: Tensor) -> None:
        self._seeds[rows] = seeds.cpu() & 0x7FFFFFFF
        self._length[rows] = 0
        self._pending[rows] = False
        mask = np.zeros(len(self._length), dtype=bool)
        mask[rows.cpu().numpy()] = True
        self.pool.seeds[:] = self._seeds.numpy()
        self.pool.reset(mask)
        commands = self._insertions(traffic, traffic.present.cpu())
        commands[:, -1, Command.OP] = 1.0
        self._tell(commands, mask)
        while mask.any():
            mask = self.pool.step(mask)

    def mark(self, corrected: Tensor) -> None:
        """Show these agents (bool ``[B, N]``) as corrected in the next step."""
        if self._marks is not None:
            self._marks |= corrected.cpu()

    def insert(self, traffic: Traffic, slots: Tensor) -> None:
        self._pending |= slots.cpu()

    def _insertions(self, traffic: Traffic, slots: Tensor, ahead_s: float = 0.0) -> Tensor:
        """Commands ``[B, V + 1, 11]`` that place the cars of ``slots``, ``ahead_s`` seconds further on."""
        commands = torch.zeros(len(slots), self._slots + 1, len(Command), dtype=torch.float64)
        rows = commands[:, :-1]
        drivers = traffic.drivers.cpu()
        taus = torch.tensor([style[0] for style in STYLES.values()], dtype=torch.float64)
        style = (drivers[..., P.TAU, None] - taus).abs().argmin(-1)
        rows[..., Command.OP] = slots * float(Op.INSERT)
        rows[..., Command.LANE] = traffic.lane.cpu().double()
        rows[..., Command.X] = (traffic.x + ahead_s * traffic.v).cpu()
        rows[..., Command.V] = traffic.v.cpu()
        rows[..., Command.TYPE] = (2 * style + (drivers[..., P.ASSERTIVE] == ASSERTIVE)).double()
        rows[..., Command.DESIRED] = drivers[..., P.DESIRED]
        rows[..., Command.CONTROLLED] = traffic.controlled.cpu().double()
        return commands

    def _tell(self, commands: Tensor, mask: np.ndarray) -> None:
        """Hand out commands and remember them."""
        rows = torch.from_numpy(np.flatnonzero(mask))
        self.pool.actions[mask] = commands.numpy()[mask]
        self._history[rows, self._length[rows]] = commands[rows]
        self._length[rows] += 1

    def advance(self, traffic: Traffic, accel: Tensor, turn: Tensor) -> Outcome:
        # A car appears at the end of SUMO's first step and drives in the second: place it where it would be by then.
        commands = self._insertions(traffic, self._pending, ahead_s=SIM_STEP_S)
        rows = commands[:, :-1]
        control = (traffic.present & traffic.controlled).cpu() & ~self._pending
        rows[..., Command.OP] += control * float(Op.CONTROL)
        rows[..., Command.ACCEL] = accel.cpu()
        rows[..., Command.TURN] = turn.cpu().double()
        if self._marks is not None:
            rows[:, : self._agents, Command.MARK] = self._marks.double()
            path = rollout(traffic, None, PATH_POINTS)[:, :, -1, 0]
            rows[:, : self._agents, Command.REACH] = (path - traffic.x[:, : self._agents]).cpu()
            self._marks[:] = False
        self._pending[:] = False
        everywhere = np.ones(len(commands), dtype=bool)
        self._tell(commands, everywhere)
        lost = torch.from_numpy(self.pool.step())
        cars = torch.from_numpy(self.pool.outputs["cars"].copy())
        status = cars[..., Column.STATUS]
        known = ~lost[:, None] & (status != Status.ABSENT)
        device = traffic.x.device
        for tensor, column in ((traffic.x, Column.X), (traffic.v, Column.V), (traffic.gained, Column.GAINED)):
            tensor.copy_(torch.where(known, cars[..., column], tensor.cpu()))
        traffic.lane.copy_(torch.where(known, cars[..., Column.LANE].long(), traffic.lane.cpu()))
        crashed = known & (status == Status.CRASHED)
        left = known & (status == Status.LEFT)
        traffic.present.copy_(torch.where(lost[:, None], traffic.present.cpu(), status == Status.PRESENT))
        hits = torch.where(lost, 0, torch.from_numpy(self.pool.outputs["hits"][:, 0].copy()))
        return Outcome(crashed.to(device), left.to(device), hits.to(device), lost.to(device))

    def snapshot(self) -> dict[str, Tensor]:
        if not self._exact:
            raise UserError("world.exact_reset=false cannot be snapshot: SUMO's random stream runs on; set it to true")
        saved = {_HISTORY: self._history, _LENGTH: self._length, _SEED: self._seeds, "sumo/pending": self._pending}
        return {name: tensor.clone() for name, tensor in saved.items()}

    def restore(self, traffic: Traffic, snapshot: dict[str, Tensor], source: Tensor | None, rows: Tensor) -> None:
        """Play the commands since the beginning of the episodes again."""
        rows = rows.cpu()
        own = {_HISTORY: self._history, _LENGTH: self._length, _SEED: self._seeds, "sumo/pending": self._pending}
        for name, tensor in own.items():
            tensor[rows] = snapshot[name] if source is None else snapshot[name][source.cpu()]
        chosen = np.zeros(len(self._length), dtype=bool)
        chosen[rows.numpy()] = True
        self.pool.seeds[:] = self._seeds.numpy()
        self.pool.reset(chosen)
        for k in range(int(self._length[rows].max())):
            mask = chosen & (self._length > k).numpy()
            self.pool.actions[mask] = self._history[:, k].numpy()[mask]
            if self.pool.step(mask).any():
                raise UserError("a SUMO process was lost while a snapshot was being restored; restore it again")

    def close(self) -> None:
        self.pool.close()
        self._folder.cleanup()
