"""Columns of the twin's tables as plain integers, which kernels need, and the types of its arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scenarios.cav_merging.drivers import P
from scenarios.cav_merging.traffic import R

DESIRED, TAU, ACCEL, DECEL = int(P.DESIRED), int(P.TAU), int(P.ACCEL), int(P.DECEL)
MIN_GAP, LENGTH, ASSERTIVE, TWO_SQRT = int(P.MIN_GAP), int(P.LENGTH), int(P.ASSERTIVE), int(P.TWO_SQRT)
KRAUSS = int(P.KRAUSS)

MERGE_START, MERGE_END, ROAD_END = int(R.MERGE_START), int(R.MERGE_END), int(R.ROAD_END)
LIMIT, MAIN_LANES, RAMP_LIMIT = int(R.LIMIT), int(R.MAIN_LANES), int(R.RAMP_LIMIT)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
