"""The default guidance: costs from moving averages that all agents share, one distance field per goal.

Entering cell c costs ``1 + static_weight * (max avgdist / avgdist(c) - 1) + occupancy_weight * ema(c)``, where
``avgdist`` is the mean distance to all other cells (central cells cost most) and ``ema(c)`` the moving average of "an
agent stands on c". An agent's field is computed when its goal changes, on the costs of that moment, and descended until
it gets there. Follower searches for every agent at every step on private counts; this needs one search per goal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from scenarios.lifelong_mapf.fields import BUCKETS, MOVES, open_moves_of, step_field, weighted_field
from scenarios.lifelong_mapf.guidance import (
    NONE,
    GridWorld,
    Guidance,
    GuidanceConfig,
    Present,
    StaticCosts,
    agent_fields,
    best_neighbour,
    move_between,
    present,
    write_moves,
)

#: Costs are whole multiples of 1 / UNITS, so that fields are integers.
UNITS = 16


class GoalFields:
    """The distance field of every agent to its goal, on the shared costs; call as ``Guidance`` says.

    field: int32 ``[B, N, cells]`` (4 * B * N * cells bytes), in units of 1 / ``UNITS`` steps, or in steps if both
    weights are 0. occupancy: float32 ``[B, cells]``. planned: int32 ``[B, N]``, the goals that the fields lead to.
    """

    def __init__(self, world: GridWorld, config: GuidanceConfig):
        self._world = world
        copies, agents = world.position.shape
        cells = world.height * world.width
        self.exits = open_moves_of(world.blocked, world.height, world.width)
        self.field = agent_fields(world)
        self.occupancy = np.zeros((copies, cells), np.float32)
        self.planned = np.full((copies, agents), NONE, np.int32)
        self._weighted = config.static_weight > 0 or config.occupancy_weight > 0
        self._static = StaticCosts(world, config.static_weight, UNITS)
        self._occupancy_cost = np.float32(UNITS * config.occupancy_weight)
        self._decay = np.float32(config.decay)
        self._cost = np.empty(cells, np.int32)
        self._heads = np.full(BUCKETS, NONE, np.int32)
        self._links = np.empty(cells, np.int32)

    def restart(self, restarted: NDArray[np.bool_]) -> None:
        """Compute the fields of copies that began a new episode (bool ``[B]``)."""
        self.occupancy[restarted] = 0.0
        self.planned[restarted] = NONE
        self._compute(restarted)

    def advance(self) -> None:
        """Take in the present positions and compute the fields of goals that are new."""
        if self._occupancy_cost > 0:
            _average(present(self._world, self.exits), self._decay, self.occupancy)
        self._compute(np.ones(self._world.copies, np.bool_))

    def _compute(self, copies: NDArray[np.bool_]) -> None:
        now = present(self._world, self.exits)
        if self._weighted:
            prices = _Prices(self._static.of(now.maps), self._occupancy_cost, self.occupancy)
            _weighted_fields(copies, now, prices, self.planned, self.field, self._cost, self._heads, self._links)
        else:
            _step_fields(copies, now, self.planned, self.field, self._links)


class _Prices(NamedTuple):
    """What entering a cell costs, in units: static [M, cells] + occupancy_cost * occupancy [B, cells]."""

    static: NDArray[np.int32]
    occupancy_cost: np.float32
    occupancy: NDArray[np.float32]


class SharedGuidance(Guidance):
    """Guidance by ``GoalFields``."""

    def __init__(self, world: GridWorld, config: GuidanceConfig, radius: int):
        super().__init__(world, radius)
        self._fields = GoalFields(world, config)

    def _state(self) -> dict[str, NDArray[Any]]:
        fields = self._fields
        own = {"planned": fields.planned, "occupancy": fields.occupancy, "field": fields.field}
        return {**super()._state(), **own}

    def _restart(self, restarted: NDArray[np.bool_]) -> None:
        self._fields.restart(restarted)
        self._look(restarted)

    def _advance(self) -> None:
        self._fields.advance()
        self._look(np.ones(self.world.copies, np.bool_))

    def _look(self, copies: NDArray[np.bool_]) -> None:
        now = present(self.world, self._fields.exits)
        _look(copies, now, self._fields.field, self.radius, self._path, self._moves, self._subgoal)


@numba.njit(cache=True)
def _average(now: Present, decay: np.float32, occupancy: NDArray[np.float32]) -> None:
    copies, agents = now.position.shape
    for b in range(copies):
        for cell in range(occupancy.shape[1]):
            occupancy[b, cell] *= decay
        for n in range(agents):
            if now.alive[b, n]:
                occupancy[b, now.position[b, n]] += np.float32(1.0) - decay


@numba.njit(cache=True)
def _weighted_fields(
    copies: NDArray[np.bool_],
    now: Present,
    prices: _Prices,
    planned: NDArray[np.int32],
    field: NDArray[np.int32],
    cost: NDArray[np.int32],
    heads: NDArray[np.int32],
    links: NDArray[np.int32],
) -> None:
    """Compute the fields of agents whose goal is not the one last ``planned`` for."""
    for b in range(planned.shape[0]):
        if not copies[b]:
            continue
        priced = False
        for n in range(planned.shape[1]):
            if planned[b, n] == now.goal[b, n] or not now.alive[b, n]:
                continue
            planned[b, n] = now.goal[b, n]
            if not priced:
                for cell in range(cost.size):
                    dynamic = np.int32(prices.occupancy_cost * prices.occupancy[b, cell] + np.float32(0.5))
                    cost[cell] = min(prices.static[now.maps[b], cell] + dynamic, np.int32(BUCKETS - 1))
                priced = True
            weighted_field(now.exits[now.maps[b]], now.width, cost, now.goal[b, n], field[b, n], heads, links)


@numba.njit(cache=True)
def _step_fields(
    copies: NDArray[np.bool_],
    now: Present,
    planned: NDArray[np.int32],
    field: NDArray[np.int32],
    queue: NDArray[np.int32],
) -> None:
    """As ``_weighted_fields`` where every cell costs one step."""
    for b in range(planned.shape[0]):
        for n in range(planned.shape[1]):
            if copies[b] and now.alive[b, n] and planned[b, n] != now.goal[b, n]:
                planned[b, n] = now.goal[b, n]
                step_field(now.exits[now.maps[b]], now.width, now.goal[b, n], field[b, n], queue)


@numba.njit(cache=True)
def _look(
    copies: NDArray[np.bool_],
    now: Present,
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
        exits = now.exits[now.maps[b]]
        for n in range(subgoal.shape[1]):
            path[b, n] = 0
            if now.alive[b, n]:
                cell = now.position[b, n]
                best = best_neighbour(exits, now.width, field[b, n], cell)
                subgoal[b, n] = best
                write_moves(exits, now.width, field[b, n], cell, best, moves[b, n])
                _trace(exits, now.width, field[b, n], cell, best, radius, path[b, n, 0])
            else:
                moves[b, n] = 0.0
                subgoal[b, n] = NONE


@numba.njit(cache=True)
def _trace(
    exits: NDArray[np.uint8],
    width: int,
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
        move = move_between(cell, target, width)
        row += MOVES[move][0]
        column += MOVES[move][1]
        if row < 0 or row > 2 * radius or column < 0 or column > 2 * radius:
            return
        rows[row] |= np.int16(1 << column)
        cell, target = target, best_neighbour(exits, width, field, target)
