"""One copy's robots, step by step: prices in, joint actions out (``push``), whatever the state graph."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.chains.fields import Fields, FieldScratch, fields_of, make_field, outdated
from scenarios.lifelong_mapf.chains.graph import Operations, StateGraph
from scenarios.lifelong_mapf.chains.plans import Team, begin_step, end_step, team_of, write_operation_costs
from scenarios.lifelong_mapf.chains.push import chain_of, improve, settle
from scenarios.lifelong_mapf.guidance.base import NONE
from scenarios.lifelong_mapf.pibt.rule import sort_by_urgency

#: Whoever is older than ``_LATE`` times the 95th percentile of goals reached counts ``_HEAVY`` times in the search.
_LATE, _HEAVY = 2, 10

#: Goals that have to be reached before that percentile is trusted, and the largest age that is told apart.
_ENOUGH, _OLDEST = 50, 1 << 14

#: States of a field that may be known for nothing: smaller graphs are searched whole.
_SMALL = 1 << 13

#: Around a way on larger graphs, in steps: what fields know beyond the cheapest.
_SLACK = 40

#: States whose cost to go is made anew in a step because prices moved, besides the fields of new goals.
_REFRESHED = 20_000

#: Iterations between two looks at the clock.
_ROUND = 16


class Effort(NamedTuple):
    """How hard to try. iterations: of the search, per step; milliseconds: search for so long instead, unless None.

    push: robots that one operation may push at once. depth, nodes: robots and operations per chain. tries: failures of
    a robot in a chain. refresh: fields made anew per step, None: by the size of the graph. closer: steps of waiting
    that weigh as much as being a step nearer.
    """

    iterations: int = 300
    milliseconds: float | None = None
    push: int = 1
    depth: int = 12
    nodes: int = 3000
    tries: int = 1
    refresh: int | None = None
    closer: float = 0.3


class Planner:
    """Plans for N robots on ``graph`` by ``moves``.

    units: of costs, a step. stay: whether robots stay where they arrive. Call ``restart`` before the first step.
    """

    def __init__(
        self, graph: StateGraph, moves: Operations, robots: int, effort: Effort, units: int, stay: bool = False
    ):
        self.graph, self._moves, self._effort, self._units, self._stay = graph, moves, effort, units, stay
        self._team = team_of(graph, moves, robots)
        self._chain = chain_of(robots, effort.depth, effort.push, effort.nodes, effort.tries)
        self._fields, self._scratch = fields_of(graph, robots)
        self._age = np.zeros(robots, np.int32)
        self._reached = np.zeros(_OLDEST, np.int64)
        self._urgency = np.zeros(robots, np.int64)
        self._order = np.arange(robots, dtype=np.int32)
        large = graph.cell.size > _SMALL
        self._slack = _SLACK * units if large else 1 << 29
        asked = effort.refresh
        self._refresh = max(1, min(_REFRESHED // graph.cell.size, robots)) if asked is None else min(asked, robots)
        self._next = 0
        self._fresh = True

    @property
    def plans(self) -> NDArray[np.int32]:
        """int32 ``[N, L + 1]``: the states now and after each step, as last planned."""
        return self._team.plan

    @property
    def delays(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """What the plans cost beyond the best ways, in units, and how much each counts: int32 ``[N]`` both."""
        return self._team.spent, self._team.weight

    def restart(self) -> None:
        """Forget everything: a new episode begins."""
        self._team.goal[:] = NONE
        self._age[:] = 0
        self._reached[:] = 0
        self._order[:] = np.arange(self._order.size)
        self._next, self._fresh = 0, True

    def step(
        self,
        key: np.int64,
        state: NDArray[np.int32],
        goal: NDArray[np.int32],
        alive: NDArray[np.bool_],
        cost: NDArray[np.int32],
    ) -> NDArray[np.int64]:
        """The joint action at this moment, int64 ``[N]``.

        Args:
            key: all random numbers of this step are functions of it.
            state, goal: int32 ``[N]``, states and free cells of ``graph``.
            alive: bool ``[N]``; the others are not on the board.
            cost: int32 ``[S, A]``, of an action in a state, from ``units`` to ``BUCKETS`` - 1.
        """
        graph, moves, team, chain, effort = self.graph, self._moves, self._team, self._chain, self._effort
        _look(graph, state, goal, alive, self._age, self._reached, team)
        self._next = _renew(
            graph, cost, self._units, self._slack, self._refresh, self._next, self._fields, self._scratch, goal, team
        )
        write_operation_costs(graph, moves, cost, self._fields, team, self._stay)
        begin_step(graph, cost, self._fields, team, self._stay, self._fresh)
        self._fresh = False
        _rank(self._age, self._fields, self._units, effort.closer, team, self._urgency, self._order)
        settle(graph, moves, team, chain, self._order)
        if effort.milliseconds is None:
            improve(key, 0, effort.iterations, graph, moves, team, chain)
        else:
            until, first = time.perf_counter() + effort.milliseconds / 1e3, 0
            while time.perf_counter() < until:
                improve(key, first, _ROUND, graph, moves, team, chain)
                first += _ROUND
        actions = np.zeros(state.size, np.int64)
        fault = end_step(graph, team, actions)
        if fault != NONE:
            raise RuntimeError(f"chains: the plan of robot {fault} collides with another")
        return actions


@njit
def _look(
    graph: StateGraph,
    state: NDArray[np.int32],
    goal: NDArray[np.int32],
    alive: NDArray[np.bool_],
    age: NDArray[np.int32],
    reached: NDArray[np.int64],
    team: Team,
) -> None:
    """Take in where robots are; count the ages of goals reached, and weigh those who wait for long.

    Goals come later.
    """
    for n in range(state.size):
        if alive[n] and team.goal[n] != NONE and goal[n] != team.goal[n]:
            reached[min(age[n] + 1, reached.size - 1)] += 1
        home = graph.cell[state[n]] == goal[n]
        age[n] = 0 if goal[n] != team.goal[n] or home else age[n] + 1
        team.state[n], team.alive[n] = state[n], alive[n]
    late, total = reached.size, reached.sum()
    if total >= _ENOUGH:
        late, below = 0, np.int64(0)
        while 100 * below < 95 * total:
            below += reached[late]
            late += 1
        late *= _LATE
    for n in range(state.size):
        team.weight[n] = _HEAVY if age[n] > late else 1


@njit
def _renew(
    graph: StateGraph,
    cost: NDArray[np.int32],
    units: int,
    slack: int,
    refresh: int,
    turn: int,
    fields: Fields,
    scratch: FieldScratch,
    goal: NDArray[np.int32],
    team: Team,
) -> int:
    """Make the fields of new goals, of robots that left what theirs knows,

    and of ``refresh`` others whose turn it is.
    """
    robots = goal.size
    for n in range(robots):
        due = (n - turn) % robots < refresh
        if team.alive[n] and (due or goal[n] != team.goal[n] or outdated(fields, n, team.state[n])):
            make_field(graph, cost, units, n, team.state[n], goal[n], slack, fields, scratch)
        team.goal[n] = goal[n]
    return (turn + refresh) % robots


@njit
def _rank(
    age: NDArray[np.int32],
    fields: Fields,
    units: int,
    closer: float,
    team: Team,
    urgency: NDArray[np.int64],
    order: NDArray[np.int32],
) -> None:
    """Sort robots by their turn: the oldest goal first, near goals favoured."""
    for n in range(age.size):
        urgency[n] = np.int64(100) * age[n]
        if team.alive[n]:
            distance = np.int64(fields.value[n, team.state[n]]) + fields.offset[n]
            urgency[n] -= np.int64(100 * closer * distance / units)
    sort_by_urgency(urgency, order)
