"""The default guidance: costs that all agents share, one distance field per goal.

In steps, moving from u to v costs ``a(v) + e(u -> v)``, with the numbers of a vector (``vectors.Weights``):

    a(v) = 1 + static_weight * (max avgdist / avgdist(v) - 1)
             + occupancy_weight * occupied(v) + waiting_weight * waits(v)
    e(u -> v) = lane(u -> v) + opposing_weight * moved(v -> u)

``avgdist`` is the mean distance to all other cells (central cells cost most); ``occupied``, ``waits`` and ``moved`` are
moving averages of "an agent stands there", "it stands there still, and not on its goal" and "an agent makes that move";
``lane`` is what the move costs against its one-way lane (``lanes``). It and ``static_weight`` price traffic that is
only expected, so they count in proportion where agents are few (``guidance.crowding``). An agent's field is computed
when its goal changes, on the costs of that moment, and descended until it gets there, with the extra price e of the
present moment.
Follower searches for every agent at every step on private counts; this needs one search per goal.
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
    LaneCosts,
    Present,
    StaticCosts,
    agent_fields,
    best_neighbour,
    crowding,
    move_between,
    present,
    write_moves,
)
from scenarios.lifelong_mapf.guidance.lanes import LaneWeights
from scenarios.lifelong_mapf.maps.fields import (
    BUCKETS,
    MOVES,
    directed_field,
    neighbour,
    open_moves_of,
    step_field,
    weighted_field,
)

#: Costs are whole multiples of 1 / UNITS, so that fields are integers.
UNITS = 16


class Prices(NamedTuple):
    """What moves cost, in units of the fields.

    static int32 ``[M, cells]``; lanes int32 ``[M, 4 * cells]``. Averages of B copies, float32: occupied and waits
    ``[B, cells]``; moved ``[B, 4 * cells]``, entry 4 * c + k - 1 for move k out of c; each with its factor. An average
    that costs nothing is empty, and so are ``lanes`` where no price depends on the direction.
    """

    directed: bool
    static: NDArray[np.int32]
    lanes: NDArray[np.int32]
    occupied: NDArray[np.float32]
    waits: NDArray[np.float32]
    moved: NDArray[np.float32]
    occupied_factor: np.float32
    waits_factor: np.float32
    moved_factor: np.float32


class SharedCosts:
    """The averages that all agents share, and what moves cost by them; call as ``Guidance`` says.

    units: costs are in 1 / ``units`` steps. previous: int32 ``[B, N]``, where the agents stood when last looked at.
    occupied, waits, moved: see ``Prices``.
    """

    def __init__(self, world: GridWorld, config: GuidanceConfig):
        self._world = world
        self.weights = weights = config.weights()
        copies, agents = world.position.shape
        cells = world.height * world.width
        self.exits = open_moves_of(world.blocked, world.height, world.width)
        self.previous = np.full((copies, agents), NONE, np.int32)
        self.units = UNITS if weights.priced else 1
        self.occupied = np.zeros((copies, cells if weights.occupancy_weight > 0 else 0), np.float32)
        self.waits = np.zeros((copies, cells if weights.waiting_weight > 0 else 0), np.float32)
        self.moved = np.zeros((copies, 4 * cells if weights.directed else 0), np.float32)
        share = crowding(world, weights.crowd)
        self._static = StaticCosts(world, weights.static_weight * share, UNITS)
        self._lanes = LaneCosts(
            world,
            self.exits,
            LaneWeights(weights.lanes_weight, weights.corridor_rows_weight, weights.corridor_columns_weight),
            UNITS,
            share,
        )
        self._decay, self._flow_decay = np.float32(weights.decay), np.float32(weights.flow_decay)

    def restart(self, restarted: NDArray[np.bool_]) -> None:
        """Forget what was seen in copies that began a new episode (bool ``[B]``)."""
        for average in (self.occupied, self.waits, self.moved):
            average[restarted] = 0.0
        self.previous[restarted] = self._world.position.cpu().numpy()[restarted]

    def advance(self) -> None:
        """Take in the present positions."""
        if self.weights.priced:
            _average(present(self._world, self.exits), self.prices(), self._decay, self._flow_decay, self.previous)

    def prices(self) -> Prices:
        """What moves cost at this moment, in 1 / ``units`` steps."""
        weights, maps = self.weights, self._world.map_index.cpu().numpy()
        return Prices(
            weights.directed,
            self._static.of(maps),
            self._lanes.of(maps) if weights.directed else self._lanes.none,
            self.occupied,
            self.waits,
            self.moved,
            np.float32(UNITS * weights.occupancy_weight),
            np.float32(UNITS * weights.waiting_weight),
            np.float32(UNITS * weights.opposing_weight),
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """All arrays that a snapshot has to hold."""
        return {"previous": self.previous, "occupied": self.occupied, "waits": self.waits, "moved": self.moved}


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


@njit(inline="always")
def extra_price(prices: Prices, m: int, b: int, cell: int, move: int) -> int:
    """e in units, on map m in copy b, of the move INTO ``cell`` from its neighbour at ``move`` (1 to 4)."""
    entry = 4 * cell + move - 1
    return prices.lanes[m, entry] + np.int32(prices.moved_factor * prices.moved[b, entry] + np.float32(0.5))


@njit(inline="always")
def reverse(move: int) -> int:
    """The move back (1 to 4)."""
    return ((move - 1) ^ 1) + 1


@njit
def _average(
    now: Present, prices: Prices, decay: np.float32, flow_decay: np.float32, previous: NDArray[np.int32]
) -> None:
    """Take the present positions into the averages and into ``previous``."""
    copies, agents = now.position.shape
    share, flow_share = np.float32(1.0) - decay, np.float32(1.0) - flow_decay
    for b in range(copies):
        occupied, waits, moved = prices.occupied[b], prices.waits[b], prices.moved[b]
        for entry in range(occupied.size):
            occupied[entry] *= decay
        for entry in range(waits.size):
            waits[entry] *= decay
        for entry in range(moved.size):
            moved[entry] *= flow_decay
        for n in range(agents):
            cell, before = now.position[b, n], previous[b, n]
            previous[b, n] = cell
            if not now.alive[b, n]:
                continue
            if occupied.size:
                occupied[cell] += share
            if cell != before:
                if moved.size:
                    moved[4 * before + move_between(before, cell, now.width) - 1] += flow_share
            elif waits.size and cell != now.goal[b, n]:
                waits[cell] += share


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
            exits = now.exits[now.maps[b]]
            if not priced:
                fill_prices(prices, now.maps[b], b, cost, extra)
                priced = True
            if prices.directed:
                directed_field(exits, now.width, cost, extra, goal, field[b, n], heads, links)
            else:
                weighted_field(exits, now.width, cost, goal, field[b, n], heads, links)


@njit
def fill_prices(prices: Prices, m: int, b: int, cost: NDArray[np.int32], extra: NDArray[np.int32]) -> None:
    """The present costs of copy b: a into ``cost``, e into ``extra``, in units."""
    for cell in range(cost.size):
        dynamic = np.float32(0.5)
        if prices.occupied.shape[1]:
            dynamic += prices.occupied_factor * prices.occupied[b, cell]
        if prices.waits.shape[1]:
            dynamic += prices.waits_factor * prices.waits[b, cell]
        cost[cell] = min(prices.static[m, cell] + np.int32(dynamic), np.int32(BUCKETS - 1))
    for entry in range(extra.size):
        dynamic = prices.moved_factor * prices.moved[b, entry] + np.float32(0.5)
        extra[entry] = prices.lanes[m, entry] + np.int32(dynamic)


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
                step_field(now.exits[now.maps[b]], now.width, now.goal[b, n], field[b, n], queue)


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
        exits = now.exits[m]
        for n in range(subgoal.shape[1]):
            path[b, n] = 0
            if now.alive[b, n]:
                cell = now.position[b, n]
                if prices.directed:
                    best = _best_directed(exits, now.width, prices, m, b, field[b, n], cell)
                    _write_directed_moves(exits, now.width, prices, m, b, field[b, n], cell, best, moves[b, n])
                else:
                    best = best_neighbour(exits, now.width, field[b, n], cell)
                    write_moves(exits, now.width, field[b, n], cell, best, moves[b, n])
                subgoal[b, n] = best
                _trace(exits, now.width, prices, m, b, field[b, n], cell, best, radius, path[b, n, 0])
            else:
                moves[b, n] = 0.0
                subgoal[b, n] = NONE


@njit
def _best_directed(
    exits: NDArray[np.uint8], width: int, prices: Prices, m: int, b: int, field: NDArray[np.int32], cell: int
) -> int:
    """As ``best_neighbour``, with the extra prices of the moves; only neighbours with smaller values count.

    Prices have changed since the field was made. That values fall all the way is what keeps a path from going round.
    """
    best, value = cell, np.int32(2**31 - 1)
    for move in range(1, 5):
        target = neighbour(exits, width, cell, move)
        if field[target] < field[cell]:
            price = field[target] + extra_price(prices, m, b, target, reverse(move))
            if price < value:
                best, value = target, price
    return best


@njit
def _write_directed_moves(
    exits: NDArray[np.uint8],
    width: int,
    prices: Prices,
    m: int,
    b: int,
    field: NDArray[np.int32],
    cell: int,
    best: int,
    moves: NDArray[np.float32],
) -> None:
    """As ``write_moves``, with the extra prices of the moves."""
    own = field[cell]
    saved = 0
    if best != cell:
        saved = own - field[best] - extra_price(prices, m, b, best, reverse(move_between(cell, best, width)))
    unit = np.float32(max(saved, 1))
    moves[0] = 0.0
    for move in range(1, 5):
        target = neighbour(exits, width, cell, move)
        if target == cell:
            moves[move] = 1.0
        elif target == best:
            moves[move] = -1.0
        else:
            change = np.float32(field[target] + extra_price(prices, m, b, target, reverse(move)) - own) / unit
            moves[move] = min(max(change, np.float32(-1.0)), np.float32(1.0))


@njit
def _trace(
    exits: NDArray[np.uint8],
    width: int,
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
        move = move_between(cell, target, width)
        row += MOVES[move][0]
        column += MOVES[move][1]
        if row < 0 or row > 2 * radius or column < 0 or column > 2 * radius:
            return
        rows[row] |= np.int16(1 << column)
        cell = target
        if prices.directed:
            target = _best_directed(exits, width, prices, m, b, field, cell)
        else:
            target = best_neighbour(exits, width, field, cell)
