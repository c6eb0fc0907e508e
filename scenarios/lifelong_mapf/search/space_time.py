"""Space-time A*: the cheapest way of one agent through a window of steps that others have reserved in part.

D. Silver, "Cooperative Pathfinding", AIIDE 2005 (the reservation table and its window). A plan is a row of ``window``
+ 1 cells, where the agent is now and after each of the next steps. Plans of several agents agree if no two have one
cell at the same time and none exchange theirs.

**What is minimised is delay.** A move from u to v delays an agent by ``cost(u -> v) + field[v] - field[u]``, waiting by
the price of waiting: nothing along a cheapest path of its field, more the more the plan strays from it. The delay of a
plan plus the field's value at its start is what was spent in the window plus the distance-to-go at its end, so to
minimise either is the same; and delays are never negative, so that the search needs no other estimate: it expands the
least delayed state, the latest of equals.

``restart`` (lifelong): whoever reaches its goal gets another, which nobody knows yet; from there on a plan costs
nothing. Otherwise the agent has to be on its goal in the end: there waiting is free, and leaving is not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.guidance.base import NONE, move_between
from scenarios.lifelong_mapf.maps.fields import MOVES, Board, neighbour

#: Largest window, in steps: states of a search are numbered in 24 bits.
MAX_WINDOW = 64

#: No plan was found within the limit.
NO_PLAN = -1

_MOVE = 7
_ARRIVED = 8


class Search(NamedTuple):
    """Scratch of one search at a time.

    States are (arrived before or not, time, place); places are those within ``window`` steps of the start, numbered by
    row and column. delay, stamp: int32 ``[states]``, the least delay found of a state in search number ``stamp``.
    came: int8 ``[states]``, the move that leads there, and 8 if the state before had arrived already. cell: int32
    ``[states]``. heap: int64, the states to expand as (delay, steps left, state). tally: int64 ``[2]``, searches made
    and states expanded so far.
    """

    delay: NDArray[np.int32]
    stamp: NDArray[np.int32]
    came: NDArray[np.int8]
    cell: NDArray[np.int32]
    heap: NDArray[np.int64]
    tally: NDArray[np.int64]


def search_scratch(window: int) -> Search:
    """Scratch for windows of up to ``window`` steps."""
    states = 2 * (window + 1) * (2 * window + 1) ** 2
    return Search(
        np.empty(states, np.int32),
        np.zeros(states, np.int32),
        np.empty(states, np.int8),
        np.empty(states, np.int32),
        np.empty(len(MOVES) * states + 1, np.int64),
        np.zeros(2, np.int64),
    )


@njit(inline="always")
def _push(heap: NDArray[np.int64], size: int, key: np.int64) -> None:
    child = size
    while child > 0:
        parent = (child - 1) >> 1
        if heap[parent] <= key:
            break
        heap[child] = heap[parent]
        child = parent
    heap[child] = key


@njit(inline="always")
def _pop(heap: NDArray[np.int64], size: int) -> None:
    """Take the first of ``size`` keys away."""
    key = heap[size - 1]
    size -= 1
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[parent] = heap[child]
        parent = child
    heap[parent] = key


@njit
def find_plan(
    board: Board,
    cost: NDArray[np.int32],
    field: NDArray[np.int32],
    start: int,
    goal: int,
    restart: bool,
    table: NDArray[np.int16],
    limit: int,
    scratch: Search,
    plan: NDArray[np.int32],
) -> int:
    """Write the least delayed plan from ``start`` into ``plan`` (int32 ``[window + 1]``) and return its delay.

    cost: int32 ``[cells, 5]``, of waiting on a cell and of the four moves from it. field: int32 ``[cells]``.
    table: int16 ``[window + 1, cells]``, which other agent has a cell at a time, -1 for none.
    ``NO_PLAN`` if every plan is delayed by more than ``limit``, or there is none.
    """
    window = plan.size - 1
    side = 2 * window + 1
    layer = side * side
    half = (window + 1) * layer
    heap = scratch.heap
    scratch.tally[0] += 1
    search = np.int32(scratch.tally[0])
    state = window * side + window
    arrived = 1 if restart and start == goal else 0
    state += arrived * half
    scratch.delay[state] = 0
    scratch.stamp[state] = search
    scratch.cell[state] = start
    heap[0] = (np.int64(window) << 24) | state
    size = 1
    while size > 0:
        key = heap[0]
        _pop(heap, size)
        size -= 1
        state = int(key & 0xFFFFFF)
        delay = int(key >> 32)
        if delay > scratch.delay[state]:
            continue
        scratch.tally[1] += 1
        time = window - int((key >> 24) & 0xFF)
        if time == window:
            _trace(scratch, state, board.width, goal, side, layer, half, plan)
            return delay
        arrived = 1 if state >= half else 0
        cell = scratch.cell[state]
        here = field[cell]
        for move in range(5):
            target = cell if move == 0 else neighbour(board, cell, move)
            if move > 0 and target == cell:
                continue
            if table[time + 1, target] != NONE:
                continue
            other = table[time, target]
            if move > 0 and other != NONE and table[time + 1, cell] == other:
                continue
            total = delay
            if arrived == 0 and (move > 0 or restart or cell != goal):
                total += max(cost[cell, move] + field[target] - here, 0)
            if total > limit:
                continue
            now = 1 if (arrived == 1 or (restart and target == goal)) else 0
            place = state - arrived * half + layer
            if move == 1:
                place -= side
            elif move == 2:
                place += side
            elif move == 3:
                place -= 1
            elif move == 4:
                place += 1
            place += now * half
            if scratch.stamp[place] == search and scratch.delay[place] <= total:
                continue
            scratch.stamp[place] = search
            scratch.delay[place] = total
            scratch.cell[place] = target
            scratch.came[place] = move | (_ARRIVED if arrived == 1 else 0)
            _push(heap, size, (np.int64(total) << 32) | (np.int64(window - time - 1) << 24) | np.int64(place))
            size += 1
    return NO_PLAN


@njit
def _trace(
    scratch: Search, state: int, width: int, goal: int, side: int, layer: int, half: int, plan: NDArray[np.int32]
) -> None:
    """Write the plan that ends in ``state``."""
    for time in range(plan.size - 1, 0, -1):
        plan[time] = scratch.cell[state]
        came = scratch.came[state]
        move = came & _MOVE
        state = state % half - layer
        if move == 1:
            state += side
        elif move == 2:
            state -= side
        elif move == 3:
            state += 1
        elif move == 4:
            state -= 1
        if came & _ARRIVED:
            state += half
    plan[0] = scratch.cell[state]


@njit
def plan_delay(
    width: int,
    cost: NDArray[np.int32],
    field: NDArray[np.int32],
    goal: int,
    restart: bool,
    plan: NDArray[np.int32],
) -> int:
    """The delay of a plan."""
    total = 0
    for time in range(plan.size):
        cell = plan[time]
        if restart and cell == goal:
            break
        if time + 1 < plan.size:
            target = plan[time + 1]
            if target != cell or restart or cell != goal:
                move = move_between(cell, target, width)
                total += max(cost[cell, move] + field[target] - field[cell], 0)
    return total
