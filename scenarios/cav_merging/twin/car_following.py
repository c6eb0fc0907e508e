"""How a driver follows the car in front: SUMO's IDM and Krauss, for one car at a time."""

from __future__ import annotations

import numpy as np

from marl.compiled import njit
from scenarios.cav_merging.twin.arrays import (
    ACCEL,
    DECEL,
    DESIRED,
    KRAUSS,
    LENGTH,
    LIMIT,
    MERGE_START,
    MIN_GAP,
    RAMP_LIMIT,
    TAU,
    TWO_SQRT,
    Floats,
)

#: A gap of an empty road, m, and the smallest one the car-following model divides by.
FREE_GAP, TINY_GAP = 1e6, 1e-3
#: SUMO's numerical tolerance, which Krauss takes off every gap, m.
KRAUSS_EPS = 1e-3


@njit(error_model="numpy", inline="always")
def idm(v: float, gap: float, lead_v: float, limit: float, min_gap: float, driver: Floats, dt: float) -> float:
    """SUMO's IDM: the speed after dt. gap: bumper to bumper. limit: the lane's or the driver's desired speed."""
    wish = max(0.0, v * driver[TAU] + v * (v - lead_v) / driver[TWO_SQRT]) + min_gap
    ratio = v / limit
    ratio *= ratio
    space = wish / max(gap, TINY_GAP)
    return max(0.0, v + dt * driver[ACCEL] * (1.0 - ratio * ratio - space * space))


@njit(error_model="numpy", inline="always")
def krauss(v: float, gap: float, lead_v: float, lead_decel: float, limit: float, driver: Floats, dt: float) -> float:
    """SUMO's Krauss, sigma 0, without its emergency braking: the speed after dt. gap: less the standstill distance.

    The largest speed from which the driver, braking in steps after its reaction time, stops behind where the leader
    stops if that brakes now.
    """
    steps = np.floor(lead_v / (lead_decel * dt))
    space = gap + dt * (steps * lead_v - lead_decel * dt * steps * (steps + 1.0) / 2.0) - KRAUSS_EPS
    safe = 0.0
    if space > 0.0:
        brake, tau = driver[DECEL] * dt, driver[TAU]
        root = np.sqrt(dt * dt + 4.0 * (dt * (2.0 * space / brake - tau) + tau * tau))
        count = np.floor(0.5 - (tau - 0.5 * root) / dt)
        used = 0.5 * count * (count - 1.0) * brake * dt + count * brake * tau
        safe = count * brake + (space - used) / (count * dt + tau)
    return max(0.0, min(safe, v + driver[ACCEL] * dt, limit))


@njit(error_model="numpy", inline="always")
def secure_gap(v: float, lead_v: float, driver: Floats) -> float:
    """The gap, less the standstill distance, at which SUMO's IDM calls following secure."""
    return max(0.0, v * driver[TAU] + v * (v - lead_v) / driver[TWO_SQRT])


@njit(error_model="numpy", inline="always")
def limit_on(lane: int, x: float, driver: Floats, road: Floats) -> float:
    """The speed that a driver wants to drive at most at x: on a ramp its wish in proportion to the ramp's limit."""
    if lane == 0 and x < road[MERGE_START]:
        return min(driver[DESIRED] * (road[RAMP_LIMIT] / road[LIMIT]), road[RAMP_LIMIT])
    return min(driver[DESIRED], road[LIMIT])


@njit(error_model="numpy")
def following(i: int, p: int, limit: float, x: Floats, v: Floats, drivers: Floats, dt: float) -> float:
    """The speed car-following gives driver i behind car p (-1: free road). limit: ``limit_on``."""
    me = drivers[i]
    if me[KRAUSS] > 0.0:
        if p < 0:
            return min(v[i] + me[ACCEL] * dt, limit)
        gap = x[p] - drivers[p, LENGTH] - x[i] - me[MIN_GAP]
        return krauss(v[i], gap, v[p], max(me[DECEL], drivers[p, DECEL]), limit, me, dt)
    if p < 0:
        return idm(v[i], FREE_GAP, limit, limit, 0.0, me, dt)
    return idm(v[i], x[p] - drivers[p, LENGTH] - x[i], v[p], limit, me[MIN_GAP], me, dt)
