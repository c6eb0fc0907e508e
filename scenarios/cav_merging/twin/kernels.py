"""The twin's dynamics for the CPU: one copy at a time, cars kept in the order of their positions.

A decision is two simulation steps of SUMO's order: all cars choose their next speed from the same moment, move
together, and change lanes after the move. ``reference.py`` has the same rules as plain tensor operations.
"""

from __future__ import annotations

import numpy as np

from marl.compiled import njit
from scenarios.cav_merging.drivers import EMERGENCY_DECEL
from scenarios.cav_merging.twin.arrays import (
    DECEL,
    KRAUSS,
    LENGTH,
    MAIN_LANES,
    MERGE_END,
    MERGE_START,
    ROAD_END,
    Flags,
    Floats,
    Ints,
)
from scenarios.cav_merging.twin.car_following import following, idm, krauss, limit_on
from scenarios.cav_merging.twin.lane_changing import ask_for_room, change_lanes, let_in
from scenarios.cav_merging.twin.neighbours import neighbours_copy

#: How slowly LC2013 forgets its speed when it judges the time left, per simulation step of 0.1 s.
LOOK_MEMORY = 0.99
#: Drivers stop this short of the acceleration lane's end, m.
STOP_SHORT = 0.01


@njit(error_model="numpy")
def _move(
    order: Ints,
    count: int,
    x: Floats,
    v: Floats,
    gained: Floats,
    look: Floats,
    lane: Ints,
    controlled: Flags,
    drivers: Floats,
    road: Floats,
    accel: Floats,
    lead: Ints,
    follow: Ints,
    advice: Floats,
    dt: float,
) -> None:
    """All cars choose their speed from this moment, then move."""
    for r in range(count):
        advice[order[r]] = np.inf
    first_blocked, last_blocked = -1, -1
    for r in range(count):
        i = order[r]
        beside = road[MERGE_START] <= x[i] < road[MERGE_END]
        if lane[i] == 1 and not controlled[i] and beside and v[i] < drivers[i, DECEL]:
            if last_blocked >= 0:
                let_in(i, last_blocked, x, v, drivers, road, advice, dt)
            if first_blocked != last_blocked:
                let_in(i, first_blocked, x, v, drivers, road, advice, dt)
        if lane[i] == 0 and not controlled[i] and beside:
            last_blocked = i
            if first_blocked < 0:
                first_blocked = i
            look[i] = max(v[i], LOOK_MEMORY * look[i] + (1.0 - LOOK_MEMORY) * v[i])
            ask_for_room(i, follow[i, 1], lead[i, 1], x, v, gained, look, drivers, road, advice, dt)
        else:
            look[i] = 0.0
    for r in range(count):
        i = order[r]
        if controlled[i]:
            gained[i] = max(0.0, v[i] + accel[i] * dt)
            continue
        limit = limit_on(lane[i], x[i], drivers[i], road)
        wish = following(i, lead[i, lane[i]], limit, x, v, drivers, dt)
        if lane[i] == 0:
            left_space = road[MERGE_END] - x[i]
            if drivers[i, KRAUSS] > 0.0:
                stop = krauss(v[i], left_space, 0.0, drivers[i, DECEL], limit, drivers[i], dt)
            else:
                stop = idm(v[i], left_space, 0.0, limit, 0.0, drivers[i], dt)
            wish = min(wish, stop, max(0.0, left_space - STOP_SHORT) / dt)
        gained[i] = max(min(wish, advice[i]), 0.0, v[i] - EMERGENCY_DECEL * dt)
    for r in range(count):
        i = order[r]
        new = gained[i]
        gained[i] = (new - v[i]) / dt
        v[i] = new
        x[i] += new * dt


@njit(error_model="numpy")
def _collide(
    order: Ints,
    count: int,
    x: Floats,
    lane: Ints,
    drivers: Floats,
    road: Floats,
    lead: Ints,
    present: Flags,
    crashed: Flags,
    left: Flags,
) -> tuple[int, bool]:
    """Mark cars that overlap, ran off the acceleration lane or left the road, and take them off.

    Returns the number of collisions and whether any car was taken off.
    """
    hits = 0
    for r in range(count):
        i = order[r]
        p = lead[i, lane[i]]
        if p >= 0 and x[p] - drivers[p, LENGTH] < x[i]:
            crashed[i] = True
            crashed[p] = True
            hits += 1
        if lane[i] == 0 and x[i] >= road[MERGE_END]:
            crashed[i] = True
            hits += 1
    gone = False
    for r in range(count):
        i = order[r]
        if crashed[i]:
            present[i] = False
            gone = True
        elif x[i] >= road[ROAD_END]:
            present[i] = False
            left[i] = True
            gone = True
    return hits, gone


@njit(error_model="numpy")
def advance(
    x: Floats,
    v: Floats,
    gained: Floats,
    look: Floats,
    lane: Ints,
    present: Flags,
    controlled: Flags,
    drivers: Floats,
    road: Floats,
    accel: Floats,
    turn: Ints,
    step: Ints,
    order: Ints,
    crashed: Flags,
    left: Flags,
    hits: Ints,
    substeps: int,
    dt: float,
) -> None:
    """One decision of all copies, in place; shapes as in ``reference.advance``."""
    copies, slots = x.shape
    lanes = int(road[:, MAIN_LANES].max()) + 1
    lead, follow = np.empty((slots, lanes), np.int64), np.empty((slots, lanes), np.int64)
    advice, target, last = np.empty(slots), np.empty(slots, np.int64), np.empty(lanes, np.int64)
    for b in range(copies):
        crashed[b] = False
        left[b] = False
        hits[b] = 0
        count = neighbours_copy(x[b], lane[b], present[b], order[b], last, lead, follow)
        for s in range(substeps):
            leftwards = (step[b] * substeps + s) % 2 == 0
            for sideways in (False, True):
                if not sideways:
                    _move(
                        order[b], count, x[b], v[b], gained[b], look[b], lane[b], controlled[b], drivers[b], road[b],
                        accel[b], lead, follow, advice, dt,
                    )  # fmt: skip
                elif not change_lanes(
                    order[b], count, x[b], v[b], lane[b], controlled[b], drivers[b], road[b], turn[b],
                    lead, follow, target, s == 0, leftwards, dt,
                ):  # fmt: skip
                    break
                count = neighbours_copy(x[b], lane[b], present[b], order[b], last, lead, follow)
                hit, gone = _collide(
                    order[b], count, x[b], lane[b], drivers[b], road[b], lead, present[b], crashed[b], left[b]
                )
                hits[b] += hit
                if gone:
                    count = neighbours_copy(x[b], lane[b], present[b], order[b], last, lead, follow)
