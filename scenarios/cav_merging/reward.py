"""The published reward (Chen et al., IEEE T-ITS 2023, arXiv 2105.05701, eq. 2 to 5; as coded in ``merge_env_v1.py``).

    r = -w_c crash + w_s clip((v - 10) / 20, 0, 1) - w_m exp(-(x - x_end)^2 / (10 L)) + w_h min(0, ln(gap / (1.2 v)))

The third term counts on the acceleration lane (L: its length), the fourth behind a leader on the own lane.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scenarios.cav_merging.config import Reward
from scenarios.cav_merging.drivers import P
from scenarios.cav_merging.reference import pick, pick_lane
from scenarios.cav_merging.traffic import R, Traffic

SPEED_RANGE = (10.0, 30.0)
HEADWAY_S = 1.2
#: The logarithm of the headway is cut off here: a bumper-to-bumper standstill would have no finite price.
LEAST_GAP_M = 0.5


def own_rewards(config: Reward, traffic: Traffic, crashed: Tensor, lead: Tensor) -> Tensor:
    """float64 ``[B, N]``, what each automated car earned by itself; 0 where none drives.

    crashed: bool ``[B, V]``. lead: the neighbour table after the step, ``[B, V, L]``.
    """
    agents = traffic.target.shape[1]
    x, v, lane = traffic.x[:, :agents], traffic.v[:, :agents], traffic.lane[:, :agents]
    start, end = traffic.road[:, R.MERGE_START, None], traffic.road[:, R.MERGE_END, None]
    low, high = SPEED_RANGE
    speed = ((v - low) / (high - low)).clamp(0.0, 1.0)
    near_end = torch.exp(-((x - end) ** 2) / (10.0 * (end - start)))
    merging = torch.where((lane == 0) & (x >= start), near_end, 0.0)
    leader = pick_lane(lead[:, :agents], lane)
    gap = pick(traffic.x, leader) - pick(traffic.drivers[..., P.LENGTH], leader) - x
    headway = torch.log(gap.clamp(min=LEAST_GAP_M) / (HEADWAY_S * v.clamp(min=1e-3))).clamp(max=0.0)
    headway = torch.where((leader >= 0) & (v > 0.0), headway, 0.0)
    driving = config.speed * speed - config.merging * merging + config.headway * headway
    present = traffic.present[:, :agents]
    return torch.where(present, driving, 0.0) - config.crash * crashed[:, :agents]


def shared_rewards(config: Reward, own: Tensor, acted: Tensor, lead: Tensor, follow: Tensor, lane: Tensor) -> Tensor:
    """float32 ``[B, N]``. own: ``own_rewards``. acted: bool ``[B, N]``, who drove in this step. lane: ``[B, V]``."""
    if config.sharing == "own":
        return torch.where(acted, own, 0.0).float()
    if config.sharing == "global":
        total = torch.where(acted, own, 0.0).sum(1) / acted.sum(1).clamp(min=1)
        return torch.where(acted, total[:, None], 0.0).float()
    agents, lanes = own.shape[1], lead.shape[2]
    total, count = own.clone(), acted.double()
    own_lane = lane[:, :agents]
    for table in (lead, follow):
        for side in (-1, 1):
            beside = own_lane + side
            j = pick_lane(table[:, :agents], beside)
            counts = (beside >= 0) & (beside < lanes) & (j >= 0) & (j < agents)
            j = torch.where(counts, j, 0)
            counts = counts & acted.gather(1, j)
            total = total + torch.where(counts, own.gather(1, j), 0.0)
            count = count + counts
    return torch.where(acted, total / count.clamp(min=1.0), 0.0).float()
