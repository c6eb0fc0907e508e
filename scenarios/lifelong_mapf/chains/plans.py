"""The plans of a team for the next steps, and what its operations cost.

The plans of all robots agree at every moment (no two on one cell at one time, no two exchange cells), and every plan
ends by waiting. So plans that have lost their first step and wait one longer agree again: that is where each step
begins, whatever happens later.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.chains.fields import UNKNOWN, Fields
from scenarios.lifelong_mapf.chains.graph import Operations, StateGraph
from scenarios.lifelong_mapf.guidance.base import NONE

#: A key is the cost of an operation and, in its last bits, which of those from the robot's state it is.
KEY_BITS = 10
NO_KEY = np.int32(2**31 - 1)

#: Cost to go where it is not known: worse than every known one.
_FAR = 1 << 19


class Team(NamedTuple):
    """N robots of one copy, their plans for L steps, and what their operations cost.

    state: int32 ``[N]``. goal: int32 ``[N]``, free cells. alive: bool ``[N]``. plan: int32 ``[N, L + 1]``, states now
    and after each step. spent, least: int32 ``[N]``, what the plan and the best operation cost. weight: int32 ``[N]``,
    how much a robot's costs count. table: int32 ``[C, L + 1]``, who has a cell at a time, ``NONE`` for nobody. keys:
    int32 ``[N, most]``, of all operations; ranked: the same, the smallest in order, as many as ``known`` (int32
    ``[N]``) says: most robots never need more than a few.
    """

    state: NDArray[np.int32]
    goal: NDArray[np.int32]
    alive: NDArray[np.bool_]
    plan: NDArray[np.int32]
    spent: NDArray[np.int32]
    least: NDArray[np.int32]
    weight: NDArray[np.int32]
    table: NDArray[np.int32]
    keys: NDArray[np.int32]
    ranked: NDArray[np.int32]
    known: NDArray[np.int32]


def team_of(graph: StateGraph, moves: Operations, robots: int) -> Team:
    """Room for ``robots``; nobody is alive and no cell is reserved."""
    steps = moves.state.shape[1]
    ints = [np.zeros(robots, np.int32) for _ in range(6)]
    return Team(
        ints[0],
        ints[1],
        np.zeros(robots, np.bool_),
        np.zeros((robots, steps + 1), np.int32),
        ints[2],
        ints[3],
        ints[4],
        np.full((graph.flat.size, steps + 1), NONE, np.int32),
        np.empty((robots, moves.most), np.int32),
        np.empty((robots, moves.most), np.int32),
        ints[5],
    )


@njit
def write_operation_costs(
    graph: StateGraph, moves: Operations, cost: NDArray[np.int32], fields: Fields, team: Team, stay: bool
) -> None:
    """What every operation costs every robot: prices until the goal or the end, and the cost to go there, less that
    now.

    Args:
        cost: int32 ``[S, A]``.
        stay: robots stay where they arrive, and pay nothing there as long as they wait; otherwise they get another
            goal, which nobody knows yet.
    """
    steps = moves.state.shape[1]
    for n in range(team.state.size):
        if not team.alive[n]:
            continue
        begin, goal, value = team.state[n], team.goal[n], fields.value[n]
        now = np.int32(value[begin])
        first = moves.first[begin]
        smallest = NO_KEY
        for k in range(moves.first[begin + 1] - first):
            total, state, arrived = np.int32(0), begin, False
            for step in range(steps):
                action = moves.action[first + k, step]
                if not (stay and action == graph.wait and graph.cell[state] == goal):
                    total += cost[state, action]
                state = moves.state[first + k, step]
                if not stay and graph.cell[state] == goal:
                    arrived = True
                    break
            if not arrived:
                rest = np.int32(value[state])
                total += np.int32(_FAR) if rest == UNKNOWN else rest
            key = np.int32(((total - now) << KEY_BITS) | k)
            team.keys[n, k] = key
            smallest = min(smallest, key)
        team.ranked[n, 0] = smallest
        team.known[n] = 1
        team.least[n] = smallest >> KEY_BITS


@njit
def begin_step(
    graph: StateGraph,
    cost: NDArray[np.int32],
    fields: Fields,
    team: Team,
    stay: bool,
    fresh: bool,
) -> None:
    """Let every plan lose its first step and wait one longer, reserve it, and say what it costs.

    Args:
        fresh: make plans that wait instead. So it is, too, if a robot is not where its plan led.
    """
    plan = team.plan
    robots, length = plan.shape
    for n in range(robots):
        if team.alive[n] and plan[n, 1] != team.state[n]:
            fresh = True
    for n in range(robots):
        if not team.alive[n]:
            continue
        for time in range(length):
            if fresh:
                plan[n, time] = team.state[n]
            elif time + 1 < length:
                plan[n, time] = plan[n, time + 1]
        occupy(graph, plan[n], team.table, n, n)
        team.spent[n] = _plan_cost(graph, cost, fields.value[n], team.goal[n], stay, plan[n])


@njit
def _plan_cost(
    graph: StateGraph,
    cost: NDArray[np.int32],
    value: NDArray[np.uint16],
    goal: int,
    stay: bool,
    plan: NDArray[np.int32],
) -> int:
    """What a plan costs, as ``write_operation_costs`` says of operations."""
    total = -int(np.int32(value[plan[0]]))
    for step in range(plan.size - 1):
        here, there = plan[step], plan[step + 1]
        if not (stay and here == there and graph.cell[here] == goal):
            for action in range(graph.next.shape[1]):
                if graph.next[here, action] == there:
                    total += int(cost[here, action])
                    break
        if not stay and graph.cell[there] == goal:
            return total
    rest = int(np.int32(value[plan[-1]]))
    return total + (_FAR if rest == UNKNOWN else rest)


@njit(inline="always")
def occupy(graph: StateGraph, plan: NDArray[np.int32], table: NDArray[np.int32], robot: int, sign: int) -> None:
    """Write ``sign`` (the robot, or ``NONE`` to clear them) into the reservations of a plan."""
    for time in range(plan.size):
        table[graph.cell[plan[time]], time] = sign


@njit
def end_step(graph: StateGraph, team: Team, actions: NDArray[np.int64]) -> int:
    """Write the first action of every plan into ``actions`` (int64 ``[N]``) and clear the reservations.

    Returns a robot whose plan does not agree with another's, or ``NONE``.
    """
    table, plan = team.table, team.plan
    robots, length = plan.shape
    fault = NONE
    for n in range(robots):
        actions[n] = graph.wait
        if not team.alive[n]:
            continue
        for time in range(length):
            cell = graph.cell[plan[n, time]]
            if table[cell, time] != n:
                fault = n
            if time + 1 < length:
                ahead = graph.cell[plan[n, time + 1]]
                other = table[ahead, time]
                if ahead != cell and other != NONE and table[cell, time + 1] == other:
                    fault = n
        for action in range(graph.next.shape[1]):
            if graph.next[plan[n, 0], action] == plan[n, 1]:
                actions[n] = action
                break
    for n in range(robots):
        if team.alive[n]:
            occupy(graph, plan[n], table, n, NONE)
    return fault
