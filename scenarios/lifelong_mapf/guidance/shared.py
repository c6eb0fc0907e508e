"""The default guidance: prices that all agents share (``prices``), one distance field per goal.

An agent's field is computed when its goal changes, on the prices of that moment, and descended until it gets there,
with the extra price e of the present moment. Follower searches for every agent at every step on private counts; this
needs one search per goal.
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
    GuidanceConfig,
    Present,
    agent_fields,
    best_neighbour,
    move_between,
    present,
    write_moves,
)
from scenarios.lifelong_mapf.guidance.prices import Prices, SharedCosts, extra_price, fill_prices, reverse
from scenarios.lifelong_mapf.maps.fields import (
    BUCKETS,
    MOVES,
    Board,
    directed_field,
    neighbour,
    step_field,
    weighted_field,
)


class GoalFields(SharedCosts):
    """The distance field of every agent to its goal, on the shared costs.

    field: int32 ``[B, N, cells]`` (4 * B * N * cells bytes), in units of 1 / ``units`` steps: the cost of entering a
    cell (but for e) and walking on to the goal. planned: int32 ``[B, N]``, the goals that the fields lead to.
    """

    def __init__(self, world: GridWorld, config: GuidanceConfig):
        super().__init__(world, config)
        cells = world.height * world.width
        self.field = agent_fields(world)
        self.planned = np.full(world.position.shape, NONE, np.int32)
        edges = 4 * cells if self.weights.directed else 0
        self._scratch = _Scratch(
            np.empty(cells, np.int32),
            np.empty(edges, np.int32),
            np.full(BUCKETS, NONE, np.int32),
            np.empty(max(edges, cells), np.int32),
        )

    def restart(self, restarted: NDArray[np.bool_]) -> None:
        """Compute the fields of copies that began a new episode (bool ``[B]``)."""
        super().restart(restarted)
        self.planned[restarted] = NONE
        self._compute(restarted)

    def advance(self) -> None:
        """Take in the present positions and compute the fields of goals that are new."""
        super().advance()
        self._compute(np.ones(self._world.copies, np.bool_))

    def state(self) -> dict[str, NDArray[Any]]:
        return {**super().state(), "planned": self.planned, "field": self.field}

    def _compute(self, copies: NDArray[np.bool_]) -> None:
        now = present(self._world, self.exits)
        if self.weights.priced:
            _priced_fields(copies, now, self.prices(), self.planned, self.field, self._scratch)
        else:
            _step_fields(copies, now, self.planned, self.field, self._scratch.links)


class _Scratch(NamedTuple):
    """For one search at a time; see ``fields.directed_field``."""

    cost: NDArray[np.int32]
    extra: NDArray[np.int32]
    heads: NDArray[np.int32]
    links: NDArray[np.int32]


class SharedGuidance(Guidance):
    """Guidance by ``GoalFields``."""

    def __init__(self, world: GridWorld, config: GuidanceConfig, radius: int):
        super().__init__(world, radius)
        self._fields = GoalFields(world, config)

    @property
    def fields(self) -> GoalFields:
        """The fields that paths descend."""
        return self._fields

    def _state(self) -> dict[str, NDArray[Any]]:
        return {**super()._state(), **self._fields.state()}

    def _restart(self, restarted: NDArray[np.bool_]) -> None:
        self._fields.restart(restarted)
        self._look(restarted)

    def _advance(self) -> None:
        self._fields.advance()
        self._look(np.ones(self.world.copies, np.bool_))

    def _look(self, copies: NDArray[np.bool_]) -> None:
        now = present(self.world, self._fields.exits)
        fields = self._fields
        _look(copies, now, fields.prices(), fields.field, self.radius, self._path, self._moves, self._subgoal)


@njit
def _priced_fields(
    copies: NDArray[np.bool_],
    now: Present,
    prices: Prices,
    planned: NDArray[np.int32],
    field: NDArray[np.int32],
    scratch: _Scratch,
) -> None:
    """Compute the fields of agents whose goal is not the one last ``planned`` for."""
    cost, extra, heads, links = scratch
    for b in range(planned.shape[0]):
        if not copies[b]:
            continue
        priced = False
        for n in range(planned.shape[1]):
            goal = now.goal[b, n]
            if planned[b, n] == goal or not now.alive[b, n]:
                continue
            planned[b, n] = goal
            board = Board(now.exits[now.maps[b]], now.width)
            if not priced:
                fill_prices(prices, now.maps[b], b, cost, extra)
                priced = True
            if prices.directed:
                directed_field(board, cost, extra, goal, field[b, n], heads, links)
            else:
                weighted_field(board, cost, goal, field[b, n], heads, links)


@njit
def _step_fields(
    copies: NDArray[np.bool_],
    now: Present,
    planned: NDArray[np.int32],
    field: NDArray[np.int32],
    queue: NDArray[np.int32],
) -> None:
    """As ``_priced_fields`` where every move costs one step."""
    for b in range(planned.shape[0]):
        for n in range(planned.shape[1]):
            if copies[b] and now.alive[b, n] and planned[b, n] != now.goal[b, n]:
                planned[b, n] = now.goal[b, n]
                board = Board(now.exits[now.maps[b]], now.width)
                step_field(board, now.goal[b, n], field[b, n], queue)


@njit
def _look(
    copies: NDArray[np.bool_],
    now: Present,
    prices: Prices,
    field: NDArray[np.int32],
    radius: int,
    path: NDArray[np.int16],
    moves: NDArray[np.float32],
    subgoal: NDArray[np.int32],
) -> None:
    """Write features and sub-goals of all agents of ``copies``."""
    for b in range(subgoal.shape[0]):
        if not copies[b]:
            continue
        m = now.maps[b]
        board = Board(now.exits[m], now.width)
        for n in range(subgoal.shape[1]):
            path[b, n] = 0
            if now.alive[b, n]:
                cell = now.position[b, n]
                if prices.directed:
                    best = _best_directed(board, prices, m, b, field[b, n], cell)
                    _write_directed_moves(board, prices, m, b, field[b, n], cell, best, moves[b, n])
                else:
                    best = best_neighbour(board, field[b, n], cell)
                    write_moves(board, field[b, n], cell, best, moves[b, n])
                subgoal[b, n] = best
                _trace(board, prices, m, b, field[b, n], cell, best, radius, path[b, n, 0])
            else:
                moves[b, n] = 0.0
                subgoal[b, n] = NONE


@njit
def _best_directed(board: Board, prices: Prices, m: int, b: int, field: NDArray[np.int32], cell: int) -> int:
    """As ``best_neighbour``, with the extra prices of the moves; only neighbours with smaller values count.

    Prices have changed since the field was made. That values fall all the way is what keeps a path from going round.
    """
    best, value = cell, np.int32(2**31 - 1)
    for move in range(1, 5):
        target = neighbour(board, cell, move)
        if field[target] < field[cell]:
            price = field[target] + extra_price(prices, m, b, target, reverse(move))
            if price < value:
                best, value = target, price
    return best


@njit
def _write_directed_moves(
    board: Board,
    prices: Prices,
    m: int,
    b: int,
    field: NDArray[np.int32],
    cell: int,
    best: int,
    moves: NDArray[np.float32],
) -> None:
    """As ``write_moves``, with the extra prices of the moves."""
    here = field[cell]
    saved = 0
    if best != cell:
        saved = here - field[best] - extra_price(prices, m, b, best, reverse(move_between(cell, best, board.width)))
    unit = np.float32(max(saved, 1))
    moves[0] = 0.0
    for move in range(1, 5):
        target = neighbour(board, cell, move)
        if target == cell:
            moves[move] = 1.0
        elif target == best:
            moves[move] = -1.0
        else:
            change = np.float32(field[target] + extra_price(prices, m, b, target, reverse(move)) - here) / unit
            moves[move] = min(max(change, np.float32(-1.0)), np.float32(1.0))


@njit
def _trace(
    board: Board,
    prices: Prices,
    m: int,
    b: int,
    field: NDArray[np.int32],
    start: int,
    second: int,
    radius: int,
    rows: NDArray[np.int16],
) -> None:
    """Set the bits of ``start``, ``second`` and so on down ``field``, to its end or the border of the window."""
    rows[radius] |= np.int16(1 << radius)
    row, column = radius, radius
    cell, target = start, second
    while target != cell:
        move = move_between(cell, target, board.width)
        row += MOVES[move][0]
        column += MOVES[move][1]
        if row < 0 or row > 2 * radius or column < 0 or column > 2 * radius:
            return
        rows[row] |= np.int16(1 << column)
        cell = target
        if prices.directed:
            target = _best_directed(board, prices, m, b, field, cell)
        else:
            target = best_neighbour(board, field, cell)
