"""``Errands``: tasks that are lists of cells, revealed a few at a time, and given to robots by a scheduler.

The rules are those of the League of Robot Runners 2024 (MAPF-Competition/Start-Kit v2.1.2, ``TaskManager``): as many
errands are open as the problem reveals; a robot visits the stops of its errand in order; after each step at most one
stop counts, the one where the robot then stands; a finished errand makes room for the next one. The step underneath
knows only goals: the next stop of each robot's errand.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.errors import UserError
from marl.plugins import is_reference, load_reference
from scenarios.lifelong_mapf.maps.fields import Board, open_moves, step_field
from scenarios.lifelong_mapf.maps.lorr import Problem

#: Distances on larger maps are rows plus columns.
_EXACT_CELLS = 1 << 14

_NOBODY = -1


class Desk(NamedTuple):
    """What a scheduler sees of one copy: K robots without an errand, S open errands without a robot, oldest first.

    free: int64 [K], the robots. position: int32 [N]. heading: int8 [N]. errand: int64 [S], the numbers of errands.
    steps: int32 [S, N], from where each robot stands to the first stop. length: int32 [S], from the first stop over the
    others to the last. Both are steps on shortest ways, without turns.
    """

    free: NDArray[np.int64]
    position: NDArray[np.int32]
    heading: NDArray[np.int8]
    errand: NDArray[np.int64]
    steps: NDArray[np.int32]
    length: NDArray[np.int32]


class Scheduler(Protocol):
    """Gives errands to robots."""

    def __call__(self, desk: Desk) -> NDArray[np.int64]:
        """int64 [K]: for each robot of ``desk.free`` the place of its errand in ``desk.errand``, no two alike."""


def nearest(desk: Desk) -> NDArray[np.int64]:
    """The robot and the errand that are done soonest together go first (of equals the older errand), and so on."""
    cost = (desk.steps[:, desk.free] + desk.length[:, None]).astype(np.float64)
    chosen = np.full(desk.free.size, _NOBODY, np.int64)
    for _ in range(desk.free.size):
        place, robot = np.unravel_index(int(cost.argmin()), cost.shape)
        chosen[robot] = place
        cost[place], cost[:, robot] = np.inf, np.inf
    return chosen


def oldest(desk: Desk) -> NDArray[np.int64]:
    """Errands in the order of their numbers, robots in the order of theirs."""
    return np.arange(desk.free.size)


_RULES: dict[str, Scheduler] = {"nearest": nearest, "oldest": oldest}


def scheduler_of(name: str) -> Scheduler:
    """A rule by its name, or the scheduler that ``module:object`` is. Raises ``UserError``."""
    if is_reference(name):
        found = load_reference(name, object)
        if not callable(found):
            raise UserError(f"scheduler={name} is not a function of a desk (scenarios.lifelong_mapf.step.errands.Desk)")
        return cast(Scheduler, found)
    if name not in _RULES:
        raise UserError(f"scheduler '{name}' does not exist, use {', '.join(_RULES)} or module:object")
    return _RULES[name]


class Errands:
    """The open errands of all copies of a world: P = ``problem.revealed`` places, tensors on the CPU.

    task: int64 [B, P], the errand in a place. visited: int32 [B, P], its stops so far. robot: int32 [B, P], who has it.
    place: int32 [B, N], each robot's. given, done: int64 [B], errands revealed and finished in the episode.
    """

    def __init__(self, problem: Problem, scheduler: str, copies: int):
        n = problem.n_agents
        places = n if problem.strategy == "greedy" and not problem.errands else problem.revealed
        if places < n:
            raise UserError(
                f"{problem.source} reveals {places} tasks for {n} robots, which leaves some without: raise it"
            )
        check_reach(problem)
        self.problem, self._scheduler = problem, scheduler_of(scheduler)
        self._board = Board(
            open_moves(problem.grid.blocked.astype(np.uint8), problem.grid.height, problem.grid.width),
            problem.grid.width,
        )
        self._fields: dict[int, NDArray[np.int32]] = {}
        self._lengths: dict[int, int] = {}
        self.task = torch.zeros(copies, places, dtype=torch.int64)
        self.visited = torch.zeros(copies, places, dtype=torch.int32)
        self.robot = torch.full((copies, places), _NOBODY, dtype=torch.int32)
        self.place = torch.full((copies, n), _NOBODY, dtype=torch.int32)
        self.given = torch.zeros(copies, dtype=torch.int64)
        self.done = torch.zeros(copies, dtype=torch.int64)

    @property
    def held(self) -> Tensor:
        """int64 [B, N]: the number of each robot's errand."""
        return self.task.gather(1, self.place.long())

    def state(self) -> dict[str, Tensor]:
        """Everything that changes, for snapshots: the tensors themselves."""
        names = ("task", "visited", "robot", "place", "given", "done")
        return {f"errands/{name}": getattr(self, name) for name in names}

    def begin(self, copies: Tensor, position: Tensor, heading: Tensor, goal: Tensor) -> None:
        """New episodes of ``copies`` (int64 [K]): reveal errands, give them out, and write the first stops as goals."""
        for b in copies.tolist():
            self.given[b] = self.done[b] = 0
            self.robot[b], self.place[b] = _NOBODY, _NOBODY
            self._reveal(b, np.arange(self.task.shape[1]))
            self._give(b, position, heading, goal)

    def advance(self, reached: Tensor, position: Tensor, heading: Tensor, goal: Tensor) -> Tensor:
        """After a step in which ``reached`` (bool [B, N]) came to their stops: who finished an errand, float32 [B, N].

        Goals become the next stops.
        """
        finished = torch.zeros(reached.shape)
        first = self.problem.first
        for b, robot in reached.nonzero().tolist():
            place = int(self.place[b, robot])
            self.visited[b, place] += 1
            errand = int(self.task[b, place]) % self.problem.n_tasks
            if self.visited[b, place] == first[errand + 1] - first[errand]:
                finished[b, robot] = 1.0
                self.done[b] += 1
                self.robot[b, place] = self.place[b, robot] = _NOBODY
                self.visited[b, place] = _NOBODY
            else:
                goal[b, robot] = self._stop(b, place)
        for b in torch.unique(finished.nonzero()[:, 0]).tolist():
            self._reveal(b, np.flatnonzero(self.visited[b].numpy() == _NOBODY))
            self._give(b, position, heading, goal)
        return finished

    def _reveal(self, b: int, places: NDArray[np.int64]) -> None:
        problem, first = self.problem, int(self.given[b])
        if problem.strategy == "greedy" and not problem.errands and first + places.size > problem.n_tasks:
            raise UserError(
                f"{problem.source}: all of its {problem.n_tasks} tasks are given out: use a shorter horizon"
            )
        self.task[b, torch.from_numpy(places)] = torch.arange(first, first + places.size)
        self.visited[b, torch.from_numpy(places)] = 0
        self.given[b] += places.size

    def _give(self, b: int, position: Tensor, heading: Tensor, goal: Tensor) -> None:
        """Let the scheduler give open errands to the robots that have none."""
        free = np.flatnonzero(self.place[b].numpy() == _NOBODY)
        waiting = np.flatnonzero(self.robot[b].numpy() == _NOBODY)
        waiting = waiting[np.argsort(self.task[b].numpy()[waiting], kind="stable")]
        numbers = self.task[b].numpy()[waiting]
        cells = position[b].numpy()
        steps = np.stack([self._steps(self._stop(b, place), cells) for place in waiting.tolist()])
        length = np.array([self._length(int(number) % self.problem.n_tasks) for number in numbers], np.int32)
        chosen = np.asarray(self._scheduler(Desk(free, cells, heading[b].numpy(), numbers, steps, length)))
        wrong = chosen.shape != free.shape or chosen.min() < 0 or chosen.max() >= waiting.size
        if wrong or np.unique(chosen).size < chosen.size:
            raise UserError(
                f"the scheduler gave {chosen.tolist()[:8]} to {free.size} robots: name a place of its own for each"
            )
        for robot, place in zip(free.tolist(), waiting[chosen].tolist(), strict=True):
            self.place[b, robot], self.robot[b, place] = place, robot
            goal[b, robot] = self._stop(b, place)

    def _stop(self, b: int, place: int) -> int:
        """The next cell of the errand in a place."""
        problem = self.problem
        errand = int(self.task[b, place]) % problem.n_tasks
        return int(problem.stops[problem.first[errand] + int(self.visited[b, place])])

    def _steps(self, stop: int, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """Steps from each of ``cells`` to a stop."""
        width = self.problem.grid.width
        if self._board.exits.size > _EXACT_CELLS:
            rows = np.abs(cells // width - stop // width)
            return (rows + np.abs(cells % width - stop % width)).astype(np.int32)
        if stop not in self._fields:
            field, queue = np.empty((2, self._board.exits.size), np.int32)
            step_field(self._board, stop, field, queue)
            self._fields[stop] = field
        return self._fields[stop][cells]

    def _length(self, errand: int) -> int:
        if errand not in self._lengths:
            stops = self.problem.stops[self.problem.first[errand] : self.problem.first[errand + 1]]
            legs = itertools.pairwise(stops.tolist())
            self._lengths[errand] = sum(int(self._steps(to, np.array([at]))[0]) for at, to in legs)
        return self._lengths[errand]


def check_reach(problem: Problem) -> None:
    """``UserError`` if a robot and a stop lie in different parts of the map."""
    component = problem.grid.component.reshape(-1)
    home = component[problem.starts[0]]
    stops, robots = (np.flatnonzero(component[cells] != home) for cells in (problem.stops, problem.starts))
    if stops.size:
        task = int(np.searchsorted(problem.first, stops[0], side="right")) - 1
        raise UserError(
            f"{problem.source}: task {task} cannot be reached from the start of robot 0: use a map in one part"
        )
    if robots.size:
        raise UserError(f"{problem.source}: robot {robots[0]} cannot reach the tasks: use a map in one part")
