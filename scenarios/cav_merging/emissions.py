"""Fuel and emissions of a petrol car, Euro 4, from speed and acceleration: SUMO's class HBEFA3/PC_G_EU4.

The form is that of SUMO's ``HelpersHBEFA3`` (INFRAS, Handbook Emission Factors for Road Transport 3.1): a polynomial in
a v, v and v^2 for each pollutant, never negative, and nothing while a car coasts. The numbers were read off SUMO 1.28
at 1,500 pairs of speed and acceleration, which they give back to 1e-9; tests ask SUMO again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from marl.compiled import njit
from scenarios.cav_merging.twin.arrays import Floats

#: SUMO's name of it, which our vehicle types have.
EMISSION_CLASS = "HBEFA3/PC_G_EU4"
#: mg/s = c0 + c1 a v + c2 v + c3 v^2 with m/s and m/s^2: fuel, CO2, NOx.
COEFFICIENTS = np.array(
    (
        (3014.0 / 3.6, 299.3 / 3.6, -149.0 / 3.6, 9.014 / 3.6),
        (9449.0 / 3.6, 938.4 / 3.6, -467.1 / 3.6, 28.26 / 3.6),
        (4.336 / 3.6, 0.4428 / 3.6, -0.3204 / 3.6, 0.01371 / 3.6),
    )
)
#: Above ``STANDING`` m/s a car that slows down by more than this burns nothing: proportional to speed up to
#: ``CREEPING`` m/s, then a straight line.
STANDING, CREEPING = 0.5, 10.0 / 3.6
_SLOW, _BASE, _FAST = 0.05184, 0.10795, 0.012976


@njit(error_model="numpy", inline="always")
def coasts(v: float, accel: float) -> bool:
    """Whether the engine burns nothing."""
    drag = _SLOW * v if v < CREEPING else _BASE + _FAST * v
    return v > STANDING and accel < -drag


@njit(error_model="numpy")
def add_emissions(v: float, accel: float, seconds: float, sums: Floats) -> None:
    """Add the milligrams of some seconds to ``sums`` ``[3]``: fuel, CO2, NOx."""
    if coasts(v, accel):
        return
    for k in range(3):
        c = COEFFICIENTS[k]
        sums[k] += max(0.0, c[0] + c[1] * accel * v + c[2] * v + c[3] * v * v) * seconds


def emissions_reference(v: Tensor, accel: Tensor) -> Tensor:
    """mg/s of fuel, CO2 and NOx, ``[3, *]``, as plain tensor operations."""
    c = torch.as_tensor(COEFFICIENTS, device=v.device).reshape(3, 4, *[1] * v.dim())
    drag = torch.where(v < CREEPING, _SLOW * v, _BASE + _FAST * v)
    burnt = (c[:, 0] + c[:, 1] * accel * v + c[:, 2] * v + c[:, 3] * v * v).clamp(min=0.0)
    return torch.where((v > STANDING) & (accel < -drag), 0.0, burnt)
