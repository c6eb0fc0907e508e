"""Red lights for cars under control, for which SUMO's own checks are off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType

from marl.envs.sumo.install import plain
from scenarios.cav_merging.config import SIM_STEP_S
from scenarios.cav_merging.drivers import CAV_DECEL

#: Cars stop this short of a stop line, m.
SHORT_M = 1.0
_RED, _YELLOW = "rRuU", "yY"


class StopLines:
    """Holds cars at red: their speed is kept to what braking at ``CAV_DECEL`` stops before the line.

    lights: as ``RoadNetwork.lights``.
    """

    def __init__(self, sumo: ModuleType, lights: Mapping[str, tuple[str, int, float]]):
        self._lights = lights
        self._state = plain(sumo, "trafficlight", "getRedYellowGreenState")

    def obey(self, lane: str, x: float, speed: float, wish: float) -> float:
        """The speed after a step of a car on a SUMO lane at x that would drive ``wish``, m/s.

        At yellow a car that cannot stop any more goes on.
        """
        found = self._lights.get(lane)
        if found is None:
            return wish
        light, place, line = found
        shown = self._state(light)[place]
        if shown not in _RED and shown not in _YELLOW:
            return wish
        brake = CAV_DECEL * SIM_STEP_S
        room = max(0.0, line - SHORT_M - x)
        # v dt + v^2 / (2 b) = room: one more step at this speed, then braking.
        allowed = math.sqrt(brake * brake + 2.0 * CAV_DECEL * room) - brake
        hardest = max(0.0, speed - brake)
        if hardest > allowed and shown in _YELLOW:
            return wish
        return min(wish, max(allowed, hardest))
