"""Follower's own guidance: every agent searches at every step, on costs of its own.

A. Skrynnik, A. Andreychuk, M. Nesterova, K. Yakovlev, A. Panov, "Learn to Follow: Decentralized Lifelong Multi-Agent
Pathfinding via Planning and Learning", AAAI 2024. Entering cell c costs agent i ``s(c) + d_i(c)``:

- ``s(c) = max avgdist / avgdist(c)``, the static cost (``fields.centrality``);
- ``d_i(c)``, the number of steps in which i saw another agent on c, at most ``SIGHT`` rows and columns away, since i
  was given its goal.

The path is the cheapest one by A*, with the cost to go on static costs alone as heuristic. The heuristic charges the
same cells as the path (all but the one the agent stands on), so it is consistent and no cell is expanded twice. (The
authors' program charges the present cell instead of the goal there, and may return a dearer path.)
Ties: of the open cells with equal estimates, that with the smaller heuristic goes first, then the smaller index.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from scenarios.lifelong_mapf.fields import BUCKETS, neighbour, open_moves_of, weighted_field
from scenarios.lifelong_mapf.guidance import (
    NONE,
    GridWorld,
    Guidance,
    Present,
    StaticCosts,
    agent_fields,
    best_neighbour,
    move_between,
    present,
    write_moves,
)

#: Agents within this many rows and columns are seen and counted: the paper's 11x11 window.
SIGHT = 5

#: Agents within this many rows and columns share a part of what each earns on its path.
NEAR = 2

#: Costs are whole multiples of 1 / UNITS, so that sums are exact and ties are real ones.
UNITS = 128


class FollowerGuidance(Guidance):
    """See the module. ``moves`` shows the heuristic, except that the planned move is always -1.

    fellows: the part of ``reached`` that is the mean over all agents at most ``NEAR`` rows and columns away, the agent
    itself among them, so that making way is paid as well. ``reached`` is then float32, from 0 to 1.
    Memory: 8 * B * N * cells bytes for private counts and heuristics.
    """

    def __init__(self, world: GridWorld, radius: int, fellows: float = 0.0):
        super().__init__(world, radius)
        self._fellows = fellows
        if fellows:
            self._reached = self._reached.astype(np.float32)
        copies, agents = world.position.shape
        cells = world.height * world.width
        self._exits = open_moves_of(world.blocked, world.height, world.width)
        self._static = StaticCosts(world, 1.0, UNITS)
        self._counts = agent_fields(world)
        self._field = agent_fields(world)
        self._planned = np.full((copies, agents), NONE, np.int32)
        self._occupied = np.zeros(cells, np.bool_)
        self._standing = np.full(cells, NONE, np.int32)
        self._heads = np.full(BUCKETS, NONE, np.int32)
        self._links = np.empty(cells, np.int32)
        self._search = Search(
            np.empty(cells, np.int32),
            np.empty(cells, np.int32),
            np.empty(cells, np.bool_),
            np.empty(4 * cells + 1, np.int64),
            np.empty(4 * cells + 1, np.int32),
        )

    def _state(self) -> dict[str, NDArray[Any]]:
        return {**super()._state(), "counts": self._counts, "field": self._field, "planned": self._planned}

    def _restart(self, restarted: NDArray[np.bool_]) -> None:
        self._planned[restarted] = NONE
        self._update(restarted)

    def _advance(self) -> None:
        if self._fellows:
            reached, self._reached = self._reached, np.zeros(self._reached.shape, np.float32)
            _share(present(self.world, self._exits), reached, self._fellows, self._standing, self._reached)
        self._update(np.ones(self.world.copies, np.bool_))

    def _update(self, copies: NDArray[np.bool_]) -> None:
        now = present(self.world, self._exits)
        static = self._static.of(now.maps)
        _take_goals(copies, now, static, self._planned, self._field, self._counts, self._heads, self._links)
        _count_seen(copies, now, self._occupied, self._counts)
        costs = (static, self._field, self._counts)
        _search_all(copies, now, *costs, self._search, self.radius, self._path, self._moves, self._subgoal)


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


@numba.njit(cache=True)
def _share(
    now: Present,
    reached: NDArray[np.float32],
    fellows: float,
    standing: NDArray[np.int32],
    shared: NDArray[np.float32],
) -> None:
    """Mix what each agent ``reached`` with the mean around it, as the class says.

    standing: scratch ``[cells]``, all ``NONE``. shared: zeros ``[B, N]``.
    """
    width = now.width
    height = standing.size // width
    for b in range(reached.shape[0]):
        for n in range(reached.shape[1]):
            if now.alive[b, n]:
                standing[now.position[b, n]] = n
        for n in range(reached.shape[1]):
            if not now.alive[b, n]:
                continue
            cell = now.position[b, n]
            row, column = cell // width, cell % width
            total = count = 0
            for r in range(max(row - NEAR, 0), min(row + NEAR + 1, height)):
                for c in range(max(column - NEAR, 0), min(column + NEAR + 1, width)):
                    other = standing[r * width + c]
                    if other != NONE:
                        total += reached[b, other]
                        count += 1
            shared[b, n] = (1.0 - fellows) * reached[b, n] + fellows * total / count
        for n in range(reached.shape[1]):
            if now.alive[b, n]:
                standing[now.position[b, n]] = NONE


@numba.njit(cache=True)
def _take_goals(
    copies: NDArray[np.bool_],
    now: Present,
    static: NDArray[np.int32],
    planned: NDArray[np.int32],
    field: NDArray[np.int32],
    counts: NDArray[np.int32],
    heads: NDArray[np.int32],
    links: NDArray[np.int32],
) -> None:
    """Agents with a new goal compute its field on static costs and forget whom they saw."""
    for b in range(planned.shape[0]):
        for n in range(planned.shape[1]):
            if copies[b] and now.alive[b, n] and planned[b, n] != now.goal[b, n]:
                planned[b, n] = now.goal[b, n]
                counts[b, n] = 0
                m = now.maps[b]
                weighted_field(now.exits[m], now.width, static[m], now.goal[b, n], field[b, n], heads, links)


@numba.njit(cache=True)
def _count_seen(
    copies: NDArray[np.bool_], now: Present, occupied: NDArray[np.bool_], counts: NDArray[np.int32]
) -> None:
    """Add 1 to an agent's count of every cell in its sight where another agent stands; ``occupied``: scratch, False."""
    width = now.width
    height = occupied.size // width
    for b in range(counts.shape[0]):
        if not copies[b]:
            continue
        for n in range(counts.shape[1]):
            if now.alive[b, n]:
                occupied[now.position[b, n]] = True
        for n in range(counts.shape[1]):
            if not now.alive[b, n]:
                continue
            own = now.position[b, n]
            row, column = own // width, own % width
            for r in range(max(row - SIGHT, 0), min(row + SIGHT + 1, height)):
                for c in range(max(column - SIGHT, 0), min(column + SIGHT + 1, width)):
                    counts[b, n, r * width + c] += np.int32(occupied[r * width + c])
            counts[b, n, own] -= 1
        for n in range(counts.shape[1]):
            if now.alive[b, n]:
                occupied[now.position[b, n]] = False


@numba.njit(cache=True)
def _search_all(
    copies: NDArray[np.bool_],
    now: Present,
    static: NDArray[np.int32],
    field: NDArray[np.int32],
    counts: NDArray[np.int32],
    search: Search,
    radius: int,
    path: NDArray[np.int16],
    moves: NDArray[np.float32],
    subgoal: NDArray[np.int32],
) -> None:
    """Search for every agent of ``copies``; write features and sub-goals."""
    width = now.width
    for b in range(subgoal.shape[0]):
        if not copies[b]:
            continue
        exits, price = now.exits[now.maps[b]], static[now.maps[b]]
        for n in range(subgoal.shape[1]):
            path[b, n] = 0
            if not now.alive[b, n]:
                moves[b, n] = 0.0
                subgoal[b, n] = NONE
                continue
            start, goal = now.position[b, n], now.goal[b, n]
            cheapest_path(exits, width, price, field[b, n], counts[b, n], start, goal, search)
            second = _trace(search, start, goal, width, radius, path[b, n, 0])
            subgoal[b, n] = second
            best = best_neighbour(exits, width, field[b, n], start)
            write_moves(exits, width, field[b, n], start, best, moves[b, n])
            if second != start:
                moves[b, n, move_between(start, second, width)] = -1.0


@numba.njit(cache=True)
def cheapest_path(
    exits: NDArray[np.uint8],
    width: int,
    static: NDArray[np.int32],
    field: NDArray[np.int32],
    counts: NDArray[np.int32],
    start: int,
    goal: int,
    search: Search,
) -> None:
    """A* from ``start`` to ``goal``, which can be reached: writes ``parent`` along the cheapest path and its ``cost``.

    static, field, counts: ``[cells]``, of one agent; ``field`` is ``weighted_field`` of the goal on ``static``.
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
        for move in range(1, 5):
            target = neighbour(exits, width, cell, move)
            if closed[target]:
                continue
            reached = cost[cell] + static[target] + UNITS * counts[target]
            if reached < cost[target]:
                cost[target] = reached
                parent[target] = cell
                heuristic = np.int64(field[target] - static[target] + static[goal])
                size = _push(keys, cells, size, ((reached + heuristic) << 31) | heuristic, target)


@numba.njit(cache=True, inline="always")
def _before(key: np.int64, cell: int, other_key: np.int64, other_cell: int) -> bool:
    return bool(key < other_key or (key == other_key and cell < other_cell))


@numba.njit(cache=True)
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


@numba.njit(cache=True)
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


@numba.njit(cache=True)
def _trace(search: Search, start: int, goal: int, width: int, radius: int, rows: NDArray[np.int16]) -> int:
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
