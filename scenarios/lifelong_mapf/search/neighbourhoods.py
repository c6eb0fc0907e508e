"""Large neighbourhood search on plans that agree: take a few agents' plans away, plan them anew, keep what is better.

J. Li et al., "Anytime multi-agent path finding via large neighborhood search", IJCAI 2021. Plans agree before and after
every iteration, so the search can stop at any time. All functions work on one copy; scratch comes from the caller.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from marl.seeding import below_numba, fold_numba
from scenarios.lifelong_mapf.guidance.base import NONE
from scenarios.lifelong_mapf.maps.fields import Board, neighbour
from scenarios.lifelong_mapf.search.space_time import NO_PLAN, Search, find_plan

#: What a random number of an iteration is for.
_SEED, _ORDER = 0, 64


class Ground(NamedTuple):
    """What plans of one copy are judged by; shapes as in ``find_plan``, with N agents.

    cost: int32 ``[cells, 5]``. field: int32 ``[N, cells]``. goal: int32 ``[N]``.
    alive: bool ``[N]``. restart: whether agents get another goal where they arrive. units: of costs and fields, a step.
    """

    board: Board
    cost: NDArray[np.int32]
    field: NDArray[np.int32]
    goal: NDArray[np.int32]
    alive: NDArray[np.bool_]
    restart: bool
    units: int


class Plans(NamedTuple):
    """The plans of one copy.

    plan: int32 ``[N, window + 1]``. delay: int32 ``[N]``. table: int16 ``[window + 1, cells]``, who has a cell when.
    fresh: int32 ``[N + 2]``, from ``[2]`` on the agents with a new goal; before, their number and how many were served.
    tried: int32 ``[N]``, how often in a row iterations that started from an agent were in vain, half for each step ago.
    """

    plan: NDArray[np.int32]
    delay: NDArray[np.int32]
    table: NDArray[np.int16]
    fresh: NDArray[np.int32]
    tried: NDArray[np.int32]


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


@njit
def reserve(table: NDArray[np.int16], plan: NDArray[np.int32], agent: int) -> None:
    for time in range(plan.size):
        table[time, plan[time]] = agent


@njit
def downhill(ground: Ground, field: NDArray[np.int32], cell: int) -> int:
    """The neighbour of ``cell`` on a cheapest path down the field; ``cell`` itself at its bottom."""
    best, least = cell, np.int32(2**31 - 1)
    for move in range(1, 5):
        target = neighbour(ground.board, cell, move)
        if field[target] < field[cell]:
            value = field[target] + ground.cost[cell, move]
            if value < least:
                best, least = target, value
    return best


class Choice(NamedTuple):
    """From whom an iteration starts: of ``draws`` agents the one with the highest score.

    weights: float64 ``[FEATURES]``, those of the score; empty: the score is the delay. features: scratch of that shape.
    """

    draws: int
    weights: NDArray[np.float64]
    features: NDArray[np.float64]


#: What a score weighs (``write_features``).
FEATURES = ("delay", "tried", "first", "waits", "distance", "arrives")

#: Distances count up to so many windows.
_FAR = 3.0


@njit
def write_features(agent: int, ground: Ground, plans: Plans, features: NDArray[np.float64]) -> None:
    """What is known of an agent before an iteration starts from it, into ``features`` (float64 ``[FEATURES]``).

    log(1 + its delay in steps); how often it was tried in vain; whether its next move is not the one it would make
    alone; the share of its steps that are waits; its distance in windows, up to 3; whether its plan arrives.
    """
    plan = plans.plan[agent]
    window = plan.size - 1
    features[0] = np.log1p(plans.delay[agent] / ground.units)
    features[1] = plans.tried[agent]
    features[2] = plan[1] != downhill(ground, ground.field[agent], plan[0])
    waits, arrives = 0, False
    for time in range(window):
        waits += plan[time] == plan[time + 1]
        arrives |= plan[time + 1] == ground.goal[agent]
    features[3] = waits / window
    features[4] = min(ground.field[agent, plan[0]] / (ground.units * window), _FAR)
    features[5] = arrives


@njit
def choose(drawn: np.int64, ground: Ground, plans: Plans, choice: Choice) -> int:
    """The agent that an iteration starts from, by random numbers of ``drawn``; ``NONE`` if none drawn is delayed."""
    agents = np.int64(plans.delay.size)
    best, highest = NONE, 0.0
    for draw in range(choice.draws):
        agent = int(below_numba(fold_numba(drawn, np.int64(_SEED + draw)), agents))
        if not ground.alive[agent] or plans.delay[agent] == 0:
            continue
        score = float(plans.delay[agent])
        if choice.weights.size:
            write_features(agent, ground, plans, choice.features)
            score = 0.0
            for i in range(choice.weights.size):
                score += choice.weights[i] * choice.features[i]
        if best == NONE or score > highest:
            best, highest = agent, score
    return best


@njit
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


@njit
def improve(
    key: np.int64,
    first: int,
    count: int,
    ground: Ground,
    plans: Plans,
    choice: Choice,
    group: Party,
    search: Search,
) -> None:
    """Iterations ``first`` to ``first + count - 1``; their random numbers are functions of (key, iteration).

    An iteration starts from an agent with a fresh goal while there are such, then from the best of some that are drawn.
    """
    plan, table, fresh = plans.plan, plans.table, plans.fresh
    members = group.members
    for iteration in range(first, first + count):
        drawn = fold_numba(key, np.int64(iteration))
        seed = NONE
        if fresh[1] < fresh[0]:
            seed = fresh[2 + fresh[1]]
            fresh[1] += 1
        else:
            seed = choose(drawn, ground, plans, choice)
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
                ground.board,
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
                plans.tried[agent] = 0
        else:
            plans.tried[seed] += 1
            for i in range(planned):
                for time in range(plan.shape[1]):
                    table[time, group.after[i, time]] = NONE
            for i in range(size):
                reserve(table, group.before[i], members[i])
