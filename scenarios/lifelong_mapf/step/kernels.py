"""The compiled step: joint moves, arrivals and goals of all copies, linear in the number of agents.

Scalar functions per copy on caller-provided scratch. ``reference`` is the same in plain torch, the oracle in tests and
the form that runs on a GPU; both give the same integers.

Joint moves are those of POGEMA 1.4.0. The agent that may enter a cell is the lowest index among those who want it and
are eligible; whoever stays blocks the winner of its own cell, which then stays too, and so on. These chains are
disjoint paths, so rotations of three and more agents and following come out right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from marl.seeding import Stream, below_numba, fold_numba
from scenarios.lifelong_mapf.maps.fields import Board, neighbour
from scenarios.lifelong_mapf.state import Goals, State

PRIORITY, SOFT, BLOCK_BOTH = 0, 1, 2
RESTART, NOTHING, FINISH = 0, 1, 2
N_ACTIONS = 5

# What the random numbers of an episode are for.
MAP, STARTS, GOALS, STEP = (int(Stream.WORLD) + stream for stream in range(4))

_NOBODY = np.int16(-1)


@njit
def draw_goal(goals: Goals, key: np.int64, map_index: int, cell: int, agent: int, k: int) -> int:
    """The k-th goal of an agent that stands on ``cell``: uniform over its component's other goal cells.

    ``key`` is that of the episode: when and by which way the agent came does not matter.
    """
    count = np.int64(goals.count[map_index, cell])
    rank = np.int64(goals.rank[map_index, cell])
    key = fold_numba(fold_numba(fold_numba(key, np.int64(GOALS)), np.int64(agent)), np.int64(k))
    if rank < 0:
        drawn = below_numba(key, count)
    else:
        drawn = below_numba(key, count - 1)
        if drawn >= rank:
            drawn += 1
    return goals.cells[map_index, goals.base[map_index, cell] + drawn]


@njit
def draw_distinct_goals(
    goals: Goals, keys: NDArray[np.int64], maps: NDArray[np.int32], start: NDArray[np.int32], drawn: NDArray[np.int32]
) -> None:
    """Write one goal for each agent into ``drawn``, no two alike and none the agent's own start, all within reach.

    For K episodes: keys int64 ``[K]``, of the episodes; maps int32 ``[K]``; start, drawn int32 ``[K, N]``. Agents draw
    in turn, uniformly from what is left of their component. Of each component at most as many agents may start as it
    has goal cells (``MapPool.draw_starts``).
    """
    cells_of_map = goals.cells.shape[1]
    cells, place = np.empty(cells_of_map, np.int32), np.empty(goals.base.shape[1], np.int32)
    taken, last = np.empty(cells_of_map, np.int32), np.empty(cells_of_map, np.int32)
    for e in range(start.shape[0]):
        m = maps[e]
        # The goal cells of a component: those already given come first. ``place`` finds a cell among them.
        cells[:] = goals.cells[m]
        place[:] = goals.rank[m]
        taken[:] = 0
        for n in range(start.shape[1]):
            here = start[e, n]
            base, count = goals.base[m, here], goals.count[m, here]
            first = taken[base]
            left = count - first
            if place[here] >= first:
                # Its own start is kept out of the draw, as the last of those that are left.
                _exchange(cells, place, base, place[here], count - 1)
                left -= 1
            if left:
                key = fold_numba(fold_numba(fold_numba(keys[e], np.int64(GOALS)), np.int64(n)), np.int64(0))
                _exchange(cells, place, base, first, first + below_numba(key, np.int64(left)))
                drawn[e, n] = cells[base + first]
            else:
                # Only its own start is left: whoever drew last takes that and gives its own goal for it.
                drawn[e, n] = drawn[e, last[base]]
                drawn[e, last[base]] = here
            taken[base] = first + 1
            last[base] = n


@njit
def _exchange(cells: NDArray[np.int32], place: NDArray[np.int32], base: int, one: int, other: int) -> None:
    """Let two cells of the component that begins at ``base`` change their places in it."""
    first, second = cells[base + one], cells[base + other]
    cells[base + one], cells[base + other] = second, first
    place[first], place[second] = other, one


@njit
def _resolve_priority(position: Any, target: Any, alive: Any, occupant: Any) -> None:
    """One agent after the other: a cell is free once its occupant has left it."""
    n = position.size
    for i in range(n):
        if target[i] != position[i]:
            if occupant[target[i]] == _NOBODY:
                occupant[position[i]] = _NOBODY
                occupant[target[i]] = i
            else:
                target[i] = position[i]
    for i in range(n):
        occupant[target[i]] = _NOBODY
    for i in range(n):
        if alive[i]:
            occupant[position[i]] = i


@njit
def _resolve_block_both(position: Any, target: Any, occupant: Any, winner: Any) -> None:
    """Only into a cell that is empty and that nobody else wants."""
    for i in range(position.size):
        cell = target[i]
        if cell == position[i]:
            continue
        if occupant[cell] != _NOBODY:
            target[i] = position[i]
        elif winner[cell] == _NOBODY:
            winner[cell] = i
        else:
            target[winner[cell]] = position[winner[cell]]
            target[i] = position[i]


@njit
def _resolve_soft(position: Any, target: Any, alive: Any, occupant: Any, winner: Any) -> None:
    """No exchange of places, one winner a cell, and whoever stays blocks those behind."""
    n = position.size
    for i in range(n):
        cell = target[i]
        if cell == position[i]:
            continue
        j = occupant[cell]
        if j != _NOBODY and target[j] == position[i]:
            target[j] = position[j]
            target[i] = position[i]
        elif winner[cell] == _NOBODY:
            winner[cell] = i
        else:
            target[i] = position[i]
    for i in range(n):
        if alive[i] and target[i] == position[i]:
            cell = position[i]
            follower = winner[cell]
            while follower != _NOBODY:
                winner[cell] = _NOBODY
                cell = position[follower]
                target[follower] = cell
                follower = winner[cell]


@njit
def _joint_move(
    collision: int,
    board: Board,
    position: Any,
    actions: Any,
    alive: Any,
    occupant: Any,
    winner: Any,
    wanted: Any,
    target: Any,
) -> int:
    """Where the agents of one copy go: fills ``wanted`` (the cell asked for, the own one if a wall) and ``target``.

    occupant, winner: int16 [H * W], all -1; on return ``occupant`` holds who stands where before the move, ``winner``
    is all -1 again. Returns the first living agent whose action is not 0 to 4, or -1.
    """
    n = position.size
    faulty = -1
    for i in range(n):
        cell = position[i]
        wanted[i] = cell
        if alive[i]:
            occupant[cell] = i
            action = actions[i]
            if action < 0 or action >= N_ACTIONS:
                if faulty < 0:
                    faulty = i
            elif action > 0:
                wanted[i] = neighbour(board, cell, action)
        target[i] = wanted[i]
    if collision == SOFT:
        _resolve_soft(position, target, alive, occupant, winner)
    elif collision == PRIORITY:
        _resolve_priority(position, target, alive, occupant)
    else:
        _resolve_block_both(position, target, occupant, winner)
    for i in range(n):
        winner[wanted[i]] = _NOBODY
    return faulty


@njit
def _take_stock(
    state: State, b: int, collision: int, position: Any, occupant: Any, arrived: Any, wanted: Any, target: Any
) -> None:
    """Note what the joint move of copy b brings: refused moves, collisions, and who will be missing from view.

    A collision is an agent more than one on a cell after the move, or a pair that exchanges places.
    arrived: int16 [H * W] scratch, all -1 on entry; the cells ``target`` are set on return.
    """
    refusals = collisions = 0
    for i in range(position.size):
        cell = target[i]
        refused = cell != wanted[i]
        refusals += refused
        state.refused[b, i] = refused
        hidden = False
        if state.alive[b, i]:
            collisions += arrived[cell] != _NOBODY
            arrived[cell] = i
            j = occupant[cell]
            if j > i:
                collisions += target[j] == position[i]
                # POGEMA redraws its agents plane in index order, clearing the old cell first: a later agent wipes out
                # the one that has just followed it.
                hidden = collision == SOFT and target[j] != cell
        state.hidden[b, i] = hidden
    state.refusals[b] += refusals
    state.collisions[b] += collisions


@njit
def step(
    state: State,
    goals: Goals,
    exits: Any,
    width: int,
    collision: int,
    on_target: int,
    actions: Any,
    reward: Any,
    occupant: Any,
    winner: Any,
    wanted: Any,
    target: Any,
) -> int:
    """Move all agents of all copies, pay arrivals and hand out new goals; everything but the ends of episodes.

    exits: uint8 [M, H * W] (``fields.open_moves``). actions: int64 [B, N].
    reward: float32 [B, N], written. occupant, winner: int16 [H * W] scratch, all -1 on entry and on return.
    wanted, target: int32 [N] scratch. Returns the first faulty action's b * N + i, or -1; it counts as a stay.
    """
    copies, n = state.position.shape
    faulty = -1
    for b in range(copies):
        m = state.map_index[b]
        position, alive = state.position[b], state.alive[b]
        goal, goals_done, age = state.goal[b], state.goals_done[b], state.age[b]
        last_off = state.last_off[b]
        bad = _joint_move(
            collision, Board(exits[m], width), position, actions[b], alive, occupant, winner, wanted, target
        )
        if bad >= 0 and faulty < 0:
            faulty = b * n + bad
        _take_stock(state, b, collision, position, occupant, winner, wanted, target)
        state.steps[b] += 1
        now = state.steps[b]
        for i in range(n):
            cell = target[i]
            occupant[position[i]] = _NOBODY
            winner[cell] = _NOBODY
            reward[b, i] = 0.0
            if not alive[i]:
                continue
            position[i] = cell
            age[i] += 1
            if cell != goal[i]:
                if on_target != RESTART:
                    last_off[i] = now
                continue
            k = goals_done[i] + 1
            if on_target != RESTART and k > max(goals.task_count[m, i], 1):
                age[i] = 0
                continue
            reward[b, i] = 1.0
            state.latency[b, age[i]] += 1
            goals_done[i] = k
            if k < goals.task_count[m, i]:
                goal[i] = goals.task[m, i, k]
                if on_target != RESTART:
                    last_off[i] = now
            elif on_target == RESTART:
                goal[i] = draw_goal(goals, state.key[b], m, cell, i, k)
            elif on_target == FINISH:
                alive[i] = False
            age[i] = 0
    return faulty


@njit
def step_keys(state: State, out: Any) -> None:
    """Write the key of each copy's present moment, a function of (seed, episode, step), into ``out`` int64 [B]."""
    for b in range(out.size):
        out[b] = fold_numba(fold_numba(state.key[b], np.int64(STEP)), np.int64(state.steps[b]))
