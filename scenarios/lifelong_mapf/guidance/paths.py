"""Plain distances to the goals of all agents, for whoever asks now and then."""

from __future__ import annotations

import numpy as np

from scenarios.lifelong_mapf.guidance.base import NONE, GridWorld, GuidanceConfig
from scenarios.lifelong_mapf.guidance.shared import GoalFields

_PLAIN = GuidanceConfig(vector="plain")


class PathFields:
    """Plain distances to the goals of all agents, brought up to date when they are asked for.

    They are a function of map and goal alone, so a world may be reset or restored without telling.
    """

    def __init__(self, world: GridWorld):
        self._world = world
        self._fields = GoalFields(world, _PLAIN)
        self._maps = np.full(world.copies, NONE, np.int32)

    def current(self) -> GoalFields:
        """The fields of the present moment."""
        maps = self._world.map_index.cpu().numpy()
        if not np.array_equal(maps, self._maps):
            self._fields.planned[maps != self._maps] = NONE
            self._maps = maps.copy()
        self._fields.advance()
        return self._fields
