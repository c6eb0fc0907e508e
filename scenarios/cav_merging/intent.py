"""Where automated cars will be: kinematic rollouts of an action, or of carrying on, over the next seconds."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.envs.abilities import Prediction, nearest
from scenarios.cav_merging.actions import Action, drive, lanes_turned, next_target
from scenarios.cav_merging.config import DECISION_S
from scenarios.cav_merging.observation import PERCEPTION_M, SPEED_MPS
from scenarios.cav_merging.traffic import R, Traffic

#: Seconds between two points of an announced trajectory, and the scale of its coordinates: x in m, lane, v in m/s.
POINT_S = 0.2
SCALE = (PERCEPTION_M, 3.0, SPEED_MPS)


def rollout(traffic: Traffic, actions: Tensor | None, horizon: int) -> Tensor:
    """[x, lane, v] of the automated cars after 0.2, 0.4, ... s, float64 ``[B, N, H, 3]``.

    Args:
        actions: int64 ``[B, N]``; None: all keep their target speeds. The road is taken to be free.
    """
    t, agents = traffic, traffic.target.shape[1]
    x, v, lane = t.x[:, :agents], t.v[:, :agents], t.lane[:, :agents]
    if actions is None:
        actions = torch.full_like(lane, int(Action.IDLE))
    target = next_target(v, t.target, actions)
    lane = lane + lanes_turned(actions)
    lane = torch.minimum(lane.clamp(min=0), t.road[:, R.MAIN_LANES, None].long()).double()
    points = []
    for _ in range(horizon):
        after = (v + drive(v, target) * DECISION_S).clamp(min=0.0)
        x = x + 0.5 * (v + after) * POINT_S
        v = after
        points.append(torch.stack((x, lane, v), -1))
    return torch.stack(points, 2)


def companions(traffic: Traffic, count: int) -> Tensor:
    """int64 ``[B, N, K]``: the nearest other automated cars within 180 m, -1 filling up."""
    agents = traffic.target.shape[1]
    x, there = traffic.x[:, :agents], traffic.present[:, :agents]
    itself = torch.eye(agents, dtype=torch.bool, device=x.device)
    distance = (x[:, None] - x[:, :, None]).abs()
    distance = torch.where(there[:, None] & there[:, :, None] & ~itself, distance, torch.inf)
    return nearest(distance, PERCEPTION_M, count)


def prediction(traffic: Traffic, actions: Tensor | None, horizon: int, count: int) -> Prediction:
    """What automated cars announce to their ``count`` nearest."""
    agents = traffic.target.shape[1]
    origin = torch.stack((traffic.x[:, :agents], traffic.lane[:, :agents].double(), traffic.v[:, :agents]), -1)
    return Prediction(rollout(traffic, actions, horizon), companions(traffic, count), origin)
