"""What automated cars see, and what the central critic sees; computed from ``Traffic`` alone, for both backends.

The first 25 numbers are the published observation (Chen et al. 2023): the car itself and its 4 nearest within 180 m,
each [presence, x, y, vx, vy], the others relative to the car. The other numbers are ours (README, deviations).
"""

from __future__ import annotations

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

    order: slots by falling x, cars on the road first, ``[B, V]``. lead, follow: neighbour tables ``[B, V, L]``.
    """
    if not traffic.compiled:
        return observe_reference(traffic, lead, follow, horizon)
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
    start, converge = traffic.road[:, R.MERGE_START, None], traffic.road[:, R.CONVERGE, None]
    angle = torch.pi * ((start - traffic.x) / converge).clamp(0.0, 1.0)
    on_ramp = traffic.lane == 0
    y = torch.where(on_ramp, -RAMP_ASIDE * 0.5 * (1.0 - torch.cos(angle)), LANE_WIDTH * traffic.lane)
    rate = traffic.v * RAMP_ASIDE * 0.5 * torch.pi / converge * torch.sin(angle)
    return y, torch.where(on_ramp, rate, 0.0)


def observe_reference(traffic: Traffic, lead: Tensor, follow: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """``observe`` as plain tensor operations: the oracle of the numba form, and the form for a GPU."""
    t, agents = traffic, traffic.target.shape[1]
    y, vy = lateral(t)
    itself = torch.arange(t.x.shape[1], device=t.x.device)
    dx = t.x[:, None, :] - t.x[:, :agents, None]
    usable = t.present[:, None, :] & (itself[:agents, None] != itself)
    distance, near = torch.where(usable, dx.abs(), torch.inf).sort(dim=2, stable=True)
    near, distance = near[..., :STATE_NEIGHBOURS], distance[..., :STATE_NEIGHBOURS]

    def of(values: Tensor) -> Tensor:
        return values[:, None].expand(-1, agents, -1).gather(2, near)

    own_x, own_v, own_lane = t.x[:, :agents], t.v[:, :agents], t.lane[:, :agents]
    there = distance < torch.inf
    ahead = of(t.x) - own_x[..., None]
    closing = ((of(t.v) - own_v[..., None]) / SPEED_MPS).clamp(-1, 1)
    automated = (near < agents).double()
    rows = torch.stack(
        (
            torch.ones_like(ahead),
            ahead / PERCEPTION_M,
            ((of(y) - y[:, :agents, None]) / LATERAL_M).clamp(-1, 1),
            closing,
            (of(vy) - vy[:, :agents, None]) / SPEED_MPS,
        ),
        -1,
    )
    visible = (there & (distance <= PERCEPTION_M))[..., :NEIGHBOURS]
    rows = torch.where(visible[..., None], rows[:, :, :NEIGHBOURS], 0.0)
    start, end = t.road[:, R.MERGE_START, None], t.road[:, R.MERGE_END, None]
    beside = (own_x >= start) & (own_x < end)
    own = torch.stack(
        (
            torch.ones_like(own_x),
            ((own_x - end) / PERCEPTION_M).clamp(-1, 1),
            (y[:, :agents] / LATERAL_M).clamp(-1, 1),
            (own_v / SPEED_MPS).clamp(-1, 1),
            vy[:, :agents] / SPEED_MPS,
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
        known = lane <= t.road[:, R.MAIN_LANES, None]
        for table, forwards in ((lead, True), (follow, False)):
            j = torch.where(known, reference.pick_lane(table[:, :agents], lane), -1)
            if forwards:
                gap = reference.pick(t.x, j) - reference.pick(t.drivers[..., P.LENGTH], j) - own_x
            else:
                gap = own_x - t.drivers[:, :agents, P.LENGTH] - reference.pick(t.x, j)
            more.append(torch.where(j >= 0, (gap / PERCEPTION_M).clamp(-1, 1), 1.0))
            faster = ((reference.pick(t.v, j) - own_v) / SPEED_MPS).clamp(-1, 1)
            more.append(torch.where(j >= 0, faster, 0.0))
    kinds = torch.where(visible, automated[..., :NEIGHBOURS], 0.0)
    seen = torch.cat((own, rows.flatten(2), torch.stack(more, -1), kinds), -1)
    drivers = torch.stack(
        (
            torch.ones_like(ahead),
            (ahead / PERCEPTION_M).clamp(-1, 1),
            ((of(t.lane) - own_lane[..., None]) / 3.0).clamp(-1, 1),
            (of(t.v) / SPEED_MPS).clamp(-1, 1),
            automated,
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
