"""``MapPool``: the maps of a batch on one common grid, and what the step looks up in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.seeding import fold
from scenarios.lifelong_mapf.maps.fields import open_moves
from scenarios.lifelong_mapf.maps.grid import GridMap
from scenarios.lifelong_mapf.state import Goals
from scenarios.lifelong_mapf.step.kernels import STARTS

#: Random numbers drawn at a time for the starts: bounds the memory that a large map takes.
_CHUNK = 1 << 22
_LAST = torch.iinfo(torch.int64).max


def _stack(rows: Sequence[NDArray[np.int32]], fill: int) -> Tensor:
    """Ragged rows as one int32 tensor [M, longest], padded with ``fill``."""
    table = np.full((len(rows), max(row.size for row in rows)), fill, np.int32)
    for m, row in enumerate(rows):
        table[m, : row.size] = row
    return torch.from_numpy(table)


class MapPool:
    """M maps padded to H x W with blocked cells, a cell being row * W + column; tensors are on the CPU.

    blocked: uint8 [M, H * W], 1 blocked. exits: uint8 [M, H * W], bit k - 1 set if move k leads to a free cell.
    start_cells: int32 [M, S], the first start_count [M] of a row are the cells where agents may start.
    free_cells: int32 [M], how many there are.
    goal_cells, goal_base, goal_count, goal_rank: see ``state.Goals``.
    """

    def __init__(self, maps: Sequence[GridMap]):
        self.maps = tuple(maps)
        self.height = max(grid.height for grid in maps)
        self.width = max(grid.width for grid in maps)
        cells = self.height * self.width
        self.blocked = torch.ones(len(maps), cells, dtype=torch.uint8)
        self.exits = torch.zeros(len(maps), cells, dtype=torch.uint8)
        self.goal_base = torch.zeros(len(maps), cells, dtype=torch.int32)
        self.goal_count = torch.zeros(len(maps), cells, dtype=torch.int32)
        self.goal_rank = torch.full((len(maps), cells), -1, dtype=torch.int32)
        starts, goals = [], []
        for m, grid in enumerate(maps):
            blocked = self._pad(grid.blocked, True)
            self.blocked[m] = torch.from_numpy(blocked.reshape(-1).astype(np.uint8))
            self.exits[m] = torch.from_numpy(open_moves(blocked, self.height, self.width))
            starts.append(np.flatnonzero(self._pad(grid.starts, False)).astype(np.int32))
            goals.append(self._index_goals(m, grid))
        self.start_cells = _stack(starts, 0)
        self.start_count = torch.tensor([row.size for row in starts], dtype=torch.int32)
        self.goal_cells = _stack(goals, 0)
        self.free_cells = (self.blocked == 0).sum(1, dtype=torch.int32)

    def _pad(self, grid: NDArray[Any], fill: int | bool) -> NDArray[Any]:
        rows, columns = self.height - grid.shape[0], self.width - grid.shape[1]
        return np.pad(grid, ((0, rows), (0, columns)), constant_values=fill)

    def _index_goals(self, m: int, grid: GridMap) -> NDArray[np.int32]:
        """Fill the goal tables of map m; returns its goal cells by component."""
        component = self._pad(grid.component, -1).reshape(-1)
        cells = np.flatnonzero(self._pad(grid.goals, False))
        cells = cells[np.argsort(component[cells], kind="stable")]
        counts = np.bincount(component[cells], minlength=int(component.max()) + 1)
        bases = np.concatenate([[0], np.cumsum(counts)[:-1]])
        free = component >= 0
        base, count, rank = (table[m].numpy() for table in (self.goal_base, self.goal_count, self.goal_rank))
        base[free] = bases[component[free]]
        count[free] = counts[component[free]]
        rank[cells] = np.arange(cells.size) - base[cells]
        return cells.astype(np.int32)

    def goals(self, task: Tensor, task_count: Tensor) -> Goals:
        """The tables of where goals come from, with given goals ``task`` int32 [M, N, K] and ``task_count`` [M, N]."""
        return Goals(self.goal_cells, self.goal_base, self.goal_count, self.goal_rank, task, task_count)

    def draw_starts(self, key: Tensor, map_index: Tensor, n: int, distinct_goals: bool = False) -> Tensor:
        """n distinct start cells for each episode: uniform, a function of the episode's key alone.

        key int64 [K], map_index int [K] -> int32 [K, n], on the device of the key. These are the cells with the n
        smallest of independent random numbers. distinct_goals: of each component at most as many cells as it has goal
        cells.
        """
        if self.start_cells.device != key.device:
            self.start_cells, self.start_count = self.start_cells.to(key.device), self.start_count.to(key.device)
        cells, count = self.start_cells, self.start_count
        places = torch.arange(cells.shape[1], device=key.device)
        chunk = max(1, _CHUNK // cells.shape[1])
        drawn = []
        for keys, maps in zip(torch.split(fold(key, STARTS), chunk), torch.split(map_index.long(), chunk), strict=True):
            numbers = fold(keys.unsqueeze(1), places).masked_fill(places >= count[maps].unsqueeze(1), _LAST)
            if distinct_goals:
                numbers = self._leave_room(numbers, maps)
            drawn.append(cells[maps].gather(1, numbers.topk(n, largest=False, sorted=True).indices))
        return torch.cat(drawn)

    def _leave_room(self, numbers: Tensor, maps: Tensor) -> Tensor:
        """The random ``numbers`` int64 [K, S] of start cells, the largest where a component has no goal cells left."""
        cells = self.start_cells[maps].long()
        base, count = (table.to(cells.device)[maps].gather(1, cells) for table in (self.goal_base, self.goal_count))
        by_number = numbers.argsort(1)
        group, by_group = base.gather(1, by_number).sort(dim=1, stable=True)
        order = by_number.gather(1, by_group)
        nth = torch.arange(order.shape[1], device=cells.device) - torch.searchsorted(group, group)
        return numbers.scatter(1, order, numbers.gather(1, order).masked_fill(nth >= count.gather(1, order), _LAST))

    def obstacle_rows(self, radius: int) -> Tensor:
        """int16 [M, W, H + 2 R]: the row of an obstacle window at each column and padded row, bit j = column - R + j.

        Each map is surrounded by a wall one cell thick, and nothing is drawn beyond it.
        """
        table = torch.zeros(len(self.maps), self.width, self.height + 2 * radius, dtype=torch.int16)
        for m, grid in enumerate(self.maps):
            drawn = np.zeros((self.height + 2 * radius, self.width + 2 * radius), np.int16)
            walled = np.pad(grid.blocked, 1, constant_values=True)
            drawn[radius - 1 :, radius - 1 :][: walled.shape[0], : walled.shape[1]] = walled
            rows = np.zeros((drawn.shape[0], self.width), np.int16)
            for j in range(2 * radius + 1):
                rows |= drawn[:, j : j + self.width] << j
            table[m] = torch.from_numpy(rows.T)
        return table
