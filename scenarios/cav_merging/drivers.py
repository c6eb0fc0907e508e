"""Drivers: what a human (or SUMO's own driver of an automated car) is like, as columns of one parameter table.

The car-following model is SUMO's IDM (Treiber, Hennecke, Helbing, Phys. Rev. E 62, 2000; SUMO's ``MSCFModel_IDM``), or
SUMO's Krauss without dawdling (Krauss 1998, in the discrete Euler form of SUMO's ``MSCFModel``).
A 'normal' driver has the defaults of SUMO's IDM; an aggressive one keeps shorter headways and brakes and accelerates
harder, a defensive one the reverse.
"""

from __future__ import annotations

from enum import IntEnum


class P(IntEnum):
    """Columns of the parameter table ``[B, V, 9]``, float64."""

    DESIRED = 0  # desired speed, m/s
    TAU = 1  # desired time headway, s
    ACCEL = 2  # largest acceleration, m/s^2
    DECEL = 3  # comfortable deceleration, m/s^2
    MIN_GAP = 4  # standstill distance, m
    LENGTH = 5  # m
    ASSERTIVE = 6  # accepts gaps shorter by this factor (SUMO's lcAssertive)
    TWO_SQRT = 7  # 2 sqrt(ACCEL DECEL), the scale of closing speeds in the car-following model
    KRAUSS = 8  # 1: follows by Krauss, 0: by the IDM


#: tau, accel, decel, min_gap
STYLES: dict[str, tuple[float, float, float, float]] = {
    "normal": (1.0, 2.6, 4.5, 2.5),
    "aggressive": (0.7, 3.0, 5.0, 2.0),
    "defensive": (1.4, 2.0, 4.0, 3.0),
}
STYLE_NAMES = tuple(STYLES)

CAR_LENGTH = 5.0
TIMID, ASSERTIVE = 1.0, 3.0
#: SUMO's emergencyDecel: the hardest braking, beyond the comfortable one, m/s^2.
EMERGENCY_DECEL = 9.0
#: What an automated car's drive gives, m/s^2. Braking as hard as the published humans, accelerating as SUMO's IDM may.
CAV_ACCEL, CAV_DECEL = 3.0, 6.0
