"""One-way lanes: which way traffic should run on every row and column of a map, and what going against it costs.

Two streams that meet in a corridor one cell wide must back out; on open ground they weave. If neighbouring rows (and
columns) are walked in opposite directions, as lanes of a road, streams pass each other. A lane only costs those who go
against it: every way stays open.

A move is in a *corridor* where one of its two cells is walled in on both sides, else on *open* ground. Corridors on
rows (columns) take turns in their direction in the order of the rows (columns) that hold any, so that two parallel
corridors next to one another never agree, wherever they lie; open rows and columns take turns by number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scenarios.lifelong_mapf.maps.fields import MOVES, Board


class LaneWeights(NamedTuple):
    """Extra price, in steps, of a move against its lane: on open ground, in corridors on rows and on columns."""

    open: float
    rows: float
    columns: float


def lane_prices(board: Board, weights: LaneWeights) -> NDArray[np.float64]:
    """What the lanes of a map add to its moves, float64 ``[cells, 4]``, in steps.

    Entry (c, k - 1) is of the move INTO c from its neighbour at move k of ``MOVES``; 0 where that is blocked.
    """
    grid = board.exits.reshape(-1, board.width)
    prices = np.zeros((*grid.shape, 4))
    # A row of the transposed grid is a column of the grid, with up and down for left and right.
    for transposed, corridor_weight in ((False, weights.rows), (True, weights.columns)):
        ways = grid.T if transposed else grid
        forward, back = (2, 1) if transposed else (4, 3)
        sides = (3, 4) if transposed else (1, 2)
        walled_in = (ways != 0) & ~_open(ways, sides[0]) & ~_open(ways, sides[1])
        ahead = _open(ways, forward)
        pair = walled_in.copy()  # of a cell and the next one on its row
        pair[:, :-1] |= walled_in[:, 1:]
        pair &= ahead
        order = np.cumsum(pair.any(1)) - 1
        runs_forward = np.where(pair, (order % 2 == 0)[:, None], (np.arange(len(ways)) % 2 == 0)[:, None])
        weight = np.where(pair, corridor_weight, weights.open) * ahead
        # The move into the next cell is entered there as from ``back``, the move out of it here as from ``forward``.
        into_next = weight * ~runs_forward
        out_of_next = weight * runs_forward
        here = np.swapaxes(prices, 0, 1) if transposed else prices
        here[:, 1:, back - 1] = into_next[:, :-1]
        here[:, :, forward - 1] = out_of_next
    return prices.reshape(-1, len(MOVES) - 1)


def _open(ways: NDArray[np.uint8], move: int) -> NDArray[np.bool_]:
    return (ways >> (move - 1) & 1).astype(np.bool_)
