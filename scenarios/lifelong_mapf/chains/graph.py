"""The state graph: where a robot can be, and where each of its actions takes it, with and without a heading.

Everything else in this wing reads ``next``, ``cell`` and the lists made of them, so a heading is data and not code.
Free cells are numbered anew, without the walls: fields of thousands of robots are as long as the number of states.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.guidance.base import NONE
from scenarios.lifelong_mapf.maps.fields import MOVES
from scenarios.lifelong_mapf.maps.headings import AHEAD, FORWARD, LEFT, N_TURNING_ACTIONS, RIGHT, WAIT


class StateGraph(NamedTuple):
    """S states with A actions on C free cells of a grid.

    next: int32 ``[S, A]``, the state that an action leads to, ``NONE`` where it is not possible. cell: int32 ``[S]``,
    the free cell of a state. move: int8 ``[S, A]``, the move of ``MOVES`` that an action makes, 0 for waiting and
    turning. flat: int32 ``[C]``, the cell of the grid (row * width + column). row, column: int16 ``[C]``. number: int32
    ``[height * width]``, the free cell, ``NONE`` for walls. wait: the action that changes nothing. into: int32 ``[S +
    1]``, source: int32 ``[E]``, action: int8 ``[E]``: entries ``into[t]`` to ``into[t + 1] - 1`` are the states and
    actions that lead to state t from another.
    """

    next: NDArray[np.int32]
    cell: NDArray[np.int32]
    move: NDArray[np.int8]
    flat: NDArray[np.int32]
    row: NDArray[np.int16]
    column: NDArray[np.int16]
    number: NDArray[np.int32]
    wait: int
    into: NDArray[np.int32]
    source: NDArray[np.int32]
    action: NDArray[np.int8]


def grid_graph(blocked: NDArray[np.uint8], height: int, width: int, heading: bool = False) -> StateGraph:
    """The graph of a map.

    Args:
        blocked: ``[height * width]``, 1 for walls.
        height, width: of the grid.
        heading: robots turn before they drive: state 4 * c + h on free cell c with heading h, the actions of
            ``maps.headings``. Otherwise the states are the free cells, and the actions ``MOVES``.
    """
    flat = np.flatnonzero(blocked == 0).astype(np.int32)
    number = np.full(height * width, NONE, np.int32)
    number[flat] = np.arange(flat.size)
    row, column = np.divmod(flat, width)
    beside = np.full((flat.size, len(MOVES)), NONE, np.int32)
    for move, (down, right) in enumerate(MOVES):
        r, c = row + down, column + right
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        beside[inside, move] = number[r[inside] * width + c[inside]]
    if heading:
        following, cell, moves = _turning(beside)
    else:
        following, cell = beside, np.arange(flat.size, dtype=np.int32)
        moves = np.tile(np.arange(len(MOVES), dtype=np.int8), (flat.size, 1))
    states, actions = following.shape
    ends = following.reshape(-1)
    edges = np.flatnonzero((ends != NONE) & (ends != np.repeat(np.arange(states), actions)))
    edges = edges[np.argsort(ends[edges], kind="stable")]
    counts = np.bincount(ends[edges], minlength=states)
    return StateGraph(
        following,
        cell,
        moves,
        flat,
        row.astype(np.int16),
        column.astype(np.int16),
        number,
        WAIT if heading else 0,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        (edges // actions).astype(np.int32),
        (edges % actions).astype(np.int8),
    )


def _turning(beside: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int8]]:
    """next, cell and move of robots that turn, from the neighbours ``[C, 5]`` of free cells."""
    turns = len(AHEAD)
    cell, heading = np.divmod(np.arange(turns * len(beside), dtype=np.int32), turns)
    ahead = beside[cell, np.array(AHEAD)[heading]]
    following = np.empty((cell.size, N_TURNING_ACTIONS), np.int32)
    following[:, FORWARD] = np.where(ahead == NONE, NONE, turns * ahead + heading)
    following[:, RIGHT] = turns * cell + (heading + 1) % turns
    following[:, LEFT] = turns * cell + (heading + turns - 1) % turns
    following[:, WAIT] = turns * cell + heading
    move = np.zeros((cell.size, N_TURNING_ACTIONS), np.int8)
    move[:, FORWARD] = np.array(AHEAD)[heading]
    return following, cell, move


class Operations(NamedTuple):
    """What a robot can do in the next L steps: of equal cells and equal last states, one sequence of actions.

    first: int32 ``[S + 1]``: operations ``first[s]`` to ``first[s + 1] - 1`` begin in state s. state, cell: int32
    ``[operations, L]``, after each step. action: int8 ``[operations, L]``. most: the largest number from one state.
    """

    first: NDArray[np.int32]
    state: NDArray[np.int32]
    cell: NDArray[np.int32]
    action: NDArray[np.int8]
    most: int


def operations(graph: StateGraph, steps: int) -> Operations:
    """All operations of ``steps`` steps.

    Waiting comes last, so of two that differ in when to turn, the earlier turn.
    """
    states, actions = graph.next.shape
    order = np.array([*(a for a in range(actions) if a != graph.wait), graph.wait], np.int8)
    seen = np.zeros(len(AHEAD) * len(MOVES) ** steps, np.int32)
    first = np.zeros(states + 1, np.int32)
    nothing = np.empty((0, steps), np.int32)
    _enumerate(graph, steps, order, seen, first, nothing, np.empty((0, steps), np.int8))
    most = int(np.diff(first).max(initial=0))
    state, action = np.empty((first[-1], steps), np.int32), np.empty((first[-1], steps), np.int8)
    seen[:] = 0
    _enumerate(graph, steps, order, seen, first, state, action)
    return Operations(first, state, graph.cell[state], action, most)


@njit
def _enumerate(
    graph: StateGraph,
    steps: int,
    order: NDArray[np.int8],
    seen: NDArray[np.int32],
    first: NDArray[np.int32],
    state: NDArray[np.int32],
    action: NDArray[np.int8],
) -> None:
    """Count the operations into ``first``, and write them where ``state`` has room."""
    actions = order.size
    sequences = actions**steps
    count = 0
    for begin in range(graph.cell.size):
        first[begin] = count
        for code in range(sequences):
            rest, now, signature = code, begin, 0
            divisor = sequences
            for _ in range(steps):
                divisor //= actions
                chosen = order[rest // divisor]
                rest %= divisor
                signature = 5 * signature + graph.move[now, chosen]
                now = graph.next[now, chosen]
                if now == NONE:
                    break
            if now == NONE:
                continue
            # The moves say which cells; the last state is one of those of its cell.
            signature = 4 * signature + now % 4
            if seen[signature] == begin + 1:
                continue
            seen[signature] = begin + 1
            if state.shape[0]:
                rest, now, divisor = code, begin, sequences
                for step in range(steps):
                    divisor //= actions
                    chosen = order[rest // divisor]
                    rest %= divisor
                    now = graph.next[now, chosen]
                    state[count, step] = now
                    action[count, step] = chosen
            count += 1
    first[graph.cell.size] = count
