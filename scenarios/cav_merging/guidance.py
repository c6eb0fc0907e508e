"""A cooperative merge plan: first in, first out, as a virtual platoon.

Cars of both roads are taken to pass the acceleration lane in the order of their positions (at equal speeds, the order
of their projected arrivals). Each follows the car before it in that order, on whichever road that drives, as if it
were on its own lane (Lu, Tan, Shladover, Hedrick, "Automated vehicle merging maneuver implementation for automated
highway systems", Vehicle System Dynamics 41(2), 2004); so gaps are open when ramp cars arrive.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from scenarios.cav_merging.config import SIM_STEP_S
from scenarios.cav_merging.drivers import P
from scenarios.cav_merging.observation import ACCEL_MPS2, PERCEPTION_M, SPEED_MPS
from scenarios.cav_merging.traffic import R, Traffic
from scenarios.cav_merging.twin import reference
from scenarios.cav_merging.twin.reference import Moment, pick, pick_lane

#: The platoon forms on the last stretch before the acceleration lane, m, and asks for no harder braking, m/s^2.
FORMING_M, PATIENCE = 200.0, 3.0

PLAN_SPACE = {"plan": spaces.Box(-1.0, 1.0, (4,), np.float32)}


class MergePlan(NamedTuple):
    """The plan for every car, ``[B, V]``; N of them are agents.

    leader: int64, the car to follow in the virtual platoon on the other lane, -1 if there is none.
    gap: metres to its rear, negative side by side. closing: its speed less one's own, m/s.
    own_accel: acceleration that car-following and the lane end ask for, m/s^2.
    accel: the same with the virtual leader.
    merge: the gap beside is secure and the car may take it now.
    """

    leader: Tensor
    gap: Tensor
    closing: Tensor
    own_accel: Tensor
    accel: Tensor
    merge: Tensor


def merge_plan(traffic: Traffic, lanes: int) -> MergePlan:
    """The plan at the present moment; lanes: of the neighbour tables."""
    moment = Moment(traffic, lanes)
    v, lane, x = traffic.v, traffic.lane, traffic.x
    wish = moment.following(pick_lane(moment.lead, lane))
    left = moment.road[:, R.MERGE_END, None] - x
    stop = reference.idm(v, left, torch.zeros_like(v), moment.limit, traffic.drivers[..., P.MIN_GAP], traffic.drivers)
    wish = torch.where(lane == 0, torch.minimum(wish, stop), wish)
    own_accel = (wish - v) / SIM_STEP_S
    forming = (moment.road[:, R.MERGE_START, None] - x < FORMING_M) & (left > 0.0) & traffic.present & (lane <= 1)
    beside = pick_lane(moment.lead, (1 - lane).clamp(min=0))
    own_leader = pick_lane(moment.lead, lane)
    # The own leader comes first in the platoon if it is nearer than the car beside.
    nearer = (own_leader < 0) | (pick(x, beside) < pick(x, own_leader))
    counts = forming & (beside >= 0) & nearer & (pick(x, beside) < moment.road[:, R.MERGE_END, None])
    leader = torch.where(counts, beside, -1)
    gap = torch.where(counts, moment.gap_to(beside), PERCEPTION_M)
    closing = torch.where(counts, pick(v, leader) - v, 0.0)
    virtual = reference.idm(v, gap, pick(v, leader), moment.limit, traffic.drivers[..., P.MIN_GAP], traffic.drivers)
    asked = ((virtual - v) / SIM_STEP_S).clamp(min=-PATIENCE)
    accel = torch.where(counts, torch.minimum(own_accel, asked), own_accel)
    merge = (lane == 0) & moment.beside & moment.accepts(moment.lead[..., 1], moment.follow[..., 1])
    return MergePlan(leader, gap, closing, own_accel, accel, merge)


def plan_features(plan: MergePlan, traffic: Traffic) -> dict[str, Tensor]:
    """What an agent is told: [there is a virtual leader, gap, closing speed, acceleration], float32 ``[B, N, 4]``."""
    agents = traffic.target.shape[1]
    told = torch.stack(
        (
            (plan.leader >= 0).double(),
            (plan.gap / PERCEPTION_M).clamp(-1.0, 1.0),
            (plan.closing / SPEED_MPS).clamp(-1.0, 1.0),
            (plan.accel / ACCEL_MPS2).clamp(-1.0, 1.0),
        ),
        -1,
    )[:, :agents]
    return {"plan": torch.where(traffic.present[:, :agents, None], told, 0.0).float()}
