"""Costs to go of every robot, known around its way: A* back from the goal, by states.

Values are exact (for the prices of the moment) wherever a way over the state is at most ``slack`` dearer than the best
one; where they are not known, ``UNKNOWN`` says so, and whoever comes there has its field made anew. They are kept in 16
bits: of a robot that is farther away than that, less an ``offset``, until it has come nearer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.chains.graph import StateGraph
from scenarios.lifelong_mapf.maps.fields import BUCKETS, UNREACHED

#: Value of a state whose cost to go is not known.
UNKNOWN = 65535

#: A robot's own value is kept at most this large, and made anew below ``_RENEW`` if something was taken off.
_LARGEST, _RENEW = 40000, 20000

#: Buckets of the queue: a state's estimate is at most a price and a step more than that of the state it comes from.
_SLOTS = 2 * BUCKETS


class Fields(NamedTuple):
    """Costs to go of N robots in whole units. value: uint16 ``[N, S]``. offset: int32 ``[N]``, what was taken off."""

    value: NDArray[np.uint16]
    offset: NDArray[np.int32]


class FieldScratch(NamedTuple):
    """For one search at a time. value: int32 ``[S]``. heads: int32 ``[_SLOTS]``, all -1. links: int32 ``[E + 4]``."""

    value: NDArray[np.int32]
    heads: NDArray[np.int32]
    links: NDArray[np.int32]


def fields_of(graph: StateGraph, robots: int) -> tuple[Fields, FieldScratch]:
    """Room for the fields of ``robots``, and scratch."""
    states = graph.cell.size
    return (
        Fields(np.full((robots, states), UNKNOWN, np.uint16), np.zeros(robots, np.int32)),
        FieldScratch(
            np.empty(states, np.int32), np.full(_SLOTS, -1, np.int32), np.empty(graph.source.size + 4, np.int32)
        ),
    )


@njit(inline="always")
def outdated(fields: Fields, robot: int, state: int) -> bool:
    """Whether the field says nothing, or too little, about the state that the robot is in."""
    value = fields.value[robot, state]
    return value == UNKNOWN or (fields.offset[robot] > 0 and value < _RENEW)


@njit
def make_field(
    graph: StateGraph,
    cost: NDArray[np.int32],
    units: int,
    robot: int,
    state: int,
    goal: int,
    slack: int,
    fields: Fields,
    scratch: FieldScratch,
) -> None:
    """Write the field of ``robot``, which is in ``state``, to the free cell ``goal``.

    cost: int32 ``[S, A]``, of an action in a state, at least ``units`` and less than ``BUCKETS``. slack: in units.
    """
    value, heads, links = scratch
    value[:] = UNREACHED
    here = graph.cell[state]
    row, column = int(graph.row[here]), int(graph.column[here])
    edges = graph.source.size
    per_cell = graph.cell.size // graph.flat.size
    now = units * (abs(int(graph.row[goal]) - row) + abs(int(graph.column[goal]) - column))
    waiting, stop = 0, UNREACHED
    for i in range(per_cell):
        value[goal * per_cell + i] = 0
        links[edges + i] = heads[now & (_SLOTS - 1)]
        heads[now & (_SLOTS - 1)] = edges + i
        waiting += 1
    while waiting:
        entry = heads[now & (_SLOTS - 1)]
        if entry < 0:
            now += 1
            if now > stop:
                break
            continue
        heads[now & (_SLOTS - 1)] = links[entry]
        waiting -= 1
        settled = graph.source[entry] if entry < edges else goal * per_cell + entry - edges
        spent = value[settled]
        cell = graph.cell[settled]
        if spent + units * (abs(int(graph.row[cell]) - row) + abs(int(graph.column[cell]) - column)) != now:
            continue
        if settled == state:
            stop = now + slack
        for edge in range(graph.into[settled], graph.into[settled + 1]):
            before = graph.source[edge]
            reached = spent + cost[before, graph.action[edge]]
            if reached < value[before]:
                value[before] = reached
                cell = graph.cell[before]
                ahead = abs(int(graph.row[cell]) - row) + abs(int(graph.column[cell]) - column)
                slot = (reached + units * ahead) & (_SLOTS - 1)
                links[edge] = heads[slot]
                heads[slot] = edge
                waiting += 1
    if waiting:
        heads[:] = -1
    offset = max(value[state] - _LARGEST, 0) if value[state] < UNREACHED else 0
    fields.offset[robot] = offset
    kept = fields.value[robot]
    for s in range(value.size):
        spent = value[s]
        cell = graph.cell[s]
        ahead = units * (abs(int(graph.row[cell]) - row) + abs(int(graph.column[cell]) - column))
        known = spent < UNREACHED and spent + ahead <= stop and spent - offset < UNKNOWN
        kept[s] = max(spent - offset, 0) if known else UNKNOWN
