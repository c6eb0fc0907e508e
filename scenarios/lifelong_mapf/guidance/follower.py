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
    Present,
    agent_fields,
    present,
)
from scenarios.lifelong_mapf.guidance.costs import LaneCosts, StaticCosts
from scenarios.lifelong_mapf.guidance.follower_search import (
    CROWDS,
    Search,
    cheapest_path,
    trace_path,
    write_follower_moves,
)
from scenarios.lifelong_mapf.guidance.lanes import LaneWeights
from scenarios.lifelong_mapf.maps.fields import (
    BUCKETS,
    Board,
    directed_field,
    open_moves_of,
    weighted_field,
)

#: Agents within this many rows and columns are seen and counted: the paper's 11x11 window.
SIGHT = 5

#: Agents within this many rows and columns share a part of what each earns on its path.
NEAR = 2

#: Costs are whole multiples of 1 / UNITS, so that sums are exact and ties are real ones.
UNITS = 128

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
            cell = now.position[b, n]
            row, column = cell // width, cell % width
            seen: Any = -1  # itself
            for r in range(max(row - SIGHT, 0), min(row + SIGHT + 1, height)):
                for c in range(max(column - SIGHT, 0), min(column + SIGHT + 1, width)):
                    here = np.int32(occupied[r * width + c])
                    counts[r * width + c] += UNITS * here
                    seen += here
            counts[cell] -= UNITS
            crowd = np.float32(seen) / np.float32(room[now.maps[b], cell])
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
    for b in range(new.shape[0]):
        m = now.maps[b]
        board, static, lanes = Board(now.exits[m], now.width), costs.static[m], costs.lanes[m]
        for n in range(new.shape[1]):
            if not (copies[b] and now.alive[b, n] and new[b, n]):
                continue
            goal, field = now.goal[b, n], private.field[b, n]
            private.planned[b, n] = goal
            if lanes.size == 0:
                weighted_field(board, static, goal, field, scratch.heads, scratch.links)
                continue
            share = np.int32(np.rint(private.crowd[b, n] * CROWDS))
            private.share[b, n] = share
            for entry in range(lanes.size):
                scratch.extra[entry] = lanes[entry] * share // CROWDS
            directed_field(board, static, scratch.extra, goal, field, scratch.heads, scratch.links)


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
        board, static, lanes = Board(now.exits[m], now.width), costs.static[m], costs.lanes[m]
        for n in range(subgoal.shape[1]):
            path[b, n] = 0
            if not now.alive[b, n]:
                moves[b, n] = 0.0
                subgoal[b, n] = NONE
                continue
            start, goal = now.position[b, n], now.goal[b, n]
            field, counts, share = private.field[b, n], private.seen[b, n], private.share[b, n]
            cheapest_path(board, static, lanes, share, field, counts, start, goal, search)
            second = trace_path(search, start, goal, width, radius, path[b, n, 0])
            subgoal[b, n] = second
            write_follower_moves(board, static, lanes, share, field, start, second, moves[b, n])
