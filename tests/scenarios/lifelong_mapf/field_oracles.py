"""Distances in plain Python: the oracles of the compiled fields."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

import numpy as np

from scenarios.lifelong_mapf.maps.fields import BUCKETS, MOVES, UNREACHED


def _dijkstra(exits: np.ndarray, width: int, goal: int, price: Callable[[int, int, int], int]) -> np.ndarray:
    """Least price to the goal from each cell, with a binary heap; ``price(cell, move, target)`` of a search's step."""
    field = np.full(exits.size, UNREACHED, np.int64)
    field[goal] = 0
    heap = [(0, goal)]
    while heap:
        value, cell = heapq.heappop(heap)
        if value > field[cell]:
            continue
        for move in range(1, 5):
            if exits[cell] >> (move - 1) & 1:
                target = cell + MOVES[move][0] * width + MOVES[move][1]
                reached = value + price(cell, move, target)
                if reached < field[target]:
                    field[target] = reached
                    heapq.heappush(heap, (reached, target))
    return field


def reference_field(exits: np.ndarray, width: int, cost: np.ndarray, goal: int) -> np.ndarray:
    """``weighted_field`` by Dijkstra's algorithm."""
    return _dijkstra(exits, width, goal, lambda cell, move, target: int(cost[target]))


def reference_average_distance(exits: np.ndarray, width: int) -> np.ndarray:
    """``average_distance``, one search per cell."""
    average = np.zeros(exits.size)
    for start in np.flatnonzero(exits):
        distance = {int(start): 0}
        queue = deque(distance)
        while queue:
            cell = queue.popleft()
            for move in range(1, 5):
                target = cell + MOVES[move][0] * width + MOVES[move][1]
                if exits[cell] >> (move - 1) & 1 and target not in distance:
                    distance[target] = distance[cell] + 1
                    queue.append(target)
        average[start] = sum(distance.values()) / (len(distance) - 1)
    return average


def reference_directed_field(
    exits: np.ndarray, width: int, cost: np.ndarray, extra: np.ndarray, goal: int
) -> np.ndarray:
    """``directed_field`` by Dijkstra's algorithm."""

    def price(cell: int, move: int, target: int) -> int:
        return min(int(cost[target]) + int(extra[4 * cell + move - 1]), BUCKETS - 1)

    return _dijkstra(exits, width, goal, price)
