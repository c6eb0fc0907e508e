"""The five published actions, and what they make of a car.

FASTER and SLOWER set the target speed one step of 5 m/s above or below the present speed (the published code's rule),
LANE_LEFT and LANE_RIGHT change lanes at once and keep the target, IDLE keeps the target. The car accelerates by
(target - v) / 0.6 s, held for the 0.2 s of a decision, within what its drive gives.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from marl.compiled import njit
from scenarios.cav_merging.drivers import CAV_ACCEL, CAV_DECEL
from scenarios.cav_merging.traffic import R, Traffic
from scenarios.cav_merging.twin.arrays import Flags, Floats, Ints


class Action(IntEnum):
    """Indices of the actions."""

    LANE_LEFT = 0
    IDLE = 1
    LANE_RIGHT = 2
    FASTER = 3
    SLOWER = 4


#: Target speeds 0, 5, ..., 30 m/s. The published ones begin at 10, which makes the task impossible beside human drivers
#: who stop at the lane end.
SPEED_STEP, TOP_SPEED = 5.0, 30.0
#: The speed controller's time constant, s.
SPEED_TIME_S = 0.6
# Plain integers for the kernels.
_LEFT, _IDLE, _RIGHT, _FASTER, _SLOWER = (int(action) for action in Action)
_MERGE_START, _MERGE_END, _MAIN_LANES = int(R.MERGE_START), int(R.MERGE_END), int(R.MAIN_LANES)


def next_target(speed: Tensor, target: Tensor, actions: Tensor) -> Tensor:
    """Target speeds after ``actions``; all three of one shape, m/s."""
    level = torch.round(speed / SPEED_STEP)
    change = (actions == Action.FASTER).double() - (actions == Action.SLOWER).double()
    stepped = ((level + change) * SPEED_STEP).clamp(0.0, TOP_SPEED)
    return torch.where(change != 0.0, stepped, target)


def drive(speed: Tensor, target: Tensor) -> Tensor:
    """The acceleration towards a target speed, m/s^2."""
    return ((target - speed) / SPEED_TIME_S).clamp(-CAV_DECEL, CAV_ACCEL)


def lanes_turned(actions: Tensor) -> Tensor:
    """Lanes to the left, int64."""
    return (actions == Action.LANE_LEFT).long() - (actions == Action.LANE_RIGHT).long()


def commands(traffic: Traffic, actions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Acceleration float64 and lanes to the left int64, ``[B, V]``, of int64 ``[B, N]``; sets ``traffic.target``.

    Args:
        mask: as ``legal`` gives it; an illegal lane change is not made.
    """
    if not traffic.compiled:
        return commands_reference(traffic, actions, mask)
    accel, turn = torch.zeros_like(traffic.v), torch.zeros_like(traffic.lane)
    tensors = (traffic.v, traffic.target, actions, mask, accel, turn)
    _commands(*(tensor.numpy() for tensor in tensors))
    return accel, turn


def commands_reference(traffic: Traffic, actions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """``commands`` as plain tensor operations: the oracle of the numba form, and the form for a GPU."""
    agents = actions.shape[1]
    speed = traffic.v[:, :agents]
    traffic.target.copy_(next_target(speed, traffic.target, actions))
    accel, turn = torch.zeros_like(traffic.v), torch.zeros_like(traffic.lane)
    accel[:, :agents] = drive(speed, traffic.target)
    allowed = mask.gather(2, actions.unsqueeze(-1)).squeeze(-1)
    turn[:, :agents] = torch.where(allowed, lanes_turned(actions), 0)
    return accel, turn


@njit(error_model="numpy")
def _commands(v: Floats, target: Floats, actions: Ints, mask: Flags, accel: Floats, turn: Ints) -> None:
    for b in range(target.shape[0]):
        for i in range(target.shape[1]):
            action = actions[b, i]
            if action in (_FASTER, _SLOWER):
                level = np.rint(v[b, i] / SPEED_STEP) + (1.0 if action == _FASTER else -1.0)
                target[b, i] = min(max(level * SPEED_STEP, 0.0), TOP_SPEED)
            accel[b, i] = min(max((target[b, i] - v[b, i]) / SPEED_TIME_S, -CAV_DECEL), CAV_ACCEL)
            if mask[b, i, action]:
                turn[b, i] = int(action == _LEFT) - int(action == _RIGHT)


def legal(traffic: Traffic) -> Tensor:
    """bool ``[B, N, 5]``: lane changes where a lane is, never back onto the acceleration lane; speeds in range."""
    if not traffic.compiled:
        return legal_reference(traffic)
    mask = torch.empty(*traffic.target.shape, len(Action), dtype=torch.bool)
    tensors = (traffic.x, traffic.v, traffic.lane, traffic.present, traffic.road, traffic.target, mask)
    _legal(*(tensor.numpy() for tensor in tensors))
    return mask


@njit(error_model="numpy")
def _legal(x: Floats, v: Floats, lane: Ints, present: Flags, road: Floats, target: Floats, mask: Flags) -> None:
    for b in range(target.shape[0]):
        for i in range(target.shape[1]):
            if not present[b, i]:
                mask[b, i] = False
                mask[b, i, _IDLE] = True
                continue
            level = np.rint(v[b, i] / SPEED_STEP)
            if lane[b, i] == 0:
                left = road[b, _MERGE_START] <= x[b, i] < road[b, _MERGE_END]
            else:
                left = lane[b, i] < road[b, _MAIN_LANES]
            mask[b, i, _LEFT] = left
            mask[b, i, _IDLE] = True
            mask[b, i, _RIGHT] = lane[b, i] > 1
            mask[b, i, _FASTER] = level * SPEED_STEP < TOP_SPEED or target[b, i] < TOP_SPEED
            mask[b, i, _SLOWER] = level > 0.0 or target[b, i] > 0.0


def legal_reference(traffic: Traffic) -> Tensor:
    """``legal`` as plain tensor operations: the oracle of the numba form, and the form for a GPU."""
    agents = traffic.target.shape[1]
    x, v, lane = traffic.x[:, :agents], traffic.v[:, :agents], traffic.lane[:, :agents]
    road = traffic.road
    beside = (x >= road[:, R.MERGE_START, None]) & (x < road[:, R.MERGE_END, None])
    level = torch.round(v / SPEED_STEP)
    mask = torch.ones(*x.shape, len(Action), dtype=torch.bool, device=x.device)
    mask[..., Action.LANE_LEFT] = torch.where(lane == 0, beside, lane < road[:, R.MAIN_LANES, None])
    mask[..., Action.LANE_RIGHT] = lane > 1
    mask[..., Action.FASTER] = (level * SPEED_STEP < TOP_SPEED) | (traffic.target < TOP_SPEED)
    mask[..., Action.SLOWER] = (level > 0) | (traffic.target > 0.0)
    there = traffic.present[:, :agents, None]
    idle = torch.arange(len(Action), device=x.device) == Action.IDLE
    return torch.where(there, mask, idle)
