"""What all agents pay alike: prices of cells and moves by the traffic that was seen.

In steps, moving from u to v costs ``a(v) + e(u -> v)``, with the numbers of a vector (``vectors.Weights``):

    a(v) = 1 + static_weight * (max avgdist / avgdist(v) - 1)
             + occupancy_weight * occupied(v) + waiting_weight * waits(v)
    e(u -> v) = lane(u -> v) + opposing_weight * moved(v -> u)

``avgdist`` is the mean distance to all other cells (central cells cost most); ``occupied``, ``waits`` and ``moved`` are
moving averages of "an agent stands there", "it stands there still, and not on its goal" and "an agent makes that move";
``lane`` is what the move costs against its one-way lane (``lanes``). It and ``static_weight`` price traffic that is
only expected, so they count in proportion where agents are few (``costs.crowding``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.guidance.base import NONE, GridWorld, GuidanceConfig, Present, move_between, present
from scenarios.lifelong_mapf.guidance.costs import LaneCosts, StaticCosts, crowding
from scenarios.lifelong_mapf.guidance.lanes import LaneWeights
from scenarios.lifelong_mapf.maps.fields import BUCKETS, open_moves_of

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
