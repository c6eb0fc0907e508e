"""Prices that a map alone sets: of central cells, and of moves against one-way lanes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scenarios.lifelong_mapf.guidance.base import GridWorld
from scenarios.lifelong_mapf.guidance.lanes import LaneWeights, lane_prices
from scenarios.lifelong_mapf.maps.fields import BUCKETS, Board, centrality, open_moves


@lru_cache(maxsize=256)
def _centrality_of(blocked: bytes, height: int, width: int) -> NDArray[np.float64]:
    ratio = centrality(Board(open_moves(np.frombuffer(blocked, np.uint8), height, width), width))
    ratio.setflags(write=False)
    return ratio


def crowding(world: GridWorld, crowd: float) -> NDArray[np.float64]:
    """float64 ``[M]``: how much of the prices of traffic that is only expected counts on each map (``Weights.crowd``).

    How often two agents meet in a corridor is proportional to agents per cell; detours cost the same however few.
    """
    free = (world.blocked == 0).sum(1)
    agents = world.position.shape[1]
    return np.ones(len(free)) if crowd == 0 else np.minimum(agents / (crowd * np.maximum(free, 1)), 1.0)


class StaticCosts:
    """The static cost ``1 + weight * (centrality - 1)`` of every cell in whole ``1 / units``, at most ``BUCKETS`` - 1.

    weight: for all maps, or one for each (``[M]``).
    A map's costs are computed when it is first asked for, and its centrality at most once in a process.
    """

    def __init__(self, world: GridWorld, weight: float | NDArray[np.float64], units: int):
        self._world, self._units = world, units
        self._weight = np.broadcast_to(weight, len(world.blocked))
        self._costs = np.full(world.blocked.shape, units, np.int32)
        self._known = self._weight == 0

    def of(self, maps: NDArray[np.int32]) -> NDArray[np.int32]:
        """int32 ``[M, cells]``, valid for ``maps``."""
        for m in np.unique(maps[~self._known[maps]]):
            ratio = _centrality_of(self._world.blocked[m].tobytes(), self._world.height, self._world.width)
            cost = np.rint(self._units * (1.0 + self._weight[m] * (ratio - 1.0)))
            self._costs[m] = np.minimum(cost, BUCKETS - 1)
            self._known[m] = True
        return self._costs


class LaneCosts:
    """The prices of lanes (``lanes.lane_prices``) in whole ``1 / units``, by map, when first asked for.

    share: float64 ``[M]``, how much of them counts.
    """

    def __init__(
        self,
        world: GridWorld,
        exits: NDArray[np.uint8],
        weights: LaneWeights,
        units: int,
        share: NDArray[np.float64],
    ):
        self._exits, self._width, self._weights, self._units = exits, world.width, weights, units
        self._share = share
        self._known = np.zeros(len(exits), np.bool_)
        self._prices = self.none = np.zeros((len(exits), 0), np.int32)

    def of(self, maps: NDArray[np.int32]) -> NDArray[np.int32]:
        """int32 ``[M, 4 * cells]``, valid for ``maps``."""
        if not self._prices.size:
            self._prices = np.zeros((len(self._exits), 4 * self._exits.shape[1]), np.int32)
            self._known[:] = not any(self._weights)
        for m in np.unique(maps[~self._known[maps]]):
            prices = lane_prices(Board(self._exits[m], self._width), self._weights)
            self._prices[m] = np.rint(self._units * self._share[m] * prices).reshape(-1)
            self._known[m] = True
        return self._prices
