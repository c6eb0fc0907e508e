"""Push chains: a robot takes an operation, whoever is in its way has to take another, and so on.

Priority inheritance with backtracking (``pibt.rule``) over operations of several steps instead of single moves. E.
Yukhnevich, A. Andreychuk, "Enhancing PIBT via multi-action operations", arXiv 2511.09193 (the operations, their
inheritance, and the large neighbourhood search over them).

Chains take plans that agree (``plans``) to plans that agree, and what they cannot improve stays as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from marl.seeding import below_numba, fold_numba
from scenarios.lifelong_mapf.chains.graph import Operations, StateGraph
from scenarios.lifelong_mapf.chains.plans import KEY_BITS, NO_KEY, Team, occupy
from scenarios.lifelong_mapf.guidance.base import NONE

_NUMBER = (1 << KEY_BITS) - 1

#: How often a robot may fail to make way in one chain of ``settle`` before nobody pushes it any more: it might do in
#: other company, but it seldom does, and chains would grow without bound.
_FAILURES = 10

#: How many robots an iteration draws to find one that could do better.
_DRAWS = 8


class Chain(NamedTuple):
    """Scratch of one chain, and its limits.

    member: int32 ``[depth]``, its robots, those still to be placed last. choice, cursor, tail: int32 ``[depth]``, by
    level: the operation taken, how many were tried, and the members when it was reached. bound: int64 ``[depth]``, by
    how much the weighted costs change at least. met: int32 ``[push]``, who is in the way of one operation: at most so
    many are pushed at once. inside: bool ``[N]``, who is a member. locked: bool ``[N]``, whom nobody may push. placed:
    bool ``[N]``, who has its operation of this pass. failures, failed: int32 ``[N]``, how often a robot could not make
    way, and who could not in one chain. nodes: operations that a chain looks at, at most.
    """

    member: NDArray[np.int32]
    choice: NDArray[np.int32]
    cursor: NDArray[np.int32]
    tail: NDArray[np.int32]
    bound: NDArray[np.int64]
    met: NDArray[np.int32]
    inside: NDArray[np.bool_]
    locked: NDArray[np.bool_]
    placed: NDArray[np.bool_]
    failures: NDArray[np.int32]
    failed: NDArray[np.int32]
    nodes: int
    tries: int


def chain_of(robots: int, depth: int, push: int, nodes: int, tries: int) -> Chain:
    """Scratch for chains of up to ``depth`` robots."""
    return Chain(
        np.zeros(depth, np.int32),
        np.zeros(depth, np.int32),
        np.zeros(depth, np.int32),
        np.zeros(depth, np.int32),
        np.zeros(depth, np.int64),
        np.zeros(push, np.int32),
        np.zeros(robots, np.bool_),
        np.zeros(robots, np.bool_),
        np.zeros(robots, np.bool_),
        np.zeros(robots, np.int32),
        np.zeros(robots, np.int32),
        nodes,
        tries,
    )


@njit(inline="always")
def _take(moves: Operations, op: int, team: Team, cell: int, sign: int) -> None:
    """The same for an operation from ``cell``."""
    team.table[cell, 0] = sign
    for step in range(moves.cell.shape[1]):
        team.table[moves.cell[op, step], step + 1] = sign


@njit
def in_the_way(moves: Operations, op: int, cell: int, table: NDArray[np.int32], met: NDArray[np.int32]) -> int:
    """Write into ``met`` who has a cell of the operation from ``cell`` at its time, or would exchange cells.

    Returns how many they are; -1 if more than ``met`` has room for.
    """
    count = 0
    before = cell
    for step in range(moves.cell.shape[1]):
        after = moves.cell[op, step]
        other = table[after, step + 1]
        for look in range(2):
            if look == 1:
                other = table[after, step]
                if after == before or other == NONE or table[before, step + 1] != other:
                    break
            if other == NONE:
                continue
            known = False
            for i in range(count):
                known |= met[i] == other
            if not known:
                if count == met.size:
                    return -1
                met[count] = other
                count += 1
        before = after
    return count


@njit
def _key(moves: Operations, team: Team, robot: int, rank: int) -> int:
    """The key of the robot's operation of this rank; ``NO_KEY`` beyond the last."""
    if rank < team.known[robot]:
        return int(team.ranked[robot, rank])
    state = team.state[robot]
    count = moves.first[state + 1] - moves.first[state]
    if rank >= count:
        return int(NO_KEY)
    last, best = int(team.ranked[robot, rank - 1]), int(NO_KEY)
    keys = team.keys[robot]
    for k in range(count):
        key = int(keys[k])
        if key > last:
            best = min(best, key)
    team.ranked[robot, rank] = best
    team.known[robot] = rank + 1
    return best


@njit(inline="always")
def _gain(team: Team, robot: int) -> int:
    """The change of the robot's weighted cost if it took its best operation; not above 0 but for stale plans."""
    return int(team.weight[robot]) * (int(team.least[robot]) - int(team.spent[robot]))


@njit
def push_chain(
    graph: StateGraph, moves: Operations, team: Team, chain: Chain, first: int, better: bool, most: int
) -> bool:
    """Give robot ``first`` the best operation for which those in its way can take others; whether it got one.

    better: take nothing unless the sum of weighted costs falls; ``most`` is what the robots that one operation pushes
    can save at most. Otherwise all that were given operations are ``locked`` and ``placed``.
    """
    member = chain.member
    member[0], chain.cursor[0], chain.bound[0] = first, 0, _gain(team, first)
    chain.inside[first] = True
    occupy(graph, team.plan[first], team.table, first, NONE)
    length, level, nodes, failed = 1, 0, chain.nodes, 0
    while level >= 0:
        robot = member[level]
        chain.tail[level] = length
        cell = graph.cell[team.state[robot]]
        op, pushed, total, nodes = _next_operation(moves, team, chain, cell, level, length, better, most, nodes)
        if op != NONE:
            for i in range(pushed):
                other = chain.met[i]
                occupy(graph, team.plan[other], team.table, other, NONE)
                chain.inside[other] = True
                member[length + i] = other
            length += pushed
            _take(moves, op, team, cell, robot)
            chain.choice[level] = op
            level += 1
            if level == length:
                _commit(moves, team, chain, length, better)
                break
            chain.cursor[level], chain.bound[level] = 0, total
            continue
        # Backtracking: nothing suits this robot, so the one before has to take its next operation.
        if chain.failures[robot] == 0:
            chain.failed[failed] = robot
            failed += 1
        chain.failures[robot] += 1
        if chain.failures[robot] >= (chain.tries if better else _FAILURES):
            chain.locked[robot] = True
        level -= 1
        kept = 0
        if level >= 0:
            _take(moves, chain.choice[level], team, graph.cell[team.state[member[level]]], NONE)
            kept = chain.tail[level]
        for i in range(kept, length):
            other = member[i]
            occupy(graph, team.plan[other], team.table, other, other)
            chain.inside[other] = False
        length = kept
    for i in range(failed):
        other = chain.failed[i]
        chain.failures[other] = 0
        chain.locked[other] = not better and chain.placed[other]
    return level >= 0


@njit
def _next_operation(
    moves: Operations,
    team: Team,
    chain: Chain,
    cell: int,
    level: int,
    length: int,
    better: bool,
    most: int,
    nodes: int,
) -> tuple[int, int, int, int]:
    """The next operation that the member of this ``level``, on ``cell``, may take, ``NONE`` if there is none.

    Then how many it pushes (they are in ``met``), the change of weighted costs with it at least, and the nodes left.
    """
    robot = chain.member[level]
    first, weight, spent = int(moves.first[team.state[robot]]), int(team.weight[robot]), int(team.spent[robot])
    others = int(chain.bound[level]) - _gain(team, robot)
    while nodes > 0:
        key = _key(moves, team, robot, chain.cursor[level])
        total = others + weight * ((key >> KEY_BITS) - spent)
        # What follows is dearer, and cannot be made up for by those it pushes.
        if key == NO_KEY or (better and total >= most):
            break
        chain.cursor[level] += 1
        nodes -= 1
        op = first + (key & _NUMBER)
        pushed = in_the_way(moves, op, cell, team.table, chain.met)
        if pushed < 0 or length + pushed > chain.member.size:
            continue
        free = True
        for i in range(pushed):
            other = chain.met[i]
            total += _gain(team, other)
            free &= not (chain.inside[other] or chain.locked[other])
        if free and not (better and total >= 0):
            return op, pushed, total, nodes
    return NONE, 0, 0, nodes


@njit
def _commit(moves: Operations, team: Team, chain: Chain, length: int, better: bool) -> None:
    """Make plans of the operations taken."""
    for level in range(length):
        robot, op = chain.member[level], chain.choice[level]
        chain.inside[robot] = False
        for step in range(moves.state.shape[1]):
            team.plan[robot, step + 1] = moves.state[op, step]
        team.spent[robot] = team.keys[robot, op - moves.first[team.state[robot]]] >> KEY_BITS
        if not better:
            chain.locked[robot] = chain.placed[robot] = True


@njit
def settle(graph: StateGraph, moves: Operations, team: Team, chain: Chain, order: NDArray[np.int32]) -> None:
    """Let all robots choose in the ``order`` given (int32 ``[N]``): the rule that the search starts from."""
    chain.locked[:] = False
    chain.placed[:] = False
    chain.failures[:] = 0
    for rank in range(order.size):
        robot = order[rank]
        if team.alive[robot] and not chain.placed[robot]:
            push_chain(graph, moves, team, chain, robot, False, 0)
            chain.locked[robot] = chain.placed[robot] = True


@njit
def improve(
    key: np.int64, first: int, count: int, graph: StateGraph, moves: Operations, team: Team, chain: Chain
) -> None:
    """Iterations ``first`` to ``first + count - 1`` of the search, whose random numbers are functions of (key,
    iteration).

    Each starts a chain from a robot that is worse off than it could be, and keeps it if the weighted costs fall.
    """
    robots = np.int64(team.state.size)
    chain.locked[:] = False
    most = np.int64(0)
    for robot in range(robots):
        if team.alive[robot]:
            most = max(most, -chain.met.size * _gain(team, robot))
    for iteration in range(first, first + count):
        drawn = fold_numba(key, np.int64(iteration))
        for draw in range(_DRAWS):
            robot = int(below_numba(fold_numba(drawn, np.int64(draw)), robots))
            if team.alive[robot] and team.spent[robot] > team.least[robot]:
                push_chain(graph, moves, team, chain, robot, True, most)
                break
