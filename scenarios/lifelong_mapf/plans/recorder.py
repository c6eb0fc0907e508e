"""``PlanRecorder``: an episode of a world as a plan file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from marl.envs.batched import TimeStep, Tree
from marl.errors import UserError
from scenarios.lifelong_mapf.guidance.base import GridWorld
from scenarios.lifelong_mapf.maps.lorr import Problem
from scenarios.lifelong_mapf.plans.lorr_files import write_errands, write_lorr
from scenarios.lifelong_mapf.plans.plan import Given, Plan


class _Config(Protocol):
    on_target: str


class Errands(Protocol):
    """What is recorded of errands. held: int64 ``[B, N]``, the number of each robot's."""

    problem: Problem

    @property
    def held(self) -> Tensor: ...


class RecordedWorld(GridWorld, Protocol):
    """What is recorded. heading: int8 ``[B, N]``, where robots are ``turning``. final_position and final_heading: those
    when a copy's last episode ended.
    """

    config: _Config
    errands: Errands | None
    turning: bool
    heading: Tensor
    final_position: Tensor
    final_heading: Tensor


class PlanRecorder:
    """Records one episode of copy 0 (``marl.scenario.PlanRecorder``); what comes after its end is ignored."""

    def __init__(self, env: RecordedWorld):
        if env.config.on_target == "finish":
            raise UserError("a plan file has no place for robots that leave (on_target=finish): use on_target=nothing")
        self._env = env
        self._lifelong = env.config.on_target == "restart"
        self._cells: list[NDArray[np.int32]] = []
        self._headings: list[NDArray[np.int8]] = []
        self._held: list[NDArray[np.int64]] = []
        self._given: list[list[Given]] = []
        self._finished: list[list[tuple[int, int]]] = []
        self._tasks = 0
        self._over = False

    def add(self, timestep: TimeStep, actions: Tree | None) -> None:
        """Call after ``reset`` (actions None) and after each step, before the next one."""
        env = self._env
        if actions is None:
            n = env.position.shape[1]
            self._cells, self._headings, self._held, self._tasks, self._over = [], [], [], 0, False
            self._given, self._finished = [[] for _ in range(n)], [[] for _ in range(n)]
        elif self._over:
            return
        step = len(self._cells)
        self._over = actions is not None and bool(timestep.done[0])
        self._note((env.final_position if self._over else env.position)[0])
        self._headings.append((env.final_heading if self._over else env.heading)[0].cpu().numpy().copy())
        if env.errands is not None:
            self._held.append(env.errands.held[0].numpy().copy())
            return
        goal = env.goal[0].cpu().numpy()
        for robot in np.flatnonzero(timestep.reward[0].cpu().numpy() > 0).tolist():
            self._finished[robot].append((self._given[robot][-1].task, step))
            if not self._over and (self._lifelong or self._flat(self._given[robot][-1]) != goal[robot]):
                self._give(robot, goal[robot], step)
        if actions is None:
            for robot in range(goal.size):
                self._give(robot, goal[robot], 0)

    def _note(self, position: Tensor) -> None:
        cells = position.cpu().numpy()
        self._cells.append(np.stack([cells // self._env.width, cells % self._env.width], -1).astype(np.int32))

    def _flat(self, given: Given) -> int:
        return given.cell[0] * self._env.width + given.cell[1]

    def _give(self, robot: int, goal: np.int32, step: int) -> None:
        row, column = divmod(int(goal), self._env.width)
        self._given[robot].append(Given(self._tasks, (row, column), step))
        self._tasks += 1

    def plan(self) -> Plan:
        """What was recorded. Raises ``ValueError`` if that is nothing."""
        if not self._cells:
            raise ValueError("nothing recorded: call add after reset and after each step")
        headings = np.stack(self._headings) if self._env.turning else None
        return Plan("the recording", np.stack(self._cells), headings, None, tuple(map(tuple, self._given)))

    def write(self, path: Path) -> None:
        """Write the episode in the form of the league's kit."""
        if self._env.errands is None:
            write_lorr(self.plan(), self._finished, path)
            return
        schedule: list[list[tuple[int, int]]] = [[] for _ in range(self._env.position.shape[1])]
        # What robots had been given before a step is what the kit notes at its end; after the last, nothing is.
        for step, held in enumerate(self._held[:-1], start=1):
            for robot, task in enumerate(held.tolist()):
                if not schedule[robot] or schedule[robot][-1][1] != task:
                    schedule[robot].append((step, task))
        write_errands(self.plan(), schedule, self._env.errands.problem, path)
