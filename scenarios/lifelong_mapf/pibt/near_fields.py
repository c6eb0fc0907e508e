"""Distance fields for large maps: only around each agent's way, in tiles.

A field of the whole map for every agent takes 4 * N * cells bytes and a search of all cells for every goal: 2.6 GB and
most of the time with 10,000 agents on 256 x 256 cells. Here the search for a goal is A* from the goal towards the
agent, by the cost to go plus the distance in rows and columns to the agent; it ends when that sum is ``SLACK`` steps
above the agent's own cost to go and the cells around the agent are known.

Where every move costs one step, and with ``trust`` 0, every value found is the one that the whole field has, and an
agent that is pushed to where nothing is known searches again from there. With ``trust`` 1 the search expects an average
price of every step that is left, not the least: it looks at half as many cells for ways that are nearly as cheap, and
from where nothing is known the way leads back to the known cell.

Values are kept in tiles of 8 x 8 cells that agents take from a common stock and give back. The stock is as large as all
fields would be together, but memory that was never touched is none.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from marl.errors import UserError
from scenarios.lifelong_mapf.guidance.base import NONE, GridWorld, Present
from scenarios.lifelong_mapf.guidance.prices import Prices, fill_prices
from scenarios.lifelong_mapf.maps.fields import BUCKETS, MOVES, UNREACHED, Board, neighbour
from scenarios.lifelong_mapf.pibt.preferences import NO_WAY

#: Steps beyond the cheapest way up to which cells are known.
SLACK = 4

#: Of what an average cell costs beyond a step, how much an estimate counts on.
TRUST = 1.0

#: A tile has 1 << SIDE rows and columns.
SIDE = 3
_TILE = 1 << 2 * SIDE

#: An estimate grows by a price and a step at most, and both fit.
_SLOTS = 2 * BUCKETS


class NearFields(NamedTuple):
    """The fields of N agents in B copies of a grid.

    table: int32 ``[B, N, tiles]``, the tile of the stock that holds each part of the map, ``NONE`` where nothing is
    known. stock: int32 ``[S, 64]``, values, ``NONE`` for unknown ones. spare: int32 ``[S]``, tiles that were given
    back; tally: int32 ``[2]``, how many of them, and how many tiles were ever taken. across: tiles side by side.
    planned: int32 ``[B, N]``, the goals that the fields lead to. units: value of a step. slack: ``SLACK`` in units.
    trust: see ``near_fields``.
    """

    table: NDArray[np.int32]
    stock: NDArray[np.int32]
    spare: NDArray[np.int32]
    tally: NDArray[np.int32]
    across: int
    planned: NDArray[np.int32]
    units: int
    slack: int
    trust: float


class NearScratch(NamedTuple):
    """For one search at a time; int32 but for closed. value: ``[cells]``, all ``UNREACHED``; closed: bool ``[cells]``,
    all False; order ``[cells]``; heads ``[2048]``, all ``NONE``; links ``[4 * cells]``; cost ``[cells]``; extra
    ``[4 * cells]``, empty without directions.
    """

    value: NDArray[np.int32]
    closed: NDArray[np.bool_]
    order: NDArray[np.int32]
    heads: NDArray[np.int32]
    links: NDArray[np.int32]
    cost: NDArray[np.int32]
    extra: NDArray[np.int32]


def near_fields(world: GridWorld, units: int, slack: int = SLACK, trust: float = TRUST) -> NearFields:
    """Empty fields. ``UserError`` if the memory does not suffice.

    Args:
        trust: how much of what an average cell costs beyond a step the search counts on for the rest of the way.
    """
    copies, agents = world.position.shape
    down, across = (-(-side // (1 << SIDE)) for side in (world.height, world.width))
    size = copies * agents * down * across
    try:
        table = np.full((copies, agents, down * across), NONE, np.int32)
        stock, spare = np.empty((size, _TILE), np.int32), np.empty(size, np.int32)
    except MemoryError:
        raise UserError(
            f"distance fields of {copies} copies x {agents} agents x {world.height * world.width} cells do not fit "
            "into memory: use fewer copies or agents"
        ) from None
    planned = np.full((copies, agents), NONE, np.int32)
    return NearFields(table, stock, spare, np.zeros(2, np.int32), across, planned, units, slack * units, trust)


def no_fields() -> NearFields:
    """In the place of fields where there are none."""
    nothing = np.empty(0, np.int32)
    table, stock = np.empty((0, 0, 0), np.int32), np.empty((0, _TILE), np.int32)
    return NearFields(table, stock, nothing, nothing, 0, np.empty((0, 0), np.int32), 1, 0, 0.0)


def near_scratch(cells: int, directed: bool) -> NearScratch:
    """Scratch for searches on ``cells`` cells."""
    return NearScratch(
        np.full(cells, UNREACHED, np.int32),
        np.zeros(cells, np.bool_),
        np.empty(cells, np.int32),
        np.full(_SLOTS, NONE, np.int32),
        np.empty(4 * cells, np.int32),
        np.ones(cells, np.int32),
        np.empty(4 * cells if directed else 0, np.int32),
    )


@njit
def write_near_scores(
    copies: NDArray[np.bool_],
    now: Present,
    prices: Prices,
    fields: NearFields,
    scratch: NearScratch,
    scores: NDArray[np.int32],
) -> None:
    """Write the values at the cells that agents stand on and can go to, ``[B, N, 5]``, as ``write_field_scores`` does.

    Searches for the agents of ``copies`` (bool ``[B]``) that have a new goal or stand where a value is not known.
    """
    for b in range(scores.shape[0]):
        if not copies[b]:
            continue
        m = now.maps[b]
        board, priced, step = Board(now.exits[m], now.width), False, fields.units
        for n in range(scores.shape[1]):
            if not now.alive[b, n]:
                continue
            cell, goal = now.position[b, n], now.goal[b, n]
            row = scores[b, n]
            old = fields.planned[b, n] == goal
            if old and _read(fields, b, n, board, cell, row):
                continue
            if not priced and fields.units > 1:
                fill_prices(prices, m, b, scratch.cost, scratch.extra)
                step += int(fields.trust * (_average_cost(board.exits, scratch.cost) - fields.units))
                priced = True
            if old and fields.trust > 0 and fields.units > 1 and row[0] != UNREACHED:
                _extend(fields, b, n, board, prices.directed, cell, row, scratch)
                continue
            fields.planned[b, n] = goal
            settled = _search(board, prices.directed, step, fields.slack, goal, cell, scratch)
            _keep(fields, b, n, now.width, settled, scratch)
            _read(fields, b, n, board, cell, row)


@njit
def _average_cost(exits: NDArray[np.uint8], cost: NDArray[np.int32]) -> float:
    """What entering a free cell costs on average."""
    total, free = 0, 0
    for cell in range(cost.size):
        if exits[cell]:
            total += cost[cell]
            free += 1
    return total / max(free, 1)


@njit(inline="always")
def known_value(fields: NearFields, b: int, n: int, width: int, cell: int) -> int:
    """The value at a cell, ``NONE`` if it is not known."""
    row, column = cell // width, cell % width
    tile = fields.table[b, n, (row >> SIDE) * fields.across + (column >> SIDE)]
    if tile == NONE:
        return NONE
    return fields.stock[tile, ((row & ((1 << SIDE) - 1)) << SIDE) | (column & ((1 << SIDE) - 1))]


@njit
def _read(fields: NearFields, b: int, n: int, board: Board, cell: int, scores: NDArray[np.int32]) -> bool:
    """Write the five values, and whether all of them are known; ``UNREACHED`` for those that are not."""
    complete = True
    for move in range(5):
        target = cell if move == 0 else neighbour(board, cell, move)
        if move and target == cell:
            scores[move] = NO_WAY
            continue
        value = known_value(fields, b, n, board.width, target)
        if value == NONE:
            complete = False
            value = UNREACHED
        scores[move] = value
    return complete


@njit
def _extend(
    fields: NearFields,
    b: int,
    n: int,
    board: Board,
    directed: bool,
    cell: int,
    scores: NDArray[np.int32],
    scratch: NearScratch,
) -> None:
    """Let the unknown neighbours of a known cell lead back to it; ``scores`` as ``_read`` left them."""
    for move in range(1, 5):
        if scores[move] == UNREACHED:
            target = neighbour(board, cell, move)
            price = scratch.cost[target]
            if directed:
                price = min(price + scratch.extra[4 * cell + move - 1], BUCKETS - 1)
            scores[move] = scores[0] + price
            _put(fields, fields.table[b, n], board.width, target, scores[move])


@njit(inline="always")
def _put(fields: NearFields, table: NDArray[np.int32], width: int, cell: int, value: int) -> None:
    """Write a value into the agent's tile, a new one if need be; table: ``[tiles]``."""
    row, column = cell // width, cell % width
    place = (row >> SIDE) * fields.across + (column >> SIDE)
    tile = table[place]
    if tile == NONE:
        if fields.tally[0]:
            fields.tally[0] -= 1
            tile = fields.spare[fields.tally[0]]
        else:
            tile = fields.tally[1]
            fields.tally[1] += 1
        table[place] = tile
        fields.stock[tile] = NONE
    fields.stock[tile, ((row & ((1 << SIDE) - 1)) << SIDE) | (column & ((1 << SIDE) - 1))] = value


@njit
def _search(
    board: Board,
    directed: bool,
    step: int,
    slack: int,
    goal: int,
    start: int,
    scratch: NearScratch,
) -> int:
    """A* from ``goal`` towards ``start``; writes the cells with known values into ``order`` and returns their number.

    step: what a step is expected to cost, at least that of the cheapest cell.
    Their values are in ``scratch.value`` and they are ``closed``, until ``_keep`` cleans both.
    """
    value, closed, order, heads, links, cost, extra = scratch
    start_row, start_column = start // board.width, start % board.width
    missing = 1
    for move in range(1, 5):
        missing += neighbour(board, start, move) != start
    value[goal] = 0
    now = step * (abs(goal // board.width - start_row) + abs(goal % board.width - start_column))
    last: Any = np.int64(2**62)
    heads[now & (_SLOTS - 1)] = 4 * goal
    links[4 * goal] = NONE
    waiting, settled = 1, 0
    while waiting:
        slot = now & (_SLOTS - 1)
        entry = heads[slot]
        if entry == NONE:
            now += 1
            if now > last and missing <= 0:
                break
            continue
        heads[slot] = links[entry]
        waiting -= 1
        cell = entry >> 2
        if closed[cell]:
            continue
        closed[cell] = True
        order[settled] = cell
        settled += 1
        row = cell // board.width
        down, across = row - start_row, cell - row * board.width - start_column
        away = abs(down) + abs(across)
        if away <= 1:
            missing -= 1
            if away == 0:
                last = now + slack
        for move in range(1, 5):
            target = neighbour(board, cell, move)
            price: Any = cost[target]
            if directed:
                price = min(price + extra[4 * cell + move - 1], BUCKETS - 1)
            reached = value[cell] + price
            if reached < value[target]:
                value[target] = reached
                ahead = abs(down + MOVES[move][0]) + abs(across + MOVES[move][1])
                slot = max(reached + step * ahead, now) & (_SLOTS - 1)
                entry = 4 * target + move - 1
                links[entry] = heads[slot]
                heads[slot] = entry
                waiting += 1
    # What still waits has no final value.
    while waiting:
        slot = now & (_SLOTS - 1)
        entry = heads[slot]
        if entry == NONE:
            now += 1
            continue
        heads[slot] = links[entry]
        waiting -= 1
        if not closed[entry >> 2]:
            value[entry >> 2] = UNREACHED
    return settled


@njit
def _keep(fields: NearFields, b: int, n: int, width: int, settled: int, scratch: NearScratch) -> None:
    """Give back the agent's tiles and put the values of the search into new ones; cleans ``scratch.value``."""
    table, spare, tally = fields.table[b, n], fields.spare, fields.tally
    for place in range(table.size):
        if table[place] != NONE:
            spare[tally[0]] = table[place]
            tally[0] += 1
            table[place] = NONE
    for i in range(settled):
        cell = scratch.order[i]
        _put(fields, table, width, cell, scratch.value[cell])
        scratch.value[cell] = UNREACHED
        scratch.closed[cell] = False
