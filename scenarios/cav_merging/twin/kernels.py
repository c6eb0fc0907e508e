"""The twin's dynamics for the CPU: one copy at a time, cars kept in the order of their positions.

A decision is two simulation steps of SUMO's order: all cars choose their next speed from the same moment, move
together, and change lanes after the move. ``reference.py`` has the same rules as plain tensor operations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.cav_merging.drivers import EMERGENCY_DECEL, P

DESIRED, TAU, ACCEL, DECEL = int(P.DESIRED), int(P.TAU), int(P.ACCEL), int(P.DECEL)
MIN_GAP, LENGTH, ASSERTIVE, TWO_SQRT = int(P.MIN_GAP), int(P.LENGTH), int(P.ASSERTIVE), int(P.TWO_SQRT)
KRAUSS = int(P.KRAUSS)

#: Columns of the road table ``[B, 5]``.
MERGE_START, MERGE_END, ROAD_END, LIMIT, MAIN_LANES = range(5)

#: A gap of an empty road, m, and the smallest one the car-following model divides by.
FREE_GAP, TINY_GAP = 1e6, 1e-3
#: LC2013's constants: cutting in needs this much more speed, falling behind this much braking, urgency near the end.
HELP_OVERTAKE, FALL_BEHIND, URGENCY = 10.0 / 3.6, 7.0 / 3.6, 2.0
#: How slowly LC2013 forgets its speed when it judges the time left, per simulation step of 0.1 s.
LOOK_MEMORY = 0.99
#: SUMO's tolerance of positions, m.
SLACK = 0.1
#: Drivers stop this short of the acceleration lane's end, m.
STOP_SHORT = 0.01
#: SUMO's numerical tolerance, which Krauss takes off every gap, m.
KRAUSS_EPS = 1e-3
#: MOBIL (Kesting, Treiber, Helbing 2007) between main lanes: the least gain in acceleration, m/s^2.
MOBIL_GAIN = 0.5

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


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


@njit(error_model="numpy")
def neighbours_copy(x: Floats, lane: Ints, present: Flags, order: Ints, last: Ints, lead: Ints, follow: Ints) -> int:
    """Sort ``order`` by falling x (insertion sort: it is nearly sorted) and fill lead, follow ``[V, L]`` (-1: none).

    lead[i, l] is the nearest car on lane l in front of car i, follow[i, l] the nearest one behind; of two cars at the
    same x, the one with the smaller number counts as in front. Returns the number of cars; they lead ``order``.
    """
    slots, lanes = lead.shape
    for r in range(1, slots):
        i = order[r]
        s = r - 1
        while s >= 0:
            j = order[s]
            if present[i]:
                before = not present[j] or x[i] > x[j] or (x[i] == x[j] and i < j)
            else:
                before = not present[j] and i < j
            if not before:
                break
            order[s + 1] = j
            s -= 1
        order[s + 1] = i
    for k in range(lanes):
        last[k] = -1
    count = 0
    for r in range(slots):
        i = order[r]
        if not present[i]:
            break
        count += 1
        for k in range(lanes):
            lead[i, k] = last[k]
        last[lane[i]] = i
    for r in range(count, slots):
        for k in range(lanes):
            lead[order[r], k] = -1
            follow[order[r], k] = -1
    for k in range(lanes):
        last[k] = -1
    for r in range(count - 1, -1, -1):
        i = order[r]
        for k in range(lanes):
            follow[i, k] = last[k]
        last[lane[i]] = i
    return count


@njit(error_model="numpy", inline="always")
def _advise(advice: Floats, i: int, wish: float, v: Floats, drivers: Floats, dt: float) -> None:
    """A speed that lane changing asks of car i; ignored if comfortable braking or accelerating cannot reach it."""
    driver = drivers[i]
    low, high = max(0.0, v[i] - driver[DECEL] * dt), v[i] + driver[ACCEL] * dt
    if low - 1e-9 <= wish <= high + 1e-9:
        advice[i] = min(advice[i], wish)


@njit(error_model="numpy")
def _ask_for_room(
    i: int,
    f: int,
    p: int,
    x: Floats,
    v: Floats,
    gained: Floats,
    look: Floats,
    drivers: Floats,
    road: Floats,
    advice: Floats,
    dt: float,
) -> None:
    """What a blocked driver i on the acceleration lane does about it, after LC2013: follow p, or ask f to make room."""
    me = drivers[i]
    left = road[MERGE_END] - x[i]
    remaining = max(dt, left / max(look[i], 1e-3) / URGENCY)
    limit = min(me[DESIRED], road[LIMIT])
    planned = min(v[i], idm(v[i], left, 0.0, limit, 0.0, me, dt))
    lead_blocks = False
    if p >= 0:
        gap = x[p] - drivers[p, LENGTH] - x[i] - me[MIN_GAP]
        lead_blocks = gap < secure_gap(v[i], v[p], me) / me[ASSERTIVE]
        lead_next = v[p] - dt * max(1.0, -gained[p])
        next_gap = gap + dt * (lead_next - planned)
        target = max(v[i] - me[DECEL] * dt, idm(v[i], next_gap + me[MIN_GAP], lead_next, limit, me[MIN_GAP], me, dt))
        if lead_blocks and target < v[i]:
            decel = min(me[DECEL], max(FALL_BEHIND, (v[i] - target) / remaining))
            planned = min(planned, max(0.0, v[i] - decel * dt))
            _advise(advice, i, planned, v, drivers, dt)
        else:
            _advise(advice, i, target, v, drivers, dt)
            if not lead_blocks:
                planned = min(planned, target)
    if f < 0:
        return
    them = drivers[f]
    gap = x[i] - me[LENGTH] - x[f] - them[MIN_GAP]
    room = min(them[DESIRED], road[LIMIT])
    if gap >= secure_gap(v[f], v[i], them) / me[ASSERTIVE]:
        if lead_blocks:
            first = idm(v[f], gap + dt * planned + them[MIN_GAP], planned, room, them[MIN_GAP], them, dt)
            keep = idm(v[f], gap + dt * (planned - first) + them[MIN_GAP], planned, room, them[MIN_GAP], them, dt)
            # Asked only if the next gap would no longer be secure (fitted to SUMO 1.28: 299 of 300 steps).
            if gap + dt * (planned - keep) < secure_gap(v[f], planned, them):
                _advise(advice, f, keep, v, drivers, dt)
        return
    if planned - v[f] >= HELP_OVERTAKE and (secure_gap(v[f], planned, them) - gap) / remaining < planned - v[f]:
        _advise(advice, f, planned - HELP_OVERTAKE, v, drivers, dt)
        return
    slowest = max(0.0, v[f] - them[DECEL] * dt)
    after_1s = max(0.0, v[f] - them[DECEL])
    closing = planned - after_1s
    secure = secure_gap(after_1s, planned, them)
    if gap + closing > 0.0 and gap + closing >= secure:
        first = max(slowest, idm(v[f], gap + dt * planned + them[MIN_GAP], planned, room, them[MIN_GAP], them, dt))
        keep = idm(v[f], gap + dt * (planned - first) + them[MIN_GAP], planned, room, them[MIN_GAP], them, dt)
        _advise(advice, f, max(slowest, keep), v, drivers, dt)
    elif closing > 0.0 and closing * remaining > secure - gap - closing + SLACK:
        _advise(advice, f, slowest, v, drivers, dt)
    else:
        help_v = max(v[f], v[i] + HELP_OVERTAKE)
        _advise(advice, f, help_v, v, drivers, dt)
        passing = gap + me[LENGTH] + me[MIN_GAP] + them[LENGTH] + secure_gap(planned, help_v, me)
        _advise(advice, i, max(help_v - max(0.0, passing) / remaining, v[i] - me[DECEL] * dt), v, drivers, dt)


@njit(error_model="numpy")
def _let_in(
    i: int, blocked: int, x: Floats, v: Floats, drivers: Floats, road: Floats, advice: Floats, dt: float
) -> None:
    """A slow driver i on the main road follows a blocked car in front of it on the acceleration lane."""
    gap = x[blocked] - drivers[blocked, LENGTH] - x[i] - drivers[i, MIN_GAP]
    if gap > SLACK:
        limit = min(drivers[i, DESIRED], road[LIMIT])
        gap += drivers[i, MIN_GAP] - SLACK
        _advise(advice, i, idm(v[i], gap, v[blocked], limit, drivers[i, MIN_GAP], drivers[i], dt), v, drivers, dt)


@njit(error_model="numpy")
def _accepts(i: int, p: int, f: int, x: Floats, v: Floats, drivers: Floats) -> bool:
    """Driver i finds the gap between leader p and follower f secure (each -1 if there is none)."""
    me = drivers[i]
    if p >= 0:
        gap = x[p] - drivers[p, LENGTH] - x[i] - me[MIN_GAP]
        if gap < 0.0 or gap < secure_gap(v[i], v[p], me) / me[ASSERTIVE]:
            return False
    if f >= 0:
        gap = x[i] - me[LENGTH] - x[f] - drivers[f, MIN_GAP]
        if gap < 0.0 or gap < secure_gap(v[f], v[i], drivers[f]) / me[ASSERTIVE]:
            return False
    return True


@njit(error_model="numpy")
def _following(i: int, p: int, x: Floats, v: Floats, drivers: Floats, road: Floats, dt: float) -> float:
    """The speed car-following gives driver i behind car p (-1: free road)."""
    me = drivers[i]
    limit = min(me[DESIRED], road[LIMIT])
    if me[KRAUSS] > 0.0:
        if p < 0:
            return min(v[i] + me[ACCEL] * dt, limit)
        gap = x[p] - drivers[p, LENGTH] - x[i] - me[MIN_GAP]
        return krauss(v[i], gap, v[p], max(me[DECEL], drivers[p, DECEL]), limit, me, dt)
    if p < 0:
        return idm(v[i], FREE_GAP, limit, limit, 0.0, me, dt)
    return idm(v[i], x[p] - drivers[p, LENGTH] - x[i], v[p], limit, me[MIN_GAP], me, dt)


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
                _let_in(i, last_blocked, x, v, drivers, road, advice, dt)
            if first_blocked != last_blocked:
                _let_in(i, first_blocked, x, v, drivers, road, advice, dt)
        if lane[i] == 0 and not controlled[i] and beside:
            last_blocked = i
            if first_blocked < 0:
                first_blocked = i
            look[i] = max(v[i], LOOK_MEMORY * look[i] + (1.0 - LOOK_MEMORY) * v[i])
            _ask_for_room(i, follow[i, 1], lead[i, 1], x, v, gained, look, drivers, road, advice, dt)
        else:
            look[i] = 0.0
    for r in range(count):
        i = order[r]
        if controlled[i]:
            gained[i] = max(0.0, v[i] + accel[i] * dt)
            continue
        wish = _following(i, lead[i, lane[i]], x, v, drivers, road, dt)
        if lane[i] == 0:
            limit = min(drivers[i, DESIRED], road[LIMIT])
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
def _change_lanes(
    order: Ints,
    count: int,
    x: Floats,
    v: Floats,
    lane: Ints,
    controlled: Flags,
    drivers: Floats,
    road: Floats,
    turn: Ints,
    lead: Ints,
    follow: Ints,
    target: Ints,
    obey: bool,
    leftwards: bool,
    dt: float,
) -> bool:
    """Automated cars go where ``turn`` says, drivers where they accept the gap; returns whether anybody moved over."""
    lanes = int(road[MAIN_LANES])
    changed = False
    for r in range(count):
        i = order[r]
        target[i] = lane[i]
        beside = road[MERGE_START] <= x[i] < road[MERGE_END]
        if controlled[i]:
            goal = lane[i] + turn[i]
            if obey and turn[i] != 0 and 1 <= goal <= lanes and (lane[i] > 0 or beside):
                target[i] = goal
        elif lane[i] == 0:
            if beside and _accepts(i, lead[i, 1], follow[i, 1], x, v, drivers):
                target[i] = 1
        elif lanes > 1:
            goal = lane[i] + (1 if leftwards else -1)
            if 1 <= goal <= lanes:
                stay = _following(i, lead[i, lane[i]], x, v, drivers, road, dt)
                move = _following(i, lead[i, goal], x, v, drivers, road, dt)
                if move - stay > MOBIL_GAIN * dt and _accepts(i, lead[i, goal], follow[i, goal], x, v, drivers):
                    target[i] = goal
    for r in range(count):
        i = order[r]
        changed |= target[i] != lane[i]
        lane[i] = target[i]
    return changed


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
            _move(
                order[b], count, x[b], v[b], gained[b], look[b], lane[b], controlled[b], drivers[b], road[b], accel[b],
                lead, follow, advice, dt,
            )  # fmt: skip
            count = neighbours_copy(x[b], lane[b], present[b], order[b], last, lead, follow)
            hit, gone = _collide(
                order[b], count, x[b], lane[b], drivers[b], road[b], lead, present[b], crashed[b], left[b]
            )
            hits[b] += hit
            if gone:
                count = neighbours_copy(x[b], lane[b], present[b], order[b], last, lead, follow)
            leftwards = (step[b] * substeps + s) % 2 == 0
            if _change_lanes(
                order[b], count, x[b], v[b], lane[b], controlled[b], drivers[b], road[b], turn[b],
                lead, follow, target, s == 0, leftwards, dt,
            ):  # fmt: skip
                count = neighbours_copy(x[b], lane[b], present[b], order[b], last, lead, follow)
                hit, gone = _collide(
                    order[b], count, x[b], lane[b], drivers[b], road[b], lead, present[b], crashed[b], left[b]
                )
                hits[b] += hit
                if gone:
                    count = neighbours_copy(x[b], lane[b], present[b], order[b], last, lead, follow)


@njit(error_model="numpy")
def neighbours(x: Floats, lane: Ints, present: Flags, order: Ints, lead: Ints, follow: Ints) -> None:
    """``neighbours_copy`` for all copies: lead, follow ``[B, V, L]``."""
    last = np.empty(lead.shape[2], np.int64)
    for b in range(x.shape[0]):
        neighbours_copy(x[b], lane[b], present[b], order[b], last, lead[b], follow[b])
