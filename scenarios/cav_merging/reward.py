"""The published reward (Chen et al., IEEE T-ITS 2023, arXiv 2105.05701, eq. 2 to 5; as coded in ``merge_env_v1.py``).

    r = -w_c crash + w_s clip((v - 10) / 20, 0, 1) - w_m exp(-(x - x_end)^2 / (10 L)) + w_h min(0, ln(gap / (1.2 v)))

The third term counts on the acceleration lane (L: its length), the fourth behind a leader on the own lane.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from marl.compiled import njit
from scenarios.cav_merging.config import Reward
from scenarios.cav_merging.drivers import P
from scenarios.cav_merging.traffic import R, Traffic
from scenarios.cav_merging.twin.arrays import Flags, Floats, Ints
from scenarios.cav_merging.twin.reference import pick, pick_lane

SPEED_RANGE = (10.0, 30.0)
HEADWAY_S = 1.2
#: The logarithm of the headway is cut off here: a bumper-to-bumper standstill would have no finite price.
LEAST_GAP_M = 0.5
SLOWEST_MPS = 1e-3
_LENGTH = int(P.LENGTH)


class Neighbours(NamedTuple):
    """The neighbour tables ``[B, V, L]`` and the lanes ``[B, V]`` after the step."""

    lead: Tensor
    follow: Tensor
    lane: Tensor


def own_rewards(config: Reward, traffic: Traffic, crashed: Tensor, lead: Tensor) -> Tensor:
    """float64 ``[B, V]``, what each car earned by itself, human-driven ones by the same formula; 0 where none drives.

    Args:
        crashed: bool ``[B, V]``.
        lead: the neighbour table after the step, ``[B, V, L]``.
    """
    if not traffic.compiled:
        return own_rewards_reference(config, traffic, crashed, lead)
    own = torch.empty_like(traffic.x)
    tensors = (traffic.x, traffic.v, traffic.lane, traffic.present, traffic.drivers, traffic.road, crashed, lead, own)
    _own(*(tensor.numpy() for tensor in tensors), config.crash, config.speed, config.merging, config.headway)
    return own


@njit(error_model="numpy")
def _own(
    x: Floats,
    v: Floats,
    lane: Ints,
    present: Flags,
    drivers: Floats,
    road: Floats,
    crashed: Flags,
    lead: Ints,
    own: Floats,
    crash: float,
    speed: float,
    merging: float,
    headway: float,
) -> None:
    low, high = SPEED_RANGE
    for b in range(x.shape[0]):
        start, end = road[b, 0], road[b, 1]
        for i in range(x.shape[1]):
            earned = 0.0
            if present[b, i]:
                earned = speed * min(1.0, max(0.0, (v[b, i] - low) / (high - low)))
                if lane[b, i] == 0 and x[b, i] >= start:
                    earned -= merging * np.exp(-((x[b, i] - end) ** 2) / (10.0 * (end - start)))
                p = lead[b, i, lane[b, i]]
                if p >= 0 and v[b, i] > 0.0:
                    gap = max(LEAST_GAP_M, x[b, p] - drivers[b, p, _LENGTH] - x[b, i])
                    earned += headway * min(0.0, np.log(gap / (HEADWAY_S * max(v[b, i], SLOWEST_MPS))))
            if crashed[b, i]:
                earned -= crash
            own[b, i] = earned


def own_rewards_reference(config: Reward, traffic: Traffic, crashed: Tensor, lead: Tensor) -> Tensor:
    """``own_rewards`` as plain tensor operations: the oracle of the numba form, and the form for a GPU."""
    x, v, lane = traffic.x, traffic.v, traffic.lane
    start, end = traffic.road[:, R.MERGE_START, None], traffic.road[:, R.MERGE_END, None]
    low, high = SPEED_RANGE
    speed = ((v - low) / (high - low)).clamp(0.0, 1.0)
    near_end = torch.exp(-((x - end) ** 2) / (10.0 * (end - start)))
    merging = torch.where((lane == 0) & (x >= start), near_end, 0.0)
    leader = pick_lane(lead, lane)
    gap = pick(x, leader) - pick(traffic.drivers[..., P.LENGTH], leader) - x
    headway = torch.log(gap.clamp(min=LEAST_GAP_M) / (HEADWAY_S * v.clamp(min=SLOWEST_MPS))).clamp(max=0.0)
    headway = torch.where((leader >= 0) & (v > 0.0), headway, 0.0)
    driving = config.speed * speed - config.merging * merging + config.headway * headway
    return torch.where(traffic.present, driving, 0.0) - config.crash * crashed


def shared_rewards(config: Reward, own: Tensor, acted: Tensor, agents: int, neighbours: Neighbours) -> Tensor:
    """The agents' rewards, float32 ``[B, N]``.

    Args:
        own: ``own_rewards``.
        acted: bool ``[B, V]``, who drove in this step. A human driver counts ``config.humans`` times what an
            automated car counts.
    """
    driving = acted[:, :agents]
    if config.sharing == "own":
        return torch.where(driving, own[:, :agents], 0.0).float()
    weight = torch.full_like(own, config.humans)
    weight[:, :agents] = 1.0
    weight = weight * acted
    if config.sharing == "global":
        total = (weight * own).sum(1) / weight.sum(1).clamp(min=1e-9)
        return torch.where(driving, total[:, None], 0.0).float()
    lead, follow, lane = neighbours
    own_lane = lane[:, :agents]
    total, count = (weight * own)[:, :agents].clone(), weight[:, :agents].clone()
    for table in (lead, follow):
        for side in (-1, 0, 1):
            beside = own_lane + side
            j = pick_lane(table[:, :agents], beside)
            counts = (beside >= 0) & (beside < lead.shape[2]) & (j >= 0)
            j = torch.where(counts, j, 0)
            share = torch.where(counts, weight.gather(1, j), 0.0)
            total = total + share * own.gather(1, j)
            count = count + share
    return torch.where(driving, total / count.clamp(min=1e-9), 0.0).float()
