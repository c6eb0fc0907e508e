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

Three things beyond the paper, all off by default (``Habits``). Whoever is near shares what an agent earns on its path.
Agents forget: d_i falls by a share at every step, so that a crowd that has dissolved is no longer gone around. And they
keep to lanes (``lanes``): a move against its lane costs more the more agents per free cell i has seen around it, as
nobody tells it how many there are; that price is fixed when i is given its goal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.guidance.base import (
    NONE,
    GridWorld,
    Guidance,
    LaneCosts,
    Present,
    StaticCosts,
    agent_fields,
    present,
)
from scenarios.lifelong_mapf.guidance.lanes import LaneWeights
from scenarios.lifelong_mapf.guidance.shared import reverse
from scenarios.lifelong_mapf.maps.fields import (
    BUCKETS,
    MOVES,
    directed_field,
    neighbour,
    open_moves_of,
    weighted_field,
)

#: Agents within this many rows and columns are seen and counted: the paper's 11x11 window.
SIGHT = 5

#: Agents within this many rows and columns share a part of what each earns on its path.
NEAR = 2

#: Costs are whole multiples of 1 / UNITS, so that sums are exact and ties are real ones.
UNITS = 128

#: Crowds are whole multiples of 1 / CROWDS agents per free cell.
CROWDS = 256

#: Weight of the present step in what an agent thinks of how crowded it is.
_NEWS = np.float32(0.02)
_UNKNOWN = np.float32(-1.0)


class Habits(NamedTuple):
    """How followers differ from the paper's.

    fellows: the part of ``reached`` that is the mean over all agents at most ``NEAR`` rows and columns away, the agent
    itself among them, so that making way is paid as well. ``reached`` is then float32, from 0 to 1.
    forget: share of its counts that an agent forgets in a step.
    lane, open_lane: price in steps of a move against its lane, in corridors and on open ground, where there is one
    agent per free cell; in proportion where there are fewer.
    """

    fellows: float = 0.0
    forget: float = 0.0
    lane: float = 0.0
    open_lane: float = 0.0


PAPER = Habits()


class FollowerGuidance(Guidance):
    """See the module. ``moves`` shows the heuristic, except that the planned move is always -1.

    Memory: 8 * B * N * cells bytes for private counts and heuristics.
    """

    def __init__(self, world: GridWorld, radius: int, habits: Habits = PAPER):
        super().__init__(world, radius)
        self._habits = habits
        if habits.fellows:
            self._reached = self._reached.astype(np.float32)
        agents = world.position.shape
        cells = world.height * world.width
        self._exits = open_moves_of(world.blocked, world.height, world.width)
        self._static = StaticCosts(world, 1.0, UNITS)
        lanes = LaneWeights(habits.open_lane, habits.lane, habits.lane)
        self._lanes = LaneCosts(world, self._exits, lanes, UNITS, np.ones(len(self._exits)))
        self._room = _free_in_sight(world)
        self._private = Private(
            np.full(agents, NONE, np.int32),
            agent_fields(world),
            agent_fields(world),
            np.full(agents, _UNKNOWN, np.float32),
            np.zeros(agents, np.int32),
        )
        self._occupied = np.zeros(cells, np.bool_)
        self._standing = np.full(cells, NONE, np.int32)
        self._scratch = Scratch(
            np.full(BUCKETS, NONE, np.int32), np.empty(4 * cells, np.int32), np.zeros(4 * cells, np.int32)
        )
        self._search = Search(
            np.empty(cells, np.int32),
            np.empty(cells, np.int32),
            np.empty(cells, np.bool_),
            np.empty(4 * cells + 1, np.int64),
            np.empty(4 * cells + 1, np.int32),
        )

    def _state(self) -> dict[str, NDArray[Any]]:
        return {**super()._state(), **self._private._asdict()}

    def _restart(self, restarted: NDArray[np.bool_]) -> None:
        self._private.planned[restarted] = NONE
        self._private.crowd[restarted] = _UNKNOWN
        self._update(restarted)

    def _advance(self) -> None:
        fellows = self._habits.fellows
        if fellows:
            reached, self._reached = self._reached, np.zeros(self._reached.shape, np.float32)
            _share(present(self.world, self._exits), reached, fellows, self._standing, self._reached)
        self._update(np.ones(self.world.copies, np.bool_))

    def _update(self, copies: NDArray[np.bool_]) -> None:
        now = present(self.world, self._exits)
        guided = self._habits.lane > 0 or self._habits.open_lane > 0
        costs = Costs(self._static.of(now.maps), self._lanes.of(now.maps) if guided else self._lanes.none)
        new = self._private.planned != now.goal
        _look(copies, now, new, self._habits.forget, self._room, self._occupied, self._private)
        _take_goals(copies, now, new, costs, self._private, self._scratch)
        _search_all(
            copies, now, costs, self._private, self._search, self.radius, self._path, self._moves, self._subgoal
        )


def _free_in_sight(world: GridWorld) -> NDArray[np.int32]:
    """int32 ``[M, cells]``: free cells at most ``SIGHT`` rows and columns away from each cell, itself among them."""
    free = (world.blocked == 0).reshape(-1, world.height, world.width).astype(np.int32)
    padded = np.pad(free, ((0, 0), (SIGHT, SIGHT), (SIGHT, SIGHT)))
    side = 2 * SIGHT + 1
    rows = np.lib.stride_tricks.sliding_window_view(padded, side, axis=1).sum(-1)
    room = np.lib.stride_tricks.sliding_window_view(rows, side, axis=2).sum(-1)
    return np.ascontiguousarray(room.reshape(len(free), -1), np.int32)


class Costs(NamedTuple):
    """What all agents know of the maps, in 1 / ``UNITS`` steps.

    static: int32 ``[M, cells]``, of entering a cell. lanes: int32 ``[M, 4 * cells]``, of moves against their lane
    where there is one agent per free cell (``LaneCosts``); ``[M, 0]``: there are none.
    """

    static: NDArray[np.int32]
    lanes: NDArray[np.int32]


class Private(NamedTuple):
    """What each agent keeps to itself, ``[B, N, *]``.

    planned: int32, the goal that ``field`` leads to. field: int32 ``[cells]``, the cost to go without counts.
    seen: int32 ``[cells]``, the counts, in 1 / ``UNITS`` steps. crowd: float32, agents per free cell around it,
    averaged over time; ``_UNKNOWN`` at first. share: int32, the crowd in 1 / ``CROWDS`` when it was given its goal.
    """

    planned: NDArray[np.int32]
    field: NDArray[np.int32]
    seen: NDArray[np.int32]
    crowd: NDArray[np.float32]
    share: NDArray[np.int32]


class Scratch(NamedTuple):
    """Of one field. heads and links: see ``directed_field``. extra: int32 ``[4 * cells]``, one agent's lanes."""

    heads: NDArray[np.int32]
    links: NDArray[np.int32]
    extra: NDArray[np.int32]


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


@njit
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


@njit
def _look(
    copies: NDArray[np.bool_],
    now: Present,
    new: NDArray[np.bool_],
    forget: float,
    room: NDArray[np.int32],
    occupied: NDArray[np.bool_],
    private: Private,
) -> None:
    """Forget some of the counts, all where the goal is ``new``, and count who is seen now; bring ``crowd`` up to date.

    room: ``_free_in_sight``. occupied: scratch, False.
    """
    width = now.width
    height = occupied.size // width
    keep = np.float32(1.0 - forget)
    for b in range(new.shape[0]):
        if not copies[b]:
            continue
        for n in range(new.shape[1]):
            if now.alive[b, n]:
                occupied[now.position[b, n]] = True
        for n in range(new.shape[1]):
            if not now.alive[b, n]:
                continue
            counts = private.seen[b, n]
            if new[b, n]:
                counts[:] = 0
            elif forget > 0:
                for cell in range(counts.size):
                    counts[cell] = np.int32(keep * np.float32(counts[cell]))
            own = now.position[b, n]
            row, column = own // width, own % width
            seen = -1  # itself
            for r in range(max(row - SIGHT, 0), min(row + SIGHT + 1, height)):
                for c in range(max(column - SIGHT, 0), min(column + SIGHT + 1, width)):
                    here = np.int32(occupied[r * width + c])
                    counts[r * width + c] += UNITS * here
                    seen += here
            counts[own] -= UNITS
            crowd = np.float32(seen) / np.float32(room[now.maps[b], own])
            before = private.crowd[b, n]
            private.crowd[b, n] = crowd if before == _UNKNOWN else before + _NEWS * (crowd - before)
        for n in range(new.shape[1]):
            if now.alive[b, n]:
                occupied[now.position[b, n]] = False


@njit
def _take_goals(
    copies: NDArray[np.bool_], now: Present, new: NDArray[np.bool_], costs: Costs, private: Private, scratch: Scratch
) -> None:
    """Agents with a new goal settle what lanes are to cost and compute their fields."""
    width = now.width
    for b in range(new.shape[0]):
        m = now.maps[b]
        exits, static, lanes = now.exits[m], costs.static[m], costs.lanes[m]
        for n in range(new.shape[1]):
            if not (copies[b] and now.alive[b, n] and new[b, n]):
                continue
            goal, field = now.goal[b, n], private.field[b, n]
            private.planned[b, n] = goal
            if lanes.size == 0:
                weighted_field(exits, width, static, goal, field, scratch.heads, scratch.links)
                continue
            share = np.int32(np.rint(private.crowd[b, n] * CROWDS))
            private.share[b, n] = share
            for entry in range(lanes.size):
                scratch.extra[entry] = lanes[entry] * share // CROWDS
            directed_field(exits, width, static, scratch.extra, goal, field, scratch.heads, scratch.links)


@njit
def _search_all(
    copies: NDArray[np.bool_],
    now: Present,
    costs: Costs,
    private: Private,
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
        m = now.maps[b]
        exits, static, lanes = now.exits[m], costs.static[m], costs.lanes[m]
        for n in range(subgoal.shape[1]):
            path[b, n] = 0
            if not now.alive[b, n]:
                moves[b, n] = 0.0
                subgoal[b, n] = NONE
                continue
            start, goal = now.position[b, n], now.goal[b, n]
            field, counts, share = private.field[b, n], private.seen[b, n], private.share[b, n]
            cheapest_path(exits, width, static, lanes, share, field, counts, start, goal, search)
            second = _trace(search, start, goal, width, radius, path[b, n, 0])
            subgoal[b, n] = second
            _write_moves(exits, width, static, lanes, share, field, start, second, moves[b, n])


@njit(inline="always")
def _against_lane(
    static: NDArray[np.int32], lanes: NDArray[np.int32], share: int, cell: int, target: int, move: int
) -> int:
    """What the move from ``cell`` to its neighbour ``target`` costs beyond entering it; capped as in the fields."""
    if lanes.size == 0:
        return 0
    return min(lanes[4 * target + reverse(move) - 1] * share // CROWDS, BUCKETS - 1 - static[cell])


@njit
def _write_moves(
    exits: NDArray[np.uint8],
    width: int,
    static: NDArray[np.int32],
    lanes: NDArray[np.int32],
    share: int,
    field: NDArray[np.int32],
    cell: int,
    planned: int,
    moves: NDArray[np.float32],
) -> None:
    """The feature ``moves`` ``[5]`` of an agent on ``cell`` whose path goes on to ``planned``."""
    own = field[cell]
    least = own - 1
    for move in range(1, len(MOVES)):
        target = neighbour(exits, width, cell, move)
        if target != cell:
            value = field[target] + _against_lane(static, lanes, share, cell, target, move)
            moves[move] = np.float32(value - own)
            least = min(least, value)
    unit = np.float32(own - least)
    moves[0] = 0.0
    for move in range(1, len(MOVES)):
        target = neighbour(exits, width, cell, move)
        if target == cell:
            moves[move] = 1.0
        elif target == planned:
            moves[move] = -1.0
        else:
            moves[move] = min(moves[move] / unit, np.float32(1.0))


@njit
def cheapest_path(
    exits: NDArray[np.uint8],
    width: int,
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

    static, field, counts: ``[cells]``, lanes: ``[4 * cells]`` or ``[0]``, share: of one agent (``Costs``, ``Private``).
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
            target = neighbour(exits, width, cell, move)
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
