"""Where the road is: lengths, lanes, the longitudinal axis x shared by ramp and main road, and the lateral y(x, lane).

Lane 0 is the ramp and the acceleration lane that it runs into; lanes 1, 2, ... are the main road, from right to left.
A position x is that of a car's front bumper, in metres from the beginning of the main road.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Metres the straight part of a ramp lies beside its acceleration lane (Chen et al. 2023: 10.5 m including 3.25 m).
RAMP_ASIDE = 6.5
LANE_WIDTH = 3.2


@dataclass(frozen=True)
class RoadGeometry:
    """An on-ramp merge, lengths in metres along the road, limits in m/s.

    The main road begins at x = 0, the ramp at ``ramp_start``. Both reach ``merge_start``, from which the acceleration
    lane runs beside the main road until it ends at ``merge_end``. ``road_end`` is where cars leave. ``converge`` is the
    length over which the ramp swings towards the main road; it matters for y alone. ``ramp_limit`` holds on the ramp up
    to ``merge_start``; None: as on the main road.
    """

    merge_start: float
    merge_end: float
    road_end: float
    speed_limit: float
    main_lanes: int = 1
    ramp_start: float = 0.0
    converge: float = 100.0
    ramp_limit: float | None = None

    @property
    def lanes(self) -> int:
        """Main lanes and the acceleration lane."""
        return self.main_lanes + 1

    def ramp_y(self, x: float) -> float:
        """Metres that the ramp's centre lies beside the acceleration lane's, at x (0 from ``merge_start`` on)."""
        phase = min(max((self.merge_start - x) / self.converge, 0.0), 1.0)
        return -RAMP_ASIDE * 0.5 * (1.0 - math.cos(math.pi * phase))
