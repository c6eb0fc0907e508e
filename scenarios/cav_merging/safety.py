"""What this world knows about conflicts: who comes first, and how much room an action leaves.

Priority: Chen et al. 2023, eq. 8. Margin: the automated car takes the action for one decision and then brakes (its
backup) for the rest of ``HORIZON_S``, while the car in front brakes as hard as it can, and cars behind on a lane that
it enters brake after a moment. The margin is the least gap in metres that this leaves, also to the
acceleration lane's end.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from marl.compiled import njit
from scenarios.cav_merging.actions import SPEED_STEP, SPEED_TIME_S, TOP_SPEED, Action, drive, lanes_turned, next_target
from scenarios.cav_merging.config import DECISION_S, SIM_STEP_S
from scenarios.cav_merging.drivers import CAV_ACCEL, CAV_DECEL, P
from scenarios.cav_merging.reward import HEADWAY_S
from scenarios.cav_merging.traffic import R, Traffic
from scenarios.cav_merging.twin.arrays import Flags, Floats, Ints
from scenarios.cav_merging.twin.reference import pick, pick_lane

#: How far the supervisor looks ahead, and at how many moments.
HORIZON_S, POINTS = 3.0, 12
#: What others are taken to do: cars in front brake like this, cars behind brake after ``REACTION_S``.
LEAD_DECEL, FOLLOW_DECEL, REACTION_S = CAV_DECEL, 4.5, 0.3
#: SLOWER does not always give the full deceleration: target speeds are steps of 5 m/s.
BACKUP_DECEL = 5.6
#: Below this speed, m/s, the speed controller brakes ever more softly: a car rolls further than at full braking.
SOFT_SPEED = CAV_DECEL * SPEED_TIME_S
#: Gaps that are kept to other cars and to the lane end, m.
KEEP_M, KEEP_END_M = 1.0, 0.5
#: The margin of a lane change onto another car: never the best, however bad the others are.
OVERLAP = -1e6
_LENGTH = int(P.LENGTH)
_MERGE_END = int(R.MERGE_END)
_LEFT, _RIGHT, _FASTER, _SLOWER = (int(Action[name]) for name in ("LANE_LEFT", "LANE_RIGHT", "FASTER", "SLOWER"))


def priority(traffic: Traffic, lead: Tensor) -> Tensor:
    """float64 ``[B, N]``: cars on the acceleration lane, near its end and with short headways first."""
    agents = traffic.target.shape[1]
    x, v, lane = traffic.x[:, :agents], traffic.v[:, :agents], traffic.lane[:, :agents]
    start, end = traffic.road[:, R.MERGE_START, None], traffic.road[:, R.MERGE_END, None]
    on_merge_lane = (lane == 0) & (x >= start)
    leader = pick_lane(lead[:, :agents], lane)
    gap = pick(traffic.x, leader) - pick(traffic.drivers[..., P.LENGTH], leader) - x
    headway = torch.log(gap.clamp(min=0.1) / (HEADWAY_S * v.clamp(min=1.0)))
    urgency = torch.where(on_merge_lane, 0.5 + (1.0 - (end - x) / (end - start)), 0.0)
    return urgency - 0.5 * torch.where(leader >= 0, headway, 0.0)


def plans_of(traffic: Traffic, committed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a deciding car takes all cars to do, ``[B, V]``: lane after this decision, acceleration, whether known.

    An undecided car is taken to stay on its lane: it may yet be told not to leave it.
    """
    agents = committed.shape[1]
    v, target = traffic.v[:, :agents], traffic.target
    known = committed >= 0
    lane, accel, decided = traffic.lane.clone(), torch.zeros_like(traffic.v), torch.zeros_like(traffic.present)
    lane[:, :agents] += torch.where(known, lanes_turned(committed), 0)
    accel[:, :agents] = torch.where(known, drive(v, next_target(v, target, committed)), 0.0)
    decided[:, :agents] = known
    return lane, accel, decided


def margin(traffic: Traffic, options: Tensor, agent: Tensor, committed: Tensor) -> Tensor:
    """float64 ``[B, C]``: metres of room that each of ``options`` (int64 ``[B, C]``) leaves agent ``agent[b]``."""
    if not traffic.compiled:
        own, goal = outcomes(traffic, options, agent)
        return margin_reference(traffic, agent, own, goal, *plans_of(traffic, committed))
    room = torch.empty(options.shape, dtype=torch.float64)
    _margin(
        *(
            tensor.numpy()
            for tensor in (
                traffic.x, traffic.v, traffic.lane, traffic.present, traffic.drivers, traffic.road, traffic.target,
                options.contiguous(), agent, committed, room,
            )
        )
    )  # fmt: skip
    return room


def outcomes(traffic: Traffic, options: Tensor, agent: Tensor) -> tuple[Tensor, Tensor]:
    """Acceleration and lane that each of ``options`` (int64 ``[B, C]``) gives agent ``agent[b]``, ``[B, C]``."""
    place = agent[:, None]
    v = traffic.v.gather(1, place).expand_as(options)
    own = drive(v, next_target(v, traffic.target.gather(1, place).expand_as(options), options))
    goal = traffic.lane.gather(1, place) + torch.where(options >= 0, lanes_turned(options), 0)
    return own, goal


@njit(error_model="numpy", inline="always")
def _drive(v: float, target: float, action: int) -> float:
    """The acceleration that an action gives; -1 stands for keeping the target."""
    if action in (_FASTER, _SLOWER):
        level = np.rint(v / SPEED_STEP) + (1.0 if action == _FASTER else -1.0)
        target = min(max(level * SPEED_STEP, 0.0), TOP_SPEED)
    return min(max((target - v) / SPEED_TIME_S, -CAV_DECEL), CAV_ACCEL)


@njit(error_model="numpy", inline="always")
def _travel(v: float, accel: float, hold: float, decel: float, time: float) -> float:
    """Metres driven by ``time``: accelerating for ``hold`` seconds, then braking to a standstill."""
    first = min(time, hold)
    if accel < 0.0:
        first = min(first, v / -accel)
    path = v * first + 0.5 * accel * first * first
    if time <= hold:
        return path
    speed = max(0.0, v + accel * hold)
    rest = min(time - hold, speed / decel)
    return path + speed * rest - 0.5 * decel * rest * rest


@njit(error_model="numpy")
def _margin(
    x: Floats,
    v: Floats,
    lane: Ints,
    present: Flags,
    drivers: Floats,
    road: Floats,
    target: Floats,
    options: Ints,
    agent: Ints,
    committed: Ints,
    room: Floats,
) -> None:
    copies, slots = x.shape
    agents = target.shape[1]
    others_lane, others_accel, known = np.empty(slots, np.int64), np.empty(slots), np.empty(slots, np.bool_)
    for b in range(copies):
        for j in range(slots):
            others_lane[j], others_accel[j], known[j] = lane[b, j], 0.0, False
            if j < agents and committed[b, j] >= 0:
                action = committed[b, j]
                others_lane[j] += int(action == _LEFT) - int(action == _RIGHT)
                others_accel[j] = _drive(v[b, j], target[b, j], action)
                known[j] = True
        i = agent[b]
        for c in range(options.shape[1]):
            own = _drive(v[b, i], target[b, i], options[b, c])
            goal = lane[b, i] + int(options[b, c] == _LEFT) - int(options[b, c] == _RIGHT)
            turns = goal != lane[b, i]
            lead, follow = -1, -1
            over = False
            then = x[b, i] + max(0.0, v[b, i] + own * SIM_STEP_S) * SIM_STEP_S
            for j in range(slots):
                if j == i or not present[b, j]:
                    continue
                if others_lane[j] == goal:
                    if x[b, j] >= x[b, i]:
                        if lead < 0 or x[b, j] < x[b, lead]:
                            lead = j
                    elif follow < 0 or x[b, j] > x[b, follow]:
                        follow = j
                if turns:
                    theirs = x[b, j] + max(0.0, v[b, j] + others_accel[j] * SIM_STEP_S) * SIM_STEP_S
                    if others_lane[j] == goal:
                        over |= theirs - drivers[b, j, _LENGTH] < then and then - drivers[b, i, _LENGTH] < theirs
                    if lane[b, j] == lane[b, i] and x[b, j] >= x[b, i]:
                        over |= theirs - drivers[b, j, _LENGTH] < then
            speed = max(0.0, v[b, i] + own * DECISION_S)
            soft = min(speed, SOFT_SPEED)
            roll = SPEED_TIME_S * soft - 0.5 * soft * soft / CAV_DECEL
            least = np.inf
            for k in range(POINTS):
                time = DECISION_S + k * (HORIZON_S - DECISION_S) / (POINTS - 1)
                at = x[b, i] + _travel(v[b, i], own, DECISION_S, BACKUP_DECEL, time)
                if lead >= 0:
                    accel = others_accel[lead] if known[lead] else -LEAD_DECEL
                    path = _travel(v[b, lead], accel, DECISION_S, LEAD_DECEL, time)
                    least = min(least, x[b, lead] - drivers[b, lead, _LENGTH] + path - at - roll - KEEP_M)
                if turns and follow >= 0:
                    accel = others_accel[follow] if known[follow] else 0.0
                    react = DECISION_S if known[follow] else REACTION_S
                    path = _travel(v[b, follow], accel, react, FOLLOW_DECEL, time)
                    least = min(least, at - drivers[b, i, _LENGTH] - x[b, follow] - path - KEEP_M)
            if goal == 0:
                stop = _travel(v[b, i], own, DECISION_S, BACKUP_DECEL, 1e3) + roll
                least = min(least, road[b, _MERGE_END] - x[b, i] - stop - KEEP_END_M)
            room[b, c] = OVERLAP if over else least


def _travel_reference(v: Tensor, accel: Tensor, hold: Tensor | float, decel: float, time: Tensor) -> Tensor:
    """``_travel``; all broadcast."""
    hold = torch.as_tensor(hold, dtype=v.dtype, device=v.device)
    first = torch.minimum(time, hold)
    first = torch.where(accel < 0.0, torch.minimum(first, v / (-accel).clamp(min=1e-9)), first)
    path = v * first + 0.5 * accel * first * first
    speed = (v + accel * hold).clamp(min=0.0)
    rest = torch.minimum((time - hold).clamp(min=0.0), speed / decel)
    return path + speed * rest - 0.5 * decel * rest * rest


def margin_reference(
    traffic: Traffic, agent: Tensor, own: Tensor, goal: Tensor, lane: Tensor, accel: Tensor, known: Tensor
) -> Tensor:
    """The margins as plain tensor operations: the oracle of the numba form, and the form for a GPU.

    Args:
        own, goal: acceleration and lane of each candidate, ``[B, C]``.
        lane, accel, known: as ``plans_of`` gives them.
    """
    t, place = traffic, agent[:, None]
    x, v, now = t.x.gather(1, place), t.v.gather(1, place), t.lane.gather(1, place)
    length = t.drivers[..., P.LENGTH]
    own_length = length.gather(1, place)
    time = torch.linspace(DECISION_S, HORIZON_S, POINTS, dtype=x.dtype, device=x.device)
    at = x[..., None] + _travel_reference(v[..., None], own[..., None], DECISION_S, BACKUP_DECEL, time)
    soft = (v + own * DECISION_S).clamp(0.0, SOFT_SPEED)
    roll = SPEED_TIME_S * soft - 0.5 * soft * soft / CAV_DECEL
    there = t.present & (torch.arange(t.x.shape[1], device=x.device) != place)
    on_goal = there[:, None] & (lane[:, None] == goal[..., None])
    turns = goal != now

    gap, lead = torch.where(on_goal & (t.x[:, None] >= x[..., None]), t.x[:, None], torch.inf).min(2)
    lead_accel = pick(torch.where(known, accel, -LEAD_DECEL), lead)[..., None]
    path = _travel_reference(pick(t.v, lead)[..., None], lead_accel, DECISION_S, LEAD_DECEL, time)
    front = ((gap - pick(length, lead))[..., None] + path - at).amin(2) - roll - KEEP_M

    gap, follow = torch.where(on_goal & (t.x[:, None] < x[..., None]), t.x[:, None], -torch.inf).max(2)
    follow_accel = pick(torch.where(known, accel, 0.0), follow)[..., None]
    react = torch.where(pick(known, follow), v.new_tensor(DECISION_S), REACTION_S)[..., None]
    path = _travel_reference(pick(t.v, follow)[..., None], follow_accel, react, FOLLOW_DECEL, time)
    rear = (at - own_length[..., None] - gap[..., None] - path).amin(2) - KEEP_M

    room = torch.where(turns, torch.minimum(front, rear), front)
    stop = _travel_reference(v, own, DECISION_S, BACKUP_DECEL, torch.full_like(v, 1e3)) + roll
    room = torch.where(goal == 0, torch.minimum(room, t.road[:, R.MERGE_END, None] - x - stop - KEEP_END_M), room)

    then = (x + (v + own * SIM_STEP_S).clamp(min=0.0) * SIM_STEP_S)[..., None]
    theirs = (t.x + (t.v + accel * SIM_STEP_S).clamp(min=0.0) * SIM_STEP_S)[:, None]
    over = (on_goal & (theirs - length[:, None] < then) & (then - own_length[..., None] < theirs)).any(2)
    ahead = there & (t.lane == now) & (t.x >= x)
    over |= (ahead[:, None] & (theirs - length[:, None] < then)).any(2)
    return torch.where(turns & over, OVERLAP, room)
