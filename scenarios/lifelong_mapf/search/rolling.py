"""Plans that roll: each step of the world they lose their first move and gain one of PIBT at their ends.

All functions work on one copy; shapes as in ``neighbourhoods``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.guidance.base import NONE, move_between
from scenarios.lifelong_mapf.guidance.prices import Prices, extra_price, reverse
from scenarios.lifelong_mapf.maps.fields import BUCKETS, Board, neighbour
from scenarios.lifelong_mapf.pibt.preferences import Scale
from scenarios.lifelong_mapf.pibt.rule import PibtTable, forget_targets, joint_targets, sort_by_urgency
from scenarios.lifelong_mapf.pibt.swap import Ways
from scenarios.lifelong_mapf.search.neighbourhoods import Ground, Plans, reserve
from scenarios.lifelong_mapf.search.space_time import plan_delay


@njit
def write_costs(
    board: Board,
    prices: Prices,
    m: int,
    b: int,
    stay: int,
    cost: NDArray[np.int32],
) -> None:
    """What waiting and moving cost at this moment in copy b, which is on map m, into ``cost`` (int32 ``[cells, 5]``).

    A field counts a cell where it is left, so moving out of u costs ``a(u) + e(u -> v)`` (``guidance.prices``);
    waiting there costs ``a(u) + stay``.
    """
    most = BUCKETS - 1
    for cell in range(board.exits.size):
        leaving = prices.static[m, cell]
        dynamic = np.float32(0.5)
        if prices.occupied.shape[1]:
            dynamic += prices.occupied_factor * prices.occupied[b, cell]
        if prices.waits.shape[1]:
            dynamic += prices.waits_factor * prices.waits[b, cell]
        leaving = min(leaving + int(dynamic), most)
        cost[cell, 0] = min(leaving + stay, most)
        for move in range(1, 5):
            target = neighbour(board, cell, move)
            extra = 0
            if prices.directed and target != cell:
                extra = extra_price(prices, m, b, target, reverse(move))
            cost[cell, move] = min(leaving + extra, most)


@njit
def roll(
    key: np.int64,
    begun: bool,
    position: NDArray[np.int32],
    known: NDArray[np.int32],
    age: NDArray[np.int32],
    order: NDArray[np.int32],
    urgency: NDArray[np.int64],
    scale: Scale,
    ground: Ground,
    ways: Ways,
    plans: Plans,
    table: PibtTable,
) -> None:
    """Bring the plans up to the present ``position`` (int32 ``[N]``) and to their full length, and reserve them.

    begun: whether a new episode did. Then, or if the world did not carry out the last moves, plans are made anew.
    known, age, order: int32 ``[N]``, the goals of the step before, the steps since each was given (0 for those on
    theirs), and the agents by urgency, the oldest goal first, near goals favoured as in ``Pibt``; kept from step to
    step. urgency: int64 ``[N]``, scratch.
    """
    plan = plans.plan
    agents, length = plan.shape
    for n in range(agents):
        if not begun and ground.alive[n] and plan[n, 1] != position[n]:
            begun = True
    ready = 0
    if begun:
        plan[:, 0] = position
    else:
        ready = length - 2
        for n in range(agents):
            for time in range(length - 1):
                plan[n, time] = plan[n, time + 1]
    count = 0
    for n in range(agents):
        fresh = begun or ground.goal[n] != known[n]
        age[n] = 0 if fresh or position[n] == ground.goal[n] else age[n] + 1
        known[n] = ground.goal[n]
        if fresh and ground.alive[n]:
            plans.fresh[2 + count] = n
            count += 1
    plans.fresh[0], plans.fresh[1] = count, 0
    for n in range(agents):
        urgency[n] = scale.waited * age[n]
        if scale.closer and ground.alive[n]:
            urgency[n] -= scale.closer * np.int64(ground.field[n, plan[n, ready]])
    sort_by_urgency(urgency, order)
    for time in range(ready, length - 1):
        ends = plan[:, time]
        joint_targets(key, ends, ground.alive, ground.board, ways, order, table)
        for n in range(agents):
            if ground.alive[n]:
                plan[n, time + 1] = table.target[n]
        forget_targets(ends, ground.alive, table)
    for n in range(agents):
        plans.tried[n] = 0 if begun else plans.tried[n] >> 1
        plans.delay[n] = 0
        if ground.alive[n]:
            reserve(plans.table, plan[n], n)
            plans.delay[n] = _delay(ground, n, plan[n])


@njit
def start_anew(
    key: np.int64,
    age: NDArray[np.int32],
    order: NDArray[np.int32],
    urgency: NDArray[np.int64],
    scale: Scale,
    ground: Ground,
    ways: Ways,
    plans: Plans,
    other: NDArray[np.int32],
    table: PibtTable,
) -> bool:
    """Put what the rule alone would do from here on in the place of the plans, if that is less delayed; whether it was.

    Plans that roll may hold on to what was good once; so the search never starts worse off than the rule. Delays only
    grow from step to step, so most of the time the first steps show that the plans are better.
    Arguments as ``roll``, which is called before. other: int32 ``[N, window + 1]``, scratch.
    """
    plan = plans.plan
    agents, length = plan.shape
    bound, total = 0, 0
    for n in range(agents):
        bound += int(plans.delay[n])
        other[n, 0] = plan[n, 0]
        urgency[n] = scale.waited * age[n]
        if scale.closer and ground.alive[n]:
            urgency[n] -= scale.closer * np.int64(ground.field[n, plan[n, 0]])
    sort_by_urgency(urgency, order)
    for time in range(length - 1):
        if total >= bound:
            return False
        ends = other[:, time]
        joint_targets(key, ends, ground.alive, ground.board, ways, order, table)
        for n in range(agents):
            if ground.alive[n]:
                other[n, time + 1] = table.target[n]
        forget_targets(ends, ground.alive, table)
        total = 0
        for n in range(agents):
            if ground.alive[n]:
                total += _delay(ground, n, other[n, : time + 2])
    if total >= bound:
        return False
    _take(ground, plans, other)
    return True


@njit
def _take(ground: Ground, plans: Plans, other: NDArray[np.int32]) -> None:
    """Put ``other`` (int32 ``[N, window + 1]``) in the place of all plans."""
    agents, length = plans.plan.shape
    for n in range(agents):
        if ground.alive[n]:
            for time in range(length):
                plans.table[time, plans.plan[n, time]] = NONE
    for n in range(agents):
        if ground.alive[n]:
            plans.plan[n] = other[n]
            reserve(plans.table, plans.plan[n], n)
            plans.delay[n] = _delay(ground, n, plans.plan[n])


@njit(inline="always")
def _delay(ground: Ground, n: int, plan: NDArray[np.int32]) -> int:
    return plan_delay(ground.board.width, ground.cost, ground.field[n], ground.goal[n], ground.restart, plan)


@njit
def carry_out(ground: Ground, plans: Plans, actions: NDArray[np.int64]) -> int:
    """Write the first moves of all plans into ``actions`` (int64 ``[N]``) and clear the reservations.

    Returns an agent whose plan does not agree with another's (one cell at one time, or places exchanged), or ``NONE``.
    """
    plan, table = plans.plan, plans.table
    agents, length = plan.shape
    fault = NONE
    for n in range(agents):
        actions[n] = 0
        if not ground.alive[n]:
            continue
        for time in range(length):
            cell = plan[n, time]
            if table[time, cell] != n:
                fault = n
            if time + 1 < length and plan[n, time + 1] != cell:
                other = table[time, plan[n, time + 1]]
                if other != NONE and table[time + 1, cell] == other:
                    fault = n
        actions[n] = move_between(plan[n, 0], plan[n, 1], ground.board.width)
    for n in range(agents):
        if ground.alive[n]:
            for time in range(length):
                table[time, plan[n, time]] = NONE
    return fault
