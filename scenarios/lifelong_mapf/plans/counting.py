"""How many tasks a plan finishes: recounted from its cells by the rules of the league's kit.

After each step, a robot that stands on the cell of its task has finished it. The next task is given then, so one on the
present cell counts after the next step at the earliest. Source: MAPF-Competition/Start-Kit, tags 2023-archive
(``CompetitionSystem``) and v2.1.2 (``TaskManager``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scenarios.lifelong_mapf.maps.lorr import Problem
from scenarios.lifelong_mapf.plans.plan import Plan


class Count(NamedTuple):
    """finished: tasks. stops: cells of errands that were visited in turn (without errands the same number).

    faults: what is wrong with a schedule of errands, a sentence each.
    """

    finished: int
    stops: int
    faults: tuple[str, ...] = ()


def count_sequences(plan: Plan, goals: Sequence[NDArray[np.int32]], width: int) -> Count:
    """Tasks of each robot in a given order, flat cells. Robots without one left go on without."""
    n = plan.n_agents
    table = np.full((n, max((row.size for row in goals), default=0) + 1), -1, np.int64)
    for robot, row in enumerate(goals):
        table[robot, : row.size] = row
    robots, done = np.arange(n), np.zeros(n, np.int64)
    for cells in _flat(plan, width):
        done += cells == table[robots, done]
    return Count(int(done.sum()), int(done.sum()))


def count_problem(plan: Plan, problem: Problem) -> Count:
    """The tasks of a problem, given out by its own rule; errands by the plan's schedule, which there must be."""
    if problem.errands:
        return _count_errands(plan, problem)
    n, total, stops = plan.n_agents, problem.n_tasks, problem.stops.astype(np.int64)
    robots, finished = np.arange(n), 0
    if problem.strategy == "greedy":
        task, following = robots.copy(), n
    else:
        task, following = robots.copy(), 0
    for cells in _flat(plan, problem.grid.width):
        known = np.ones(n, np.bool_) if problem.strategy == "roundrobin" else task < total
        there = np.flatnonzero(known & (cells == stops[task % total]))
        finished += there.size
        if problem.strategy == "greedy":
            task[there] = following + np.arange(there.size)
            following += there.size
        else:
            task[there] += n
    return Count(finished, finished)


def _flat(plan: Plan, width: int) -> NDArray[np.int64]:
    """Flat cells after each step, [T, N]; -1 outside of the columns of the map."""
    rows, columns = plan.cells[1:, :, 0].astype(np.int64), plan.cells[1:, :, 1].astype(np.int64)
    return np.where((columns >= 0) & (columns < width) & (rows >= 0), rows * width + columns, -1)


def _count_errands(plan: Plan, problem: Problem) -> Count:
    """Errands by the plan's own schedule, which is checked as the kit checks proposals."""
    assert plan.schedule is not None
    office = played_errands(plan, plan.schedule, problem)
    return Count(office.finished, len(office.events), tuple(office.faults))


def played_errands(plan: Plan, schedule: Sequence[Sequence[tuple[int, int]]], problem: Problem) -> Office:
    """The office after a plan with a schedule, of each robot (step, errand) pairs, was played to its end."""
    starts: dict[int, list[tuple[int, int]]] = {}
    for robot, changes in enumerate(schedule):
        for step, task in changes:
            starts.setdefault(step, []).append((robot, task))
    office = Office(problem)
    for step, cells in enumerate(_flat(plan, problem.grid.width), start=1):
        office.assign(step, starts.get(step, []))
        office.visit(step, cells)
    return office


class Office:
    """The kit's task manager: which errands are open, who works on which, and how far it is.

    events: (step, robot, errand, stops visited) of each stop. revealed: the step after which each errand was.
    """

    def __init__(self, problem: Problem):
        self._problem = problem
        self._first, self._cells = problem.first.tolist(), problem.stops.tolist()
        self._open: dict[int, int] = {}  # errand -> stops visited
        self.revealed: list[int] = []
        self._task = [-1] * problem.n_agents
        self.finished = 0
        self.events: list[tuple[int, int, int, int]] = []
        self.faults: list[str] = []
        self._reveal(0)

    def _reveal(self, step: int) -> None:
        while len(self._open) < self._problem.revealed:
            self._open[len(self.revealed)] = 0
            self.revealed.append(step)

    def assign(self, step: int, changes: Sequence[tuple[int, int]]) -> None:
        """Robots' new errands; all at once, as the kit checks them."""
        before = list(self._task)
        for robot, task in changes:
            self._task[robot] = task
        for robot, task in changes:
            place = f"step {step}: robot {robot}: errand {task}"
            if task != -1 and task not in self._open:
                self.faults.append(f"{place} is finished or not revealed yet")
                self._task[robot] = -1
            elif task != -1 and self._task.count(task) > 1:
                other = next(k for k, held in enumerate(self._task) if held == task and k != robot)
                self.faults.append(f"{place} is also that of robot {other}")
                self._task[robot] = -1
            if before[robot] not in (-1, task) and self._open.get(before[robot], 0) > 0:
                self.faults.append(f"{place} comes before errand {before[robot]}, which it has begun, is finished")

    def visit(self, step: int, cells: NDArray[np.int64]) -> None:
        """Count who stands on the next cell of its errand; close errands and reveal others."""
        here = cells.tolist()
        for robot, task in enumerate(self._task):
            if task == -1:
                continue
            base = task % self._problem.n_tasks
            stop = self._first[base] + self._open[task]
            if here[robot] == self._cells[stop]:
                self._open[task] += 1
                self.events.append((step, robot, task, self._open[task]))
                if stop + 1 == self._first[base + 1]:
                    del self._open[task]
                    self._task[robot] = -1
                    self.finished += 1
        self._reveal(step)
