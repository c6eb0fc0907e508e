"""Every conflict of a plan, found from the cells alone: nothing here is shared with the world that made the plan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scenarios.lifelong_mapf.plans.plan import AHEAD, Plan


class Fault(NamedTuple):
    """What is wrong in the step that leads to moment ``step`` (0: at the start).

    kind: ``outside`` of the map, in a ``wall``, a ``jump`` of more than a cell, a drive ``sideways`` of the heading, a
        ``vertex conflict`` (two robots on a cell), an ``edge conflict`` (two exchange their places), another ``start``.
    cell: where the first robot then is.
    """

    step: int
    kind: str
    robots: tuple[int, ...]
    cell: tuple[int, int]

    def sentence(self) -> str:
        """Step, robots and kind."""
        who = f"robot{'s' * (len(self.robots) > 1)} {' and '.join(map(str, self.robots))}"
        return f"step {self.step}: {who}: {self.kind} at [{self.cell[0]}, {self.cell[1]}]"


def conflicts(plan: Plan, blocked: NDArray[np.bool_], starts: NDArray[np.int32] | None = None) -> list[Fault]:
    """All faults of a plan, by step.

    Args:
        plan: of N robots.
        blocked: bool [H, W], the walls.
        starts: flat cells int32 [N] on which the robots have to begin; None: they may begin anywhere.
    """
    faults = []
    height, width = blocked.shape
    for step in range(plan.steps + 1):
        rows, columns = plan.cells[step].T.astype(np.int64)
        outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
        inside = np.flatnonzero(~outside)
        cells = np.where(outside, -1, rows * width + columns)
        walled = inside[blocked[rows[inside], columns[inside]]]
        alone = [("outside", np.flatnonzero(outside)), ("wall", walled)]
        if step == 0 and starts is not None:
            alone.append(("another start", np.flatnonzero(cells != starts)))
        if step:
            alone += _moves(plan, step)
        faults += [Fault(step, kind, (int(i),), _at(plan, step, i)) for kind, robots in alone for i in robots]
        faults += [Fault(step, "vertex conflict", pair, _at(plan, step, pair[0])) for pair in _shared(cells, inside)]
        if step:
            pairs = _exchanged(plan.cells[step - 1], plan.cells[step])
            faults += [Fault(step, "edge conflict", pair, _at(plan, step, pair[0])) for pair in pairs]
    return faults


def _at(plan: Plan, step: int, robot: int | np.int64) -> tuple[int, int]:
    row, column = plan.cells[step, robot].tolist()
    return row, column


def _moves(plan: Plan, step: int) -> list[tuple[str, NDArray[np.int64]]]:
    """Robots that moved as none can: kind -> robots."""
    moved = plan.cells[step] - plan.cells[step - 1]
    far = np.abs(moved).sum(1) > 1
    found = [("jump", np.flatnonzero(far))]
    if plan.headings is not None:
        before, now = plan.headings[step - 1], plan.headings[step]
        drives = (moved != 0).any(1)
        wrong = drives & ~far & ((moved != AHEAD[before]).any(1) | (now != before))
        found.append(("sideways", np.flatnonzero(wrong)))
    return found


def _shared(cells: NDArray[np.int64], robots: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Each robot that stands on the cell of another, with the first that does."""
    order = robots[np.argsort(cells[robots], kind="stable")]
    again = np.flatnonzero(np.diff(cells[order]) == 0) + 1
    pairs = []
    for place in again.tolist():
        first = place
        while first and cells[order[first - 1]] == cells[order[place]]:
            first -= 1
        pairs.append((int(order[first]), int(order[place])))
    return sorted(pairs)


def _exchanged(before: NDArray[np.int32], after: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Pairs that changed places, each once, the lower number first."""
    moving = np.flatnonzero((before != after).any(1))
    to: dict[tuple[int, ...], int] = {}
    for robot in moving.tolist():
        to.setdefault((*before[robot].tolist(), *after[robot].tolist()), robot)
    pairs = set()
    for robot in moving.tolist():
        other = to.get((*after[robot].tolist(), *before[robot].tolist()))
        if other is not None:
            pairs.add((min(robot, other), max(robot, other)))
    return sorted(pairs)
