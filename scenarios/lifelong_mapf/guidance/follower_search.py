"""The search of one follower (``follower``): A* on its own costs, and what is told of the path found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.guidance.prices import reverse
from scenarios.lifelong_mapf.maps.fields import BUCKETS, MOVES, Board, neighbour

#: Crowds are whole multiples of 1 / CROWDS agents per free cell.
CROWDS = 256


class Search(NamedTuple):
    """Scratch of one A* search.

    cost, parent: int32 ``[cells]``, of the best way found so far. closed: bool ``[cells]``, whose best way is final.
    keys, open: int64 and int32 ``[4 * cells + 1]``, the binary heap of open cells: estimates and cells.
    """

    cost: NDArray[np.int32]
    parent: NDArray[np.int32]
    closed: NDArray[np.bool_]
    keys: NDArray[np.int64]
    open: NDArray[np.int32]


@njit(inline="always")
def _against_lane(
    static: NDArray[np.int32], lanes: NDArray[np.int32], share: int, cell: int, target: int, move: int
) -> int:
    """What the move from ``cell`` to its neighbour ``target`` costs beyond entering it; capped as in the fields."""
    if lanes.size == 0:
        return 0
    return min(lanes[4 * target + reverse(move) - 1] * share // CROWDS, BUCKETS - 1 - static[cell])


@njit
def write_follower_moves(
    board: Board,
    static: NDArray[np.int32],
    lanes: NDArray[np.int32],
    share: int,
    field: NDArray[np.int32],
    cell: int,
    planned: int,
    moves: NDArray[np.float32],
) -> None:
    """The feature ``moves`` ``[5]`` of an agent on ``cell`` whose path goes on to ``planned``."""
    here = field[cell]
    least = here - 1
    for move in range(1, len(MOVES)):
        target = neighbour(board, cell, move)
        if target != cell:
            value = field[target] + _against_lane(static, lanes, share, cell, target, move)
            moves[move] = np.float32(value - here)
            least = min(least, value)
    unit = np.float32(here - least)
    moves[0] = 0.0
    for move in range(1, len(MOVES)):
        target = neighbour(board, cell, move)
        if target == cell:
            moves[move] = 1.0
        elif target == planned:
            moves[move] = -1.0
        else:
            moves[move] = min(moves[move] / unit, np.float32(1.0))


@njit
def cheapest_path(
    board: Board,
    static: NDArray[np.int32],
    lanes: NDArray[np.int32],
    share: int,
    field: NDArray[np.int32],
    counts: NDArray[np.int32],
    start: int,
    goal: int,
    search: Search,
) -> None:
    """A* from ``start`` to ``goal``, which can be reached: writes ``parent`` along the cheapest path and its ``cost``.

    Args:
        static, field, counts: ``[cells]``, lanes: ``[4 * cells]`` or ``[0]``, share: of one agent (``Costs``,
            ``Private``).

    A cell's heuristic is ``field[c] - static[c] + static[goal]``: the field counts the cell and leaves out the goal.
    """
    cost, parent, closed, keys, cells = search
    cost[:] = np.iinfo(np.int32).max
    closed[:] = False
    cost[start] = 0
    parent[start] = start
    size = _push(keys, cells, 0, np.int64(0), start)
    while size:
        cell = cells[0]
        size = _pop(keys, cells, size)
        if closed[cell]:
            continue
        closed[cell] = True
        if cell == goal:
            return
        for move in range(1, len(MOVES)):
            target = neighbour(board, cell, move)
            if closed[target]:
                continue
            price = static[target] + counts[target] + _against_lane(static, lanes, share, cell, target, move)
            reached = cost[cell] + price
            if reached < cost[target]:
                cost[target] = reached
                parent[target] = cell
                heuristic = np.int64(field[target] - static[target] + static[goal])
                size = _push(keys, cells, size, ((reached + heuristic) << 31) | heuristic, target)


@njit(inline="always")
def _before(key: np.int64, cell: int, other_key: np.int64, other_cell: int) -> bool:
    return bool(key < other_key or (key == other_key and cell < other_cell))


@njit
def _push(keys: NDArray[np.int64], cells: NDArray[np.int32], size: int, key: np.int64, cell: int) -> int:
    """Add an entry to the binary heap; returns its new size."""
    place = size
    while place > 0:
        above = (place - 1) // 2
        if not _before(key, cell, keys[above], cells[above]):
            break
        keys[place], cells[place] = keys[above], cells[above]
        place = above
    keys[place], cells[place] = key, cell
    return size + 1


@njit
def _pop(keys: NDArray[np.int64], cells: NDArray[np.int32], size: int) -> int:
    """Drop the first entry of the binary heap; returns its new size."""
    size -= 1
    key, cell = keys[size], cells[size]
    place = 0
    while 2 * place + 1 < size:
        below = 2 * place + 1
        if below + 1 < size and _before(keys[below + 1], cells[below + 1], keys[below], cells[below]):
            below += 1
        if not _before(keys[below], cells[below], key, cell):
            break
        keys[place], cells[place] = keys[below], cells[below]
        place = below
    keys[place], cells[place] = key, cell
    return size


@njit
def trace_path(search: Search, start: int, goal: int, width: int, radius: int, rows: NDArray[np.int16]) -> int:
    """Set the bits of the path until it leaves the window around ``start``; returns its second cell."""
    backwards = search.open
    length = 0
    cell = goal
    while cell != start:
        backwards[length] = cell
        length += 1
        cell = search.parent[cell]
    rows[radius] |= np.int16(1 << radius)
    for i in range(length - 1, -1, -1):
        row = backwards[i] // width - start // width + radius
        column = backwards[i] % width - start % width + radius
        if row < 0 or row > 2 * radius or column < 0 or column > 2 * radius:
            break
        rows[row] |= np.int16(1 << column)
    return backwards[length - 1] if length else start
