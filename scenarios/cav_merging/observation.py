"""What automated cars see, and what the central critic sees; computed from ``Traffic`` alone, for both backends.

The first 25 numbers are the published observation (Chen et al. 2023): the car itself and its 4 nearest within 180 m,
each [presence, x, y, vx, vy], the others relative to the car. The other numbers are ours (README, deviations).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from marl.compiled import njit
from scenarios.cav_merging.drivers import P
from scenarios.cav_merging.geometry import LANE_WIDTH, RAMP_ASIDE
from scenarios.cav_merging.traffic import R, Traffic
from scenarios.cav_merging.twin import reference
from scenarios.cav_merging.twin.arrays import Flags, Floats, Ints

PERCEPTION_M = 180.0
LATERAL_M = 20.0
SPEED_MPS = 30.0
ACCEL_MPS2 = 10.0
TAU_S = 3.0

NEIGHBOURS = 4
NEIGHBOUR_WIDTH = 5
PUBLISHED = NEIGHBOUR_WIDTH * (1 + NEIGHBOURS)
#: lane, target speed, acceleration, may merge now; 4 x (gap, closing speed) of own lane and the lane beside;
#: which of the 4 neighbours are automated.
OWN = 4 + 2 * 4 + NEIGHBOURS
OBSERVATION = PUBLISHED + OWN

#: The critic's share of an agent: its observation, more neighbours with what drivers keep to themselves, and the copy.
STATE_NEIGHBOURS = 11
STATE_WIDTH = 8
STATE_GLOBAL = 3
OVERALL = OBSERVATION + STATE_NEIGHBOURS * STATE_WIDTH
STATE = OVERALL + STATE_GLOBAL


@njit(inline="always")
def _clip(value: float) -> float:
    return min(1.0, max(-1.0, value))


@njit(error_model="numpy", inline="always")
def _lateral(x: float, v: float, lane: int, merge_start: float, converge: float) -> tuple[float, float]:
    """y in metres, 0 in the middle of the acceleration lane, and its rate in m/s."""
    if lane > 0:
        return LANE_WIDTH * lane, 0.0
    phase = min(1.0, max(0.0, (merge_start - x) / converge))
    angle = np.pi * phase
    return -RAMP_ASIDE * 0.5 * (1.0 - np.cos(angle)), v * RAMP_ASIDE * 0.5 * np.pi / converge * np.sin(angle)


@njit(error_model="numpy")
def _observe(
    x: Floats,
    v: Floats,
    gained: Floats,
    lane: Ints,
    present: Flags,
    drivers: Floats,
    road: Floats,
    target: Floats,
    order: Ints,
    lead: Ints,
    follow: Ints,
    step: Ints,
    speeds: Floats,
    horizon: int,
    seen: np.ndarray,
    state: np.ndarray,
) -> None:
    copies, slots = x.shape
    agents = target.shape[1]
    nearest = np.empty(STATE_NEIGHBOURS, np.int64)
    y, vy = np.empty(slots), np.empty(slots)
    for b in range(copies):
        start, end, lanes, converge = road[b, 0], road[b, 1], int(road[b, 4]), road[b, 6]
        count = 0
        while count < slots and present[b, order[b, count]]:
            i = order[b, count]
            y[i], vy[i] = _lateral(x[b, i], v[b, i], lane[b, i], start, converge)
            count += 1
        for r in range(count):
            i = order[b, r]
            if i >= agents:
                continue
            out, row = seen[b, i], state[b, i]
            ahead, behind, found = r - 1, r + 1, 0
            while found < STATE_NEIGHBOURS and (ahead >= 0 or behind < count):
                front = x[b, order[b, ahead]] - x[b, i] if ahead >= 0 else np.inf
                back = x[b, i] - x[b, order[b, behind]] if behind < count else np.inf
                if front <= back:
                    nearest[found] = order[b, ahead]
                    ahead -= 1
                else:
                    nearest[found] = order[b, behind]
                    behind += 1
                found += 1
            beside = start <= x[b, i] < end
            out[0] = 1.0
            out[1] = _clip((x[b, i] - end) / PERCEPTION_M)
            out[2] = _clip(y[i] / LATERAL_M)
            out[3] = _clip(v[b, i] / SPEED_MPS)
            out[4] = vy[i] / SPEED_MPS
            out[PUBLISHED] = _clip(lane[b, i] / 3.0)
            out[PUBLISHED + 1] = _clip(target[b, i] / SPEED_MPS)
            out[PUBLISHED + 2] = _clip(gained[b, i] / ACCEL_MPS2)
            out[PUBLISHED + 3] = 1.0 if lane[b, i] == 0 and beside else 0.0
            other = lane[b, i] + 1 if lane[b, i] != 1 else (0 if x[b, i] < end else 2)
            for k in range(2):
                beside_lane = lane[b, i] if k == 0 else other
                for m in range(2):
                    at = PUBLISHED + 4 + 4 * k + 2 * m
                    j = -1
                    if beside_lane <= lanes:
                        j = lead[b, i, beside_lane] if m == 0 else follow[b, i, beside_lane]
                    out[at], out[at + 1] = 1.0, 0.0
                    if j >= 0:
                        if m == 0:
                            gap = x[b, j] - drivers[b, j, 5] - x[b, i]
                        else:
                            gap = x[b, i] - drivers[b, i, 5] - x[b, j]
                        out[at] = _clip(gap / PERCEPTION_M)
                        out[at + 1] = _clip((v[b, j] - v[b, i]) / SPEED_MPS)
            for k in range(found):
                j = nearest[k]
                dx = x[b, j] - x[b, i]
                if k < NEIGHBOURS and abs(dx) <= PERCEPTION_M:
                    at = NEIGHBOUR_WIDTH * (k + 1)
                    out[at] = 1.0
                    out[at + 1] = dx / PERCEPTION_M
                    out[at + 2] = _clip((y[j] - y[i]) / LATERAL_M)
                    out[at + 3] = _clip((v[b, j] - v[b, i]) / SPEED_MPS)
                    out[at + 4] = (vy[j] - vy[i]) / SPEED_MPS
                    out[PUBLISHED + 12 + k] = 1.0 if j < agents else 0.0
                at = OBSERVATION + STATE_WIDTH * k
                row[at] = 1.0
                row[at + 1] = _clip(dx / PERCEPTION_M)
                row[at + 2] = _clip((lane[b, j] - lane[b, i]) / 3.0)
                row[at + 3] = _clip(v[b, j] / SPEED_MPS)
                row[at + 4] = 1.0 if j < agents else 0.0
                row[at + 5] = _clip(drivers[b, j, 6] / 3.0)
                row[at + 6] = _clip(drivers[b, j, 1] / TAU_S)
                row[at + 7] = _clip(gained[b, j] / ACCEL_MPS2)
            row[:OBSERVATION] = out
            row[OVERALL] = min(1.0, step[b] / horizon)
            row[OVERALL + 1] = min(1.0, speeds[b] / count / SPEED_MPS)
            row[OVERALL + 2] = np.float32(count) / np.float32(slots)


def total_speed(traffic: Traffic) -> Tensor:
    """m/s, over the cars of each copy, float64 ``[B]``."""
    return (traffic.v * traffic.present).sum(1)


def observe(traffic: Traffic, order: Tensor, lead: Tensor, follow: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """Observation ``[B, N, 41]`` and state ``[B, N, 132]``, float32 in [-1, 1]; zeros where no agent is.

    Args:
        order: slots by falling x, cars on the road first, ``[B, V]``.
        lead, follow: neighbour tables ``[B, V, L]``.
    """
    if not traffic.compiled:
        return observe_reference(traffic, horizon)
    copies, agents = traffic.target.shape
    seen, state = torch.zeros(copies, agents, OBSERVATION), torch.zeros(copies, agents, STATE)
    _observe(
        *(
            tensor.numpy()
            for tensor in (
                traffic.x, traffic.v, traffic.gained, traffic.lane, traffic.present, traffic.drivers, traffic.road,
                traffic.target, order, lead, follow, traffic.step, total_speed(traffic),
            )
        ),
        horizon,
        seen.numpy(),
        state.numpy(),
    )  # fmt: skip
    return seen, state


def lateral(traffic: Traffic) -> tuple[Tensor, Tensor]:
    """y in metres (0: middle of the acceleration lane) and its rate in m/s, both ``[B, V]``."""
    return lateral_at(traffic.x, traffic.v, traffic.lane, traffic.road)


def lateral_at(x: Tensor, v: Tensor, lane: Tensor, road: Tensor) -> tuple[Tensor, Tensor]:
    """``lateral`` of places ``[B, *]`` on roads ``[B, 8]``."""
    start, converge = (road[:, column].reshape(-1, *[1] * (x.dim() - 1)) for column in (R.MERGE_START, R.CONVERGE))
    angle = torch.pi * ((start - x) / converge).clamp(0.0, 1.0)
    on_ramp = lane == 0
    y = torch.where(on_ramp, -RAMP_ASIDE * 0.5 * (1.0 - torch.cos(angle)), LANE_WIDTH * lane)
    rate = v * RAMP_ASIDE * 0.5 * torch.pi / converge * torch.sin(angle)
    return y, torch.where(on_ramp, rate, 0.0)


class Sight(NamedTuple):
    """What each agent takes the other cars to do, ``[B, N, V]``: position, speed, lane.

    there: it knows of the car. cav: it knows that the car is automated.
    """

    x: Tensor
    v: Tensor
    lane: Tensor
    there: Tensor
    cav: Tensor


def full_sight(traffic: Traffic) -> Sight:
    """Everybody knows everything, but itself as another car."""
    copies, agents, slots = *traffic.target.shape, traffic.x.shape[1]
    index = torch.arange(slots, device=traffic.x.device)
    others = traffic.present[:, None] & (index[:agents, None] != index)
    x, v, lane = (values[:, None].expand(copies, agents, slots) for values in (traffic.x, traffic.v, traffic.lane))
    return Sight(x, v, lane, others, (index < agents).expand(copies, agents, slots))


def own_view(traffic: Traffic, sight: Sight) -> Tensor:
    """The observation of agents with that sight, float64 ``[B, N, 41]``; meaningless where no agent is."""
    t, agents = traffic, traffic.target.shape[1]
    y, vy = (values[:, :agents] for values in lateral(t))
    own_x, own_v, own_lane = t.x[:, :agents], t.v[:, :agents], t.lane[:, :agents]
    distance, near = torch.where(sight.there, (sight.x - own_x[..., None]).abs(), torch.inf).sort(dim=2, stable=True)
    near, distance = near[..., :NEIGHBOURS], distance[..., :NEIGHBOURS]
    their_y, their_vy = lateral_at(sight.x, sight.v, sight.lane, t.road)
    rows = torch.stack(
        (
            torch.ones_like(distance),
            (sight.x.gather(2, near) - own_x[..., None]) / PERCEPTION_M,
            ((their_y.gather(2, near) - y[..., None]) / LATERAL_M).clamp(-1, 1),
            ((sight.v.gather(2, near) - own_v[..., None]) / SPEED_MPS).clamp(-1, 1),
            (their_vy.gather(2, near) - vy[..., None]) / SPEED_MPS,
        ),
        -1,
    )
    visible = distance <= PERCEPTION_M
    rows = torch.where(visible[..., None], rows, 0.0)
    start, end = t.road[:, R.MERGE_START, None], t.road[:, R.MERGE_END, None]
    beside = (own_x >= start) & (own_x < end)
    own = torch.stack(
        (
            torch.ones_like(own_x),
            ((own_x - end) / PERCEPTION_M).clamp(-1, 1),
            (y / LATERAL_M).clamp(-1, 1),
            (own_v / SPEED_MPS).clamp(-1, 1),
            vy / SPEED_MPS,
        ),
        -1,
    )
    more = [
        (own_lane / 3.0).clamp(-1, 1),
        (t.target / SPEED_MPS).clamp(-1, 1),
        (t.gained[:, :agents] / ACCEL_MPS2).clamp(-1, 1),
        (beside & (own_lane == 0)).double(),
    ]
    other = torch.where(own_lane != 1, own_lane + 1, torch.where(own_x < end, 0, 2))
    for lane in (own_lane, other):
        more += _gaps(t, sight, lane)
    kinds = (visible & sight.cav.gather(2, near)).double()
    missing = NEIGHBOURS - rows.shape[2]
    flat = torch.nn.functional.pad(rows.flatten(2), (0, missing * NEIGHBOUR_WIDTH))
    kinds = torch.nn.functional.pad(kinds, (0, missing))
    return torch.cat((own, flat, torch.stack(more, -1), kinds), -1)


def _gaps(traffic: Traffic, sight: Sight, lane: Tensor) -> list[Tensor]:
    """Gap and closing speed of the leader and of the follower on ``lane`` (``[B, N]``), as agents take them to be."""
    agents = lane.shape[1]
    own_x, own_v = traffic.x[:, :agents, None], traffic.v[:, :agents]
    index = torch.arange(traffic.x.shape[1], device=own_x.device)
    on_lane = sight.there & (sight.lane == lane[..., None]) & (lane <= traffic.road[:, R.MAIN_LANES, None])[..., None]
    # Of two cars at the same x, the one with the smaller number counts as in front.
    in_front = (sight.x > own_x) | ((sight.x == own_x) & (index < index[:agents, None]))
    length = traffic.drivers[..., P.LENGTH]
    found = []
    for forwards in (True, False):
        where = on_lane & (in_front if forwards else ~in_front)
        far, who = torch.where(where, (sight.x - own_x).abs(), torch.inf).min(2)
        their_x = sight.x.gather(2, who[..., None])[..., 0]
        if forwards:
            gap = their_x - reference.pick(length, who) - own_x[..., 0]
        else:
            gap = own_x[..., 0] - length[:, :agents] - their_x
        there = far < torch.inf
        faster = ((sight.v.gather(2, who[..., None])[..., 0] - own_v) / SPEED_MPS).clamp(-1, 1)
        found += [torch.where(there, (gap / PERCEPTION_M).clamp(-1, 1), 1.0), torch.where(there, faster, 0.0)]
    return found


def observe_reference(traffic: Traffic, horizon: int) -> tuple[Tensor, Tensor]:
    """``observe`` as plain tensor operations: the oracle of the numba form, and the form for a GPU."""
    t, agents = traffic, traffic.target.shape[1]
    sight = full_sight(t)
    seen = own_view(t, sight)
    own_x, own_lane = t.x[:, :agents], t.lane[:, :agents]
    distance, near = torch.where(sight.there, (sight.x - own_x[..., None]).abs(), torch.inf).sort(dim=2, stable=True)
    near, distance = near[..., :STATE_NEIGHBOURS], distance[..., :STATE_NEIGHBOURS]

    def of(values: Tensor) -> Tensor:
        return values[:, None].expand(-1, agents, -1).gather(2, near)

    there, ahead = distance < torch.inf, of(t.x) - own_x[..., None]
    drivers = torch.stack(
        (
            torch.ones_like(ahead),
            (ahead / PERCEPTION_M).clamp(-1, 1),
            ((of(t.lane) - own_lane[..., None]) / 3.0).clamp(-1, 1),
            (of(t.v) / SPEED_MPS).clamp(-1, 1),
            (near < agents).double(),
            (of(t.drivers[..., P.ASSERTIVE]) / 3.0).clamp(-1, 1),
            (of(t.drivers[..., P.TAU]) / TAU_S).clamp(-1, 1),
            (of(t.gained) / ACCEL_MPS2).clamp(-1, 1),
        ),
        -1,
    )
    drivers = torch.where(there[..., None], drivers, 0.0).flatten(2)
    missing = STATE_NEIGHBOURS * STATE_WIDTH - drivers.shape[2]
    drivers = torch.nn.functional.pad(drivers, (0, missing))
    overall = _overall(t, horizon)[:, None].expand(-1, agents, -1)
    alive = t.present[:, :agents, None]
    state = torch.where(alive, torch.cat((seen, drivers, overall), -1), 0.0).float()
    return torch.where(alive, seen, 0.0).float(), state


def _overall(traffic: Traffic, horizon: int) -> Tensor:
    """What the critic knows of the whole copy: time passed, mean speed, cars; float64 ``[B, 3]`` in [0, 1]."""
    count = traffic.present.sum(1)
    mean = total_speed(traffic) / count.clamp(min=1)
    passed = traffic.step.double() / horizon
    return torch.stack((passed.clamp(max=1.0), (mean / SPEED_MPS).clamp(max=1.0), count / traffic.x.shape[1]), 1)
