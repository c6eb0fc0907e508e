"""The smallest thing that guidance and rules can read: a grid drawn with letters, and agents that are put by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from marl.seeding import fold
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig


class StubWorld:
    """B copies of one drawing, '#' blocked; positions and goals are (row, column) pairs or flat cells."""

    def __init__(self, drawing, position, goal, copies=1, config=None):
        grid = np.array([list(row) for row in drawing])
        self.height, self.width = grid.shape
        self.copies, self.device = copies, torch.device("cpu")
        self.blocked = (grid == "#").astype(np.uint8).reshape(1, -1)
        self.map_index = torch.zeros(copies, dtype=torch.int32)
        self.position = self._cells(position).repeat(copies, 1)
        self.goal = self._cells(goal).repeat(copies, 1)
        self.alive = torch.ones_like(self.position, dtype=torch.bool)
        self.steps = torch.zeros(copies, dtype=torch.int32)
        self.turning, self.heading = False, torch.zeros_like(self.position, dtype=torch.int8)
        self.config = SimpleNamespace(guidance=config or GuidanceConfig())

    def _cells(self, places):
        return torch.tensor([p if isinstance(p, int) else p[0] * self.width + p[1] for p in places], dtype=torch.int32)

    def timestep(self):
        return SimpleNamespace(key=fold(torch.zeros(self.copies, dtype=torch.int64), self.steps.long()))

    def move(self, actions):
        offsets = torch.tensor([0, -self.width, self.width, -1, 1])
        self.position += offsets[actions].int()
        self.steps += 1


def random_drawing(rng, height, width, density):
    """A drawing with at least one free cell that has a free neighbour."""
    grid = np.where(rng.random((height, width)) < density, "#", ".")
    grid[0, :2] = "."
    return ["".join(row) for row in grid]
