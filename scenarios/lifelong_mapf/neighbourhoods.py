"""Large neighbourhood search on plans that agree: take a few agents' plans away, plan them anew, keep what is better.

J. Li et al., "Anytime multi-agent path finding via large neighborhood search", IJCAI 2021. Plans agree before and after
every iteration, so the search can stop at any time. All functions work on one copy; scratch comes from the caller.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from marl.seeding import below_numba, fold_numba
from scenarios.lifelong_mapf.fields import neighbour
from scenarios.lifelong_mapf.guidance import NONE
from scenarios.lifelong_mapf.space_time import NO_PLAN, Search, find_plan

#: Agents that are drawn for an iteration to start from the most delayed of them.
DRAWS = 4

#: What a random number of an iteration is for.
_SEED, _ORDER = 0, 64


class Ground(NamedTuple):
    """What plans of one copy are judged by; shapes as in ``find_plan``, with N agents.

    exits: uint8 ``[cells]``. width. cost: int32 ``[cells, 5]``. field: int32 ``[N, cells]``. goal: int32 ``[N]``.
    alive: bool ``[N]``. restart: whether agents get another goal where they arrive.
    """

    exits: NDArray[np.uint8]
    width: int
    cost: NDArray[np.int32]
    field: NDArray[np.int32]
    goal: NDArray[np.int32]
    alive: NDArray[np.bool_]
    restart: bool


class Plans(NamedTuple):
    """The plans of one copy.

    plan: int32 ``[N, window + 1]``. delay: int32 ``[N]``. table: int16 ``[window + 1, cells]``, who has a cell when.
    fresh: int32 ``[N + 2]``, from ``[2]`` on the agents with a new goal; before, their number and how many were served.
    """

    plan: NDArray[np.int32]
    delay: NDArray[np.int32]
    table: NDArray[np.int16]
    fresh: NDArray[np.int32]


class Party(NamedTuple):
    """Scratch of an iteration with up to K agents: members int32 ``[K]``, before and after int32 ``[K, window + 1]``,

    delay int32 ``[K]``, inside bool ``[N]``, all False between iterations.
    """

    members: NDArray[np.int32]
    before: NDArray[np.int32]
    after: NDArray[np.int32]
    delay: NDArray[np.int32]
    inside: NDArray[np.bool_]


def party(agents: int, neighbours: int, window: int) -> Party:
    """Scratch for neighbourhoods of up to ``neighbours`` agents."""
    return Party(
        np.empty(neighbours, np.int32),
        np.empty((neighbours, window + 1), np.int32),
        np.empty((neighbours, window + 1), np.int32),
        np.empty(neighbours, np.int32),
        np.zeros(agents, np.bool_),
    )


@numba.njit(cache=True)
def reserve(table: NDArray[np.int16], plan: NDArray[np.int32], agent: int) -> None:
    for time in range(plan.size):
        table[time, plan[time]] = agent


@numba.njit(cache=True)
def downhill(ground: Ground, field: NDArray[np.int32], cell: int) -> int:
    """The neighbour of ``cell`` on a cheapest path down the field; ``cell`` itself at its bottom."""
    best, least = cell, np.int32(2**31 - 1)
    for move in range(1, 5):
        target = neighbour(ground.exits, ground.width, cell, move)
        if field[target] < field[cell]:
            value = field[target] + ground.cost[cell, move]
            if value < least:
                best, least = target, value
    return best


@numba.njit(cache=True)
def gather(seed: int, ground: Ground, plans: Plans, group: Party) -> int:
    """Write ``seed`` and the agents in its way into ``group.members``, then those in theirs; returns their number.

    In an agent's way is who has a cell of its greedy path at the time it would be there, or would exchange places.
    """
    members, inside = group.members, group.inside
    window = plans.plan.shape[1] - 1
    members[0] = seed
    inside[seed] = True
    count = 1
    reader = 0
    while reader < count and count < members.size:
        agent = members[reader]
        reader += 1
        cell = plans.plan[agent, 0]
        field = ground.field[agent]
        for time in range(1, window + 1):
            target = downhill(ground, field, cell)
            for other in (plans.table[time, target], plans.table[time - 1, target]):
                in_the_way = other == plans.table[time, target] or other == plans.table[time, cell]
                if other != NONE and in_the_way and not inside[other] and count < members.size:
                    inside[other] = True
                    members[count] = other
                    count += 1
            if target == cell:
                break
            cell = target
    for i in range(count):
        inside[members[i]] = False
    return count


@numba.njit(cache=True)
def improve(key: np.int64, first: int, count: int, ground: Ground, plans: Plans, group: Party, search: Search) -> None:
    """Iterations ``first`` to ``first + count - 1``; their random numbers are functions of (key, iteration).

    An iteration starts from an agent with a fresh goal while there are such, then from the most delayed of ``DRAWS``.
    """
    plan, table, fresh = plans.plan, plans.table, plans.fresh
    agents = plan.shape[0]
    members = group.members
    for iteration in range(first, first + count):
        drawn = fold_numba(key, np.int64(iteration))
        seed = NONE
        if fresh[1] < fresh[0]:
            seed = fresh[2 + fresh[1]]
            fresh[1] += 1
        else:
            for draw in range(DRAWS):
                other = below_numba(fold_numba(drawn, np.int64(_SEED + draw)), np.int64(agents))
                if ground.alive[other] and (seed == NONE or plans.delay[other] > plans.delay[seed]):
                    seed = int(other)
        if seed == NONE or plans.delay[seed] == 0:
            continue
        size = gather(seed, ground, plans, group)
        for i in range(size - 1, 1, -1):
            j = 1 + below_numba(fold_numba(drawn, np.int64(_ORDER + i)), np.int64(i))
            members[i], members[j] = members[j], members[i]
        budget = -1
        for i in range(size):
            agent = members[i]
            budget += plans.delay[agent]
            for time in range(plan.shape[1]):
                cell = plan[agent, time]
                group.before[i, time] = cell
                table[time, cell] = NONE
        planned = 0
        while planned < size:
            agent = members[planned]
            delay = find_plan(
                ground.exits,
                ground.width,
                ground.cost,
                ground.field[agent],
                plan[agent, 0],
                ground.goal[agent],
                ground.restart,
                table,
                budget,
                search,
                group.after[planned],
            )
            if delay == NO_PLAN:
                break
            budget -= delay
            group.delay[planned] = delay
            reserve(table, group.after[planned], agent)
            planned += 1
        if planned == size:
            for i in range(size):
                agent = members[i]
                plan[agent] = group.after[i]
                plans.delay[agent] = group.delay[i]
        else:
            for i in range(planned):
                for time in range(plan.shape[1]):
                    table[time, group.after[i, time]] = NONE
            for i in range(size):
                reserve(table, group.before[i], members[i])
