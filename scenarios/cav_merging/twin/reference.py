"""The twin's dynamics as plain tensor operations: the oracle of the compiled form, and the form for a GPU.

No data-dependent loops; indices of -1 mean 'no such car' throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scenarios.cav_merging.config import SIM_STEP_S, SUBSTEPS
from scenarios.cav_merging.drivers import EMERGENCY_DECEL, P
from scenarios.cav_merging.traffic import R, Traffic
from scenarios.cav_merging.twin.car_following import FREE_GAP, KRAUSS_EPS, TINY_GAP
from scenarios.cav_merging.twin.kernels import LOOK_MEMORY, STOP_SHORT
from scenarios.cav_merging.twin.lane_changing import FALL_BEHIND, HELP_OVERTAKE, MOBIL_GAIN, SLACK, URGENCY

DT = SIM_STEP_S


def neighbours(x: Tensor, lane: Tensor, present: Tensor, lanes: int) -> tuple[Tensor, Tensor]:
    """The nearest car in front of and behind each car on each lane: two int64 ``[B, V, L]``, -1 where there is none.

    Of two cars at the same x, the one with the smaller number counts as in front.
    """
    order = torch.sort(torch.where(present, -x, torch.inf), dim=1, stable=True).indices
    rank = torch.arange(x.shape[1], device=x.device).expand_as(order)
    there = present.gather(1, order)
    on_lane = lane.gather(1, order).unsqueeze(-1) == torch.arange(lanes, device=x.device)
    on_lane &= there.unsqueeze(-1)
    tables = []
    for flip in (False, True):
        marks = torch.where(on_lane.flip(1) if flip else on_lane, rank.unsqueeze(-1), -1)
        seen = torch.cummax(marks, dim=1).values
        before = torch.cat((torch.full_like(seen[:, :1], -1), seen[:, :-1]), 1)
        if flip:
            before = torch.where(before >= 0, x.shape[1] - 1 - before, -1).flip(1)
        slot = torch.where(before >= 0, order.unsqueeze(-1).expand_as(before).gather(1, before.clamp(min=0)), -1)
        slot = torch.where(there.unsqueeze(-1), slot, -1)
        tables.append(torch.empty_like(slot).scatter_(1, order.unsqueeze(-1).expand_as(slot), slot))
    return tables[0], tables[1]


def pick(values: Tensor, index: Tensor) -> Tensor:
    """``values[b, index[b, i]]`` for values ``[B, V]`` or ``[B, V, D]``; of slot 0 where the index is -1."""
    safe = index.clamp(min=0)
    if values.dim() == index.dim():
        return values.gather(1, safe)
    return values.gather(1, safe.unsqueeze(-1).expand(*safe.shape, values.shape[-1]))


def idm(v: Tensor, gap: Tensor, lead_v: Tensor, limit: Tensor, min_gap: Tensor | float, driver: Tensor) -> Tensor:
    """SUMO's IDM: speeds after one simulation step; all ``[B, V]``, driver ``[B, V, 8]``."""
    wish = (v * driver[..., P.TAU] + v * (v - lead_v) / driver[..., P.TWO_SQRT]).clamp(min=0.0) + min_gap
    ratio = v / limit
    ratio = ratio * ratio
    space = wish / gap.clamp(min=TINY_GAP)
    return (v + DT * driver[..., P.ACCEL] * (1.0 - ratio * ratio - space * space)).clamp(min=0.0)


def krauss(v: Tensor, gap: Tensor, lead_v: Tensor, lead_decel: Tensor, limit: Tensor, driver: Tensor) -> Tensor:
    """SUMO's Krauss, sigma 0, without its emergency braking; see ``car_following.krauss``."""
    steps = torch.floor(lead_v / (lead_decel * DT))
    space = gap + DT * (steps * lead_v - lead_decel * DT * steps * (steps + 1.0) / 2.0) - KRAUSS_EPS
    brake, tau = driver[..., P.DECEL] * DT, driver[..., P.TAU]
    room = space.clamp(min=0.0)
    root = torch.sqrt(DT * DT + 4.0 * (DT * (2.0 * room / brake - tau) + tau * tau))
    count = torch.floor(0.5 - (tau - 0.5 * root) / DT)
    used = 0.5 * count * (count - 1.0) * brake * DT + count * brake * tau
    safe = torch.where(space > 0.0, count * brake + (room - used) / (count * DT + tau), 0.0)
    return torch.minimum(torch.minimum(safe, v + driver[..., P.ACCEL] * DT), limit).clamp(min=0.0)


def secure_gap(v: Tensor, lead_v: Tensor, driver: Tensor) -> Tensor:
    """The gap, less the standstill distance, at which SUMO's IDM calls following secure."""
    return (v * driver[..., P.TAU] + v * (v - lead_v) / driver[..., P.TWO_SQRT]).clamp(min=0.0)


class Moment:
    """All cars at one moment, and the quantities that several rules need."""

    def __init__(self, traffic: Traffic, lanes: int):
        self.traffic = traffic
        self.road = traffic.road
        self.lead, self.follow = neighbours(traffic.x, traffic.lane, traffic.present, lanes)
        start, end = self.road[:, R.MERGE_START, None], self.road[:, R.MERGE_END, None]
        limit, ramp_limit = self.road[:, R.LIMIT, None], self.road[:, R.RAMP_LIMIT, None]
        wish = traffic.drivers[..., P.DESIRED]
        on_ramp = (traffic.lane == 0) & (traffic.x < start)
        on_main = torch.minimum(wish, limit)
        self.limit = torch.where(on_ramp, torch.minimum(wish * (ramp_limit / limit), ramp_limit), on_main)
        self.beside = (traffic.x >= start) & (traffic.x < end) & traffic.present

    def gap_to(self, lead: Tensor) -> Tensor:
        """Metres from each car's front to the rear of the car ``lead``; a free road's where there is none."""
        gap = pick(self.traffic.x, lead) - pick(self.traffic.drivers[..., P.LENGTH], lead) - self.traffic.x
        return torch.where(lead >= 0, gap, FREE_GAP)

    def following(self, lead: Tensor) -> Tensor:
        """The speed that car-following gives behind ``lead``."""
        traffic = self.traffic
        free = lead < 0
        lead_v = torch.where(free, self.limit, pick(traffic.v, lead))
        min_gap = torch.where(free, 0.0, traffic.drivers[..., P.MIN_GAP])
        by_idm = idm(traffic.v, self.gap_to(lead), lead_v, self.limit, min_gap, traffic.drivers)
        decel = torch.maximum(traffic.drivers[..., P.DECEL], pick(traffic.drivers[..., P.DECEL], lead))
        by_krauss = krauss(traffic.v, self.gap_to(lead) - min_gap, lead_v, decel, self.limit, traffic.drivers)
        return torch.where(traffic.drivers[..., P.KRAUSS] > 0.0, by_krauss, by_idm)

    def accepts(self, lead: Tensor, follow: Tensor) -> Tensor:
        """The driver finds the gap between ``lead`` and ``follow`` secure."""
        traffic, bold = self.traffic, self.traffic.drivers[..., P.ASSERTIVE]
        ahead = self.gap_to(lead) - traffic.drivers[..., P.MIN_GAP]
        needed = secure_gap(traffic.v, pick(traffic.v, lead), traffic.drivers) / bold
        front = (lead < 0) | ((ahead >= 0.0) & (ahead >= needed))
        them, their_v = pick(traffic.drivers, follow), pick(traffic.v, follow)
        behind = traffic.x - traffic.drivers[..., P.LENGTH] - pick(traffic.x, follow) - them[..., P.MIN_GAP]
        rear = (follow < 0) | ((behind >= 0.0) & (behind >= secure_gap(their_v, traffic.v, them) / bold))
        return front & rear


class _Advice:
    """Speeds that lane changing asks for; the least of those that a driver can reach comfortably counts."""

    def __init__(self, traffic: Traffic):
        self.least = torch.full_like(traffic.v, torch.inf)
        drivers = traffic.drivers
        self._low = (traffic.v - drivers[..., P.DECEL] * DT).clamp(min=0.0) - 1e-9
        self._high = traffic.v + drivers[..., P.ACCEL] * DT + 1e-9

    def give(self, who: Tensor, wish: Tensor, where: Tensor) -> None:
        """Ask car ``who[b, i]`` for the speed ``wish[b, i]`` wherever ``where[b, i]``."""
        heard = where & (who >= 0) & (pick(self._low, who) <= wish) & (wish <= pick(self._high, who))
        asked = torch.where(heard, wish, torch.inf)
        self.least.scatter_reduce_(1, who.clamp(min=0), asked, "amin")


def _ask_for_room(moment: Moment, blocked: Tensor, advice: _Advice) -> None:
    """What blocked drivers on the acceleration lane do: follow the leader beside, or ask the follower to make room."""
    traffic, me = moment.traffic, moment.traffic.drivers
    itself = torch.arange(traffic.x.shape[1], device=traffic.x.device).expand_as(traffic.lane)
    leader, follower = moment.lead[..., 1], moment.follow[..., 1]
    left = moment.road[:, R.MERGE_END, None] - traffic.x
    remaining = (left / traffic.look.clamp(min=1e-3) / URGENCY).clamp(min=DT)
    still = torch.zeros_like(traffic.v)
    planned = torch.minimum(traffic.v, idm(traffic.v, left, still, moment.limit, 0.0, me))
    gap = moment.gap_to(leader) - me[..., P.MIN_GAP]
    lead_v = pick(traffic.v, leader)
    lead_blocks = (leader >= 0) & (gap < secure_gap(traffic.v, lead_v, me) / me[..., P.ASSERTIVE])
    lead_next = lead_v - DT * (-pick(traffic.gained, leader)).clamp(min=1.0)
    next_gap = gap + DT * (lead_next - planned) + me[..., P.MIN_GAP]
    target = torch.maximum(
        traffic.v - me[..., P.DECEL] * DT, idm(traffic.v, next_gap, lead_next, moment.limit, me[..., P.MIN_GAP], me)
    )
    slows = lead_blocks & (target < traffic.v)
    decel = torch.minimum(me[..., P.DECEL], ((traffic.v - target) / remaining).clamp(min=FALL_BEHIND))
    behind = torch.minimum(planned, (traffic.v - decel * DT).clamp(min=0.0))
    advice.give(itself, torch.where(slows, behind, target), blocked & (leader >= 0))
    planned = torch.where(slows, behind, planned)
    planned = torch.where((leader >= 0) & ~lead_blocks, torch.minimum(planned, target), planned)
    _ask_follower(moment, blocked & (follower >= 0), follower, planned, remaining, lead_blocks, itself, advice)


def _ask_follower(
    moment: Moment,
    asks: Tensor,
    follower: Tensor,
    planned: Tensor,
    remaining: Tensor,
    lead_blocks: Tensor,
    itself: Tensor,
    advice: _Advice,
) -> None:
    traffic, me = moment.traffic, moment.traffic.drivers
    them, their_v = pick(me, follower), pick(traffic.v, follower)
    min_gap = them[..., P.MIN_GAP]
    room = torch.minimum(them[..., P.DESIRED], moment.road[:, R.LIMIT, None])
    gap = traffic.x - me[..., P.LENGTH] - pick(traffic.x, follower) - min_gap
    first = idm(their_v, gap + DT * planned + min_gap, planned, room, min_gap, them)
    open_ = asks & (gap >= secure_gap(their_v, traffic.v, them) / me[..., P.ASSERTIVE])
    keep = idm(their_v, gap + DT * (planned - first) + min_gap, planned, room, min_gap, them)
    too_near = gap + DT * (planned - keep) < secure_gap(their_v, planned, them)
    advice.give(follower, keep, open_ & lead_blocks & too_near)
    asks = asks & ~open_
    faster = planned - their_v
    cuts_in = (faster >= HELP_OVERTAKE) & ((secure_gap(their_v, planned, them) - gap) / remaining < faster)
    advice.give(follower, planned - HELP_OVERTAKE, asks & cuts_in)
    asks = asks & ~cuts_in
    slowest = (their_v - them[..., P.DECEL] * DT).clamp(min=0.0)
    after_1s = (their_v - them[..., P.DECEL]).clamp(min=0.0)
    closing = planned - after_1s
    secure = secure_gap(after_1s, planned, them)
    can_help = (gap + closing > 0.0) & (gap + closing >= secure)
    first = torch.maximum(slowest, first)
    keep = idm(their_v, gap + DT * (planned - first) + min_gap, planned, room, min_gap, them)
    advice.give(follower, torch.maximum(slowest, keep), asks & can_help)
    asks = asks & ~can_help
    in_time = (closing > 0.0) & (closing * remaining > secure - gap - closing + SLACK)
    advice.give(follower, slowest, asks & in_time)
    asks = asks & ~in_time
    help_v = torch.maximum(their_v, traffic.v + HELP_OVERTAKE)
    advice.give(follower, help_v, asks)
    passing = gap + me[..., P.LENGTH] + me[..., P.MIN_GAP] + them[..., P.LENGTH] + secure_gap(planned, help_v, me)
    fall_back = torch.maximum(help_v - passing.clamp(min=0.0) / remaining, traffic.v - me[..., P.DECEL] * DT)
    advice.give(itself, fall_back, asks)


def _let_in(moment: Moment, blocked: Tensor, advice: _Advice) -> None:
    """Slow drivers on the main road follow the nearest and the foremost blocked car in front of them."""
    traffic, me = moment.traffic, moment.traffic.drivers
    slow = moment.beside & ~traffic.controlled & (traffic.lane == 1) & (traffic.v < me[..., P.DECEL])
    itself = torch.arange(traffic.x.shape[1], device=traffic.x.device).expand_as(traffic.lane)
    last = neighbours(traffic.x, torch.where(blocked, 0, 1), traffic.present, 1)[0][..., 0]
    foremost = torch.where(blocked, traffic.x, -torch.inf)
    first = foremost.argmax(1, keepdim=True).expand_as(last)
    for who in (last, torch.where(first == last, -1, first)):
        gap = moment.gap_to(who) - me[..., P.MIN_GAP]
        wish = idm(
            traffic.v, gap + (me[..., P.MIN_GAP] - SLACK), pick(traffic.v, who), moment.limit, me[..., P.MIN_GAP], me
        )
        advice.give(itself, wish, slow & (last >= 0) & (who >= 0) & (gap > SLACK))


def _move(traffic: Traffic, accel: Tensor, lanes: int) -> None:
    moment = Moment(traffic, lanes)
    v = traffic.v
    blocked = moment.beside & ~traffic.controlled & (traffic.lane == 0)
    memory = torch.maximum(v, LOOK_MEMORY * traffic.look + (1.0 - LOOK_MEMORY) * v)
    traffic.look.copy_(torch.where(traffic.present, torch.where(blocked, memory, 0.0), traffic.look))
    advice = _Advice(traffic)
    _let_in(moment, blocked, advice)
    _ask_for_room(moment, blocked, advice)
    wish = moment.following(pick_lane(moment.lead, traffic.lane))
    left = moment.road[:, R.MERGE_END, None] - traffic.x
    still = torch.zeros_like(v)
    stop = torch.where(
        traffic.drivers[..., P.KRAUSS] > 0.0,
        krauss(v, left, still, traffic.drivers[..., P.DECEL], moment.limit, traffic.drivers),
        idm(v, left, still, moment.limit, 0.0, traffic.drivers),
    )
    stop = torch.minimum(stop, (left - STOP_SHORT).clamp(min=0.0) / DT)
    wish = torch.where(traffic.lane == 0, torch.minimum(wish, stop), wish)
    driven = torch.maximum(torch.minimum(wish, advice.least).clamp(min=0.0), v - EMERGENCY_DECEL * DT)
    new = torch.where(traffic.controlled, (v + accel * DT).clamp(min=0.0), driven)
    traffic.gained.copy_(torch.where(traffic.present, (new - v) / DT, traffic.gained))
    traffic.v.copy_(torch.where(traffic.present, new, v))
    traffic.x.copy_(torch.where(traffic.present, traffic.x + new * DT, traffic.x))


def pick_lane(table: Tensor, lane: Tensor) -> Tensor:
    """The entry of each car's lane in a neighbour table: ``[B, V, L]``, ``[B, V]`` -> ``[B, V]``."""
    return table.gather(2, lane.clamp(0, table.shape[2] - 1).unsqueeze(-1)).squeeze(-1)


def _collide(traffic: Traffic, crashed: Tensor, left: Tensor, lanes: int) -> Tensor:
    """Mark and take off cars that overlap, ran off the acceleration lane or left the road; collisions ``[B]``."""
    lead = pick_lane(neighbours(traffic.x, traffic.lane, traffic.present, lanes)[0], traffic.lane)
    rear = pick(traffic.x, lead) - pick(traffic.drivers[..., P.LENGTH], lead)
    strikes = traffic.present & (lead >= 0) & (rear < traffic.x)
    struck = torch.zeros_like(strikes, dtype=torch.int8).scatter_add_(1, lead.clamp(min=0), strikes.to(torch.int8)) > 0
    off = traffic.present & (traffic.lane == 0) & (traffic.x >= traffic.road[:, R.MERGE_END, None])
    crashed |= strikes | struck | off
    gone = traffic.present & ~crashed & (traffic.x >= traffic.road[:, R.ROAD_END, None])
    left |= gone
    traffic.present &= ~crashed & ~gone
    return strikes.sum(1) + off.sum(1)


def _change_lanes(traffic: Traffic, turn: Tensor | None, leftwards: Tensor, lanes: int) -> None:
    moment = Moment(traffic, lanes)
    lane = traffic.lane
    count = traffic.road[:, R.MAIN_LANES, None].long()
    target = lane.clone()
    if turn is not None:
        goal = lane + turn
        may = traffic.controlled & (turn != 0) & (goal >= 1) & (goal <= count) & ((lane > 0) | moment.beside)
        target = torch.where(may, goal, target)
    merges = (
        ~traffic.controlled & (lane == 0) & moment.beside & moment.accepts(moment.lead[..., 1], moment.follow[..., 1])
    )
    target = torch.where(merges, 1, target)
    if lanes > 2:
        goal = lane + torch.where(leftwards, 1, -1)[:, None]
        may = ~traffic.controlled & (lane > 0) & (goal >= 1) & (goal <= count)
        lead, follow = pick_lane(moment.lead, goal), pick_lane(moment.follow, goal)
        gain = moment.following(lead) - moment.following(pick_lane(moment.lead, lane))
        wants = may & (gain > MOBIL_GAIN * DT) & moment.accepts(lead, follow)
        # Drivers on lane 2 stay there if a car of the ramp takes the place that they would take on lane 1.
        from_ramp = (lane == 0) & (target == 1)
        first, behind = neighbours(traffic.x, torch.where(from_ramp, 0, 1), traffic.present, 1)
        in_the_way = (lane == 2) & (goal == 1) & ~moment.accepts(first[..., 0], behind[..., 0])
        target = torch.where(wants & ~in_the_way, goal, target)
    lane.copy_(torch.where(traffic.present, target, lane))


def advance(traffic: Traffic, accel: Tensor, turn: Tensor, lanes: int) -> tuple[Tensor, Tensor, Tensor]:
    """One decision of all copies, ``traffic`` in place.

    Args:
        accel: m/s^2, float64 ``[B, V]``.
        turn: lanes to the left, int64 ``[B, V]``.
        lanes: of the widest road, the ramp included. Returns crashed and left, bool ``[B, V]``, and the number of
            collisions, int64 ``[B]``.
    """
    crashed, left = torch.zeros_like(traffic.present), torch.zeros_like(traffic.present)
    hits = torch.zeros_like(traffic.step)
    for substep in range(SUBSTEPS):
        _move(traffic, accel, lanes)
        hits += _collide(traffic, crashed, left, lanes)
        leftwards = (traffic.step * SUBSTEPS + substep) % 2 == 0
        _change_lanes(traffic, turn if substep == 0 else None, leftwards, lanes)
        hits += _collide(traffic, crashed, left, lanes)
    return crashed, left, hits
