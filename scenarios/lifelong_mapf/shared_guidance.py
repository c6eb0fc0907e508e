"""The default guidance: costs from moving averages that all agents share, one distance field per goal.

Entering cell c costs ``1 + static_weight * (max avgdist / avgdist(c) - 1) + occupancy_weight * ema(c)``, where ``avgdist``
is the mean distance to all other cells (central cells cost most) and ``ema(c)`` the moving average of "an agent stands on
c". An agent's field is computed when its goal changes, on the costs of that moment, and descended until it gets there.
Compared with Follower, which searches for every agent at every step on private counts, this needs one search per goal.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from scenarios.lifelong_mapf.fields import BUCKETS, weighted_field
from scenarios.lifelong_mapf.guidance import (
    NONE,
    GridWorld,
    Guidance,
    GuidanceConfig,
    best_neighbour,
    centrality_of_maps,
    write_moves,
)

#: Costs are whole multiples of 1 / UNITS, so that fields are integers.
UNITS = 16


class SharedGuidance(Guidance):
    """See the module. Memory: 4 * B * N * cells bytes for the fields and 4 * B * cells for the moving averages."""

    def __init__(self, world: GridWorld, config: GuidanceConfig, radius: int):
        super().__init__(world, radius)
        copies, agents = world.position.shape
        cells = world.height * world.width
        static = 1.0 + config.static_weight * (centrality_of_maps(world) - 1.0)
        self._static = (UNITS * static).astype(np.float32)
        self._occupancy_cost = np.float32(UNITS * config.occupancy_weight)
        self._decay = np.float32(config.decay)
        self._occupancy = np.zeros((copies, cells), np.float32)
        self.field = np.zeros((copies, agents, cells), np.int32)
        self._cost = np.empty(cells, np.int32)
        self._heads = np.full(BUCKETS, NONE, np.int32)
        self._links = np.empty(cells, np.int32)

    def _state(self) -> dict[str, NDArray]:
        return {**super()._state(), "occupancy": self._occupancy, "field": self.field}

    def _forget(self, restarted: NDArray[np.bool_]) -> None:
        self._occupancy[restarted] = 0.0

    def _observe(self) -> None:
        _average(self._positions(), self._alive(), self._decay, self._occupancy)

    def _plan(self, copies: NDArray[np.bool_]) -> None:
        maps, positions, alive = self._maps(), self._positions(), self._alive()
        width = self.world.width
        _fields(
            copies,
            maps,
            self._goals(),
            alive,
            self._exits,
            width,
            self._static,
            self._occupancy,
            self._occupancy_cost,
            self._goal,
            self.field,
            self._cost,
            self._heads,
            self._links,
        )
        _look(
            copies,
            maps,
            positions,
            alive,
            self._exits,
            width,
            self.radius,
            self.field,
            self._path,
            self._moves,
            self._subgoal,
        )


@numba.njit(cache=True)
def _average(
    position: NDArray[np.int32], alive: NDArray[np.bool_], decay: np.float32, occupancy: NDArray[np.float32]
) -> None:
    copies, agents = position.shape
    for b in range(copies):
        for cell in range(occupancy.shape[1]):
            occupancy[b, cell] *= decay
        for n in range(agents):
            if alive[b, n]:
                occupancy[b, position[b, n]] += np.float32(1.0) - decay


@numba.njit(cache=True)
def _fields(
    copies: NDArray[np.bool_],
    maps: NDArray[np.int32],
    goal: NDArray[np.int32],
    alive: NDArray[np.bool_],
    exits: NDArray[np.uint8],
    width: int,
    static: NDArray[np.float32],
    occupancy: NDArray[np.float32],
    occupancy_cost: np.float32,
    planned: NDArray[np.int32],
    field: NDArray[np.int32],
    cost: NDArray[np.int32],
    heads: NDArray[np.int32],
    links: NDArray[np.int32],
) -> None:
    """Compute the fields of agents whose goal is not the one last ``planned`` for."""
    for b in range(goal.shape[0]):
        if not copies[b]:
            continue
        priced = False
        for n in range(goal.shape[1]):
            if planned[b, n] == goal[b, n] or not alive[b, n]:
                continue
            if not priced:
                for cell in range(cost.size):
                    price = static[maps[b], cell] + occupancy_cost * occupancy[b, cell]
                    cost[cell] = min(np.int32(price + np.float32(0.5)), np.int32(BUCKETS - 1))
                priced = True
            weighted_field(exits[maps[b]], width, cost, goal[b, n], field[b, n], heads, links)
            planned[b, n] = goal[b, n]


@numba.njit(cache=True)
def _look(
    copies: NDArray[np.bool_],
    maps: NDArray[np.int32],
    position: NDArray[np.int32],
    alive: NDArray[np.bool_],
    exits: NDArray[np.uint8],
    width: int,
    radius: int,
    field: NDArray[np.int32],
    path: NDArray[np.int16],
    moves: NDArray[np.float32],
    subgoal: NDArray[np.int32],
) -> None:
    """Write features and sub-goals of all agents of ``copies``."""
    for b in range(position.shape[0]):
        if not copies[b]:
            continue
        ways = exits[maps[b]]
        for n in range(position.shape[1]):
            path[b, n] = 0
            if alive[b, n]:
                cell = position[b, n]
                write_moves(ways, width, field[b, n], cell, moves[b, n])
                subgoal[b, n] = best_neighbour(ways, width, field[b, n], cell)
                _trace(ways, width, field[b, n], cell, radius, path[b, n, 0])
            else:
                moves[b, n] = 0.0
                subgoal[b, n] = NONE


@numba.njit(cache=True)
def _trace(
    exits: NDArray[np.uint8], width: int, field: NDArray[np.int32], start: int, radius: int, rows: NDArray[np.int16]
) -> None:
    """Set the bits of the cells on the way down ``field`` until it ends or leaves the window around ``start``."""
    cell = start
    row, column = radius, radius
    while True:
        rows[row] |= np.int16(1 << column)
        target = best_neighbour(exits, width, field, cell)
        if target == cell:
            return
        # A width of 1 cannot confuse the two: there are no columns to go to.
        if target == cell - width:
            row -= 1
        elif target == cell + width:
            row += 1
        else:
            column += target - cell
        if row < 0 or row > 2 * radius or column < 0 or column > 2 * radius:
            return
        cell = target
