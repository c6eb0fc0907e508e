"""What drivers do about lanes, after SUMO's LC2013 on the acceleration lane and MOBIL between main lanes."""

from __future__ import annotations

from marl.compiled import njit
from scenarios.cav_merging.twin.arrays import (
    ACCEL,
    ASSERTIVE,
    DECEL,
    DESIRED,
    LENGTH,
    LIMIT,
    MAIN_LANES,
    MERGE_END,
    MERGE_START,
    MIN_GAP,
    Flags,
    Floats,
    Ints,
)
from scenarios.cav_merging.twin.car_following import following, idm, secure_gap

#: LC2013's constants: cutting in needs this much more speed, falling behind this much braking, urgency near the end.
HELP_OVERTAKE, FALL_BEHIND, URGENCY = 10.0 / 3.6, 7.0 / 3.6, 2.0
#: SUMO's tolerance of positions, m.
SLACK = 0.1
#: MOBIL (Kesting, Treiber, Helbing 2007) between main lanes: the least gain in acceleration, m/s^2.
MOBIL_GAIN = 0.5


@njit(error_model="numpy", inline="always")
def _advise(advice: Floats, i: int, wish: float, v: Floats, drivers: Floats, dt: float) -> None:
    """A speed that lane changing asks of car i; ignored if comfortable braking or accelerating cannot reach it."""
    driver = drivers[i]
    low, high = max(0.0, v[i] - driver[DECEL] * dt), v[i] + driver[ACCEL] * dt
    if low - 1e-9 <= wish <= high + 1e-9:
        advice[i] = min(advice[i], wish)


@njit(error_model="numpy")
def ask_for_room(
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
def let_in(
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
def _let_the_ramp_go_first(
    order: Ints,
    count: int,
    x: Floats,
    v: Floats,
    lane: Ints,
    controlled: Flags,
    drivers: Floats,
    target: Ints,
) -> None:
    """Drivers on lane 2 stay there if a car of the ramp takes the place that they would take on lane 1."""
    for r in range(count):
        i = order[r]
        if lane[i] != 2 or target[i] != 1 or controlled[i]:
            continue
        p, f = -1, -1
        for s in range(count):
            j = order[s]
            if lane[j] == 0 and target[j] == 1:
                if s < r:
                    p = j
                elif f < 0:
                    f = j
        if not _accepts(i, p, f, x, v, drivers):
            target[i] = 2


@njit(error_model="numpy")
def change_lanes(
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
                limit = min(drivers[i, DESIRED], road[LIMIT])
                stay = following(i, lead[i, lane[i]], limit, x, v, drivers, dt)
                move = following(i, lead[i, goal], limit, x, v, drivers, dt)
                if move - stay > MOBIL_GAIN * dt and _accepts(i, lead[i, goal], follow[i, goal], x, v, drivers):
                    target[i] = goal
    if lanes > 1 and not leftwards:
        _let_the_ramp_go_first(order, count, x, v, lane, controlled, drivers, target)
    for r in range(count):
        i = order[r]
        changed |= target[i] != lane[i]
        lane[i] = target[i]
    return changed
