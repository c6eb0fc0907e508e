"""How much agents dislike each of their moves: the scores by which PIBT ranks them, in units of the fields.

Going from u to v: the field's value at v, the extra price e of the move at this moment (``guidance.prices``),
``contest_weight`` for each other agent that likes v best of its own moves, and ``head_on_weight`` where the agent on v
likes u best. Staying: the field's value at u and ``stay_weight``; it is worse than the best move by at least the price
of u, because the field counts the cell it is read at.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.guidance.base import NONE
from scenarios.lifelong_mapf.guidance.prices import Prices, extra_price, reverse
from scenarios.lifelong_mapf.guidance.vectors import Weights
from scenarios.lifelong_mapf.maps.fields import MOVES, Board, neighbour
from scenarios.lifelong_mapf.maps.headings import TURNS

#: The score of a move that leads nowhere.
NO_WAY = np.int32(2**31 - 1)

#: A step of waiting in an urgency, so that ``closer_first`` counts in hundredths.
_STEP = 100


class Scale(NamedTuple):
    """Weights in whole units of the fields. waited, closer: what a step of waiting and a unit of distance weigh."""

    stay: np.int32
    contest: np.int32
    head_on: np.int32
    waited: np.int64
    closer: np.int64


def scale_of(weights: Weights, units: int) -> Scale:
    """The scale of scores for fields in 1 / ``units`` steps."""

    def price(weight: float) -> np.int32:
        return np.int32(round(units * weight))

    return Scale(
        stay=price(weights.stay_weight),
        contest=price(weights.contest_weight),
        head_on=price(weights.head_on_weight),
        waited=np.int64(_STEP * units),
        closer=np.int64(round(_STEP * weights.closer_first)),
    )


@njit
def write_urgency(
    position: NDArray[np.int32],
    age: NDArray[np.int32],
    field: NDArray[np.int32],
    scale: Scale,
    urgency: NDArray[np.int64],
) -> None:
    """How much it matters to the agents of one copy to go first: steps since the goal was given, less the distance.

    Args:
        position, age, urgency: ``[N]``.
        field: ``[N, cells]``.
    """
    for n in range(position.size):
        urgency[n] = scale.waited * age[n]
        if scale.closer:
            urgency[n] -= scale.closer * np.int64(field[n, position[n]])


@njit
def write_field_scores(cell: int, board: Board, field: NDArray[np.int32], scores: NDArray[np.int32]) -> None:
    """The scores ``[5]`` of an agent on ``cell`` by its field alone."""
    scores[0] = field[cell]
    for move in range(1, len(MOVES)):
        target = neighbour(board, cell, move)
        scores[move] = field[target] if target != cell else NO_WAY


@njit
def add_turns(heading: NDArray[np.int8], alive: NDArray[np.bool_], units: int, scores: NDArray[np.int32]) -> None:
    """Add to the scores ``[N, 5]`` of robots that turn what turning costs before each move.

    Half a step for each quarter: enough that those who are undecided drive ahead, not so much that half a turn is worse
    than to wait, which costs as much as that. heading: ``[N]``; none of robots that do not turn. units: a step.
    """
    for n in range(heading.size):
        if alive[n]:
            for move in range(len(MOVES)):
                turns = TURNS[heading[n], move] if move else 2
                if scores[n, move] != NO_WAY:
                    scores[n, move] += turns * units // 2


@njit
def write_preferences(
    position: NDArray[np.int32],
    alive: NDArray[np.bool_],
    board: Board,
    field: NDArray[np.int32],
    prices: Prices,
    m: int,
    b: int,
    scale: Scale,
    here: NDArray[np.int32],
    wanted: NDArray[np.int32],
    scores: NDArray[np.int32],
) -> None:
    """Write the scores ``[N, 5]`` of the agents of copy b, which is on map m.

    Args:
        position, alive: ``[N]``.
        field: ``[N, cells]``.
        here: ``[cells]``, who stands where.
        wanted: ``[cells]``, scratch, 0 on entry and on return.
    """
    for n in range(position.size):
        if alive[n]:
            write_field_scores(position[n], board, field[n], scores[n])
    add_prices(position, alive, board, prices, m, b, scale, here, wanted, scores)


@njit
def add_prices(
    position: NDArray[np.int32],
    alive: NDArray[np.bool_],
    board: Board,
    prices: Prices,
    m: int,
    b: int,
    scale: Scale,
    here: NDArray[np.int32],
    wanted: NDArray[np.int32],
    scores: NDArray[np.int32],
) -> None:
    """Add to the values of fields in ``scores`` what else counts; arguments as ``write_preferences``."""
    for n in range(position.size):
        if alive[n]:
            scores[n, 0] += scale.stay
            if prices.directed:
                for move in range(1, len(MOVES)):
                    if scores[n, move] != NO_WAY:
                        target = neighbour(board, position[n], move)
                        scores[n, move] += extra_price(prices, m, b, target, reverse(move))
    if scale.contest or scale.head_on:
        _add_neighbours(position, alive, board, scale, here, wanted, scores)


@njit
def _add_neighbours(
    position: NDArray[np.int32],
    alive: NDArray[np.bool_],
    board: Board,
    scale: Scale,
    here: NDArray[np.int32],
    wanted: NDArray[np.int32],
    scores: NDArray[np.int32],
) -> None:
    """Add what other agents want to the scores of all."""
    agents = position.size
    favourite = np.empty(agents, np.int32)
    for n in range(agents):
        if alive[n]:
            best = 0
            for move in range(1, len(MOVES)):
                if scores[n, move] < scores[n, best]:
                    best = move
            favourite[n] = neighbour(board, position[n], best) if best else position[n]
            wanted[favourite[n]] += 1
    for n in range(agents):
        if not alive[n]:
            continue
        for move in range(len(MOVES)):
            if scores[n, move] == NO_WAY:
                continue
            target = neighbour(board, position[n], move) if move else position[n]
            others = wanted[target] - np.int32(favourite[n] == target)
            occupant = here[target]
            scores[n, move] += scale.contest * others
            if move and occupant != NONE and favourite[occupant] == position[n]:
                scores[n, move] += scale.head_on
    for n in range(agents):
        if alive[n]:
            wanted[favourite[n]] = 0
