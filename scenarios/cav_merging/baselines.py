"""Rules that drive the automated cars with the same five actions that a policy has."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from marl.envs.batched import BatchedEnv, TimeStep
from marl.errors import UserError
from marl.policies.base import Baseline, BoundPolicy
from marl.seeding import Stream, fold, uniform
from scenarios.cav_merging.actions import Action, drive, next_target
from scenarios.cav_merging.guidance import merge_plan
from scenarios.cav_merging.world import CavMerging


def _merging(env: BatchedEnv) -> CavMerging:
    if not isinstance(env, CavMerging):
        raise UserError(f"this rule drives cars in CavMerging, not in {type(env).__name__}")
    return env


class Random:
    """Uniform over the legal actions, drawn by the copies' random keys."""

    def __init__(self, env: BatchedEnv):
        self._agents = torch.arange(_merging(env).agents, device=env.device)

    def act(self, timestep: TimeStep) -> Tensor:
        assert isinstance(timestep.action_mask, Tensor)
        draw = uniform(fold(fold(timestep.key, int(Stream.POLICY)).unsqueeze(1), self._agents))
        count = timestep.action_mask.sum(-1)
        chosen = (draw * count).long().clamp(max=count - 1)
        return (timestep.action_mask.long().cumsum(-1) == (chosen + 1).unsqueeze(-1)).long().argmax(-1)


class IdmGapAcceptance:
    """Follows the leader on its own lane and the lane end by the IDM, and merges when the gap beside is secure."""

    cooperative = False

    def __init__(self, env: BatchedEnv):
        self._env = _merging(env)

    def act(self, timestep: TimeStep) -> Tensor:
        t, agents = self._env.traffic, self._env.agents
        plan = merge_plan(t, self._env.lead.shape[2])
        wish = (plan.accel if self.cooperative else plan.own_accel)[:, :agents]
        v, target = t.v[:, :agents], t.target
        choices = (Action.IDLE, Action.FASTER, Action.SLOWER)
        given = [drive(v, next_target(v, target, torch.full_like(t.lane[:, :agents], choice))) for choice in choices]
        assert isinstance(timestep.action_mask, Tensor)
        wrong = (torch.stack(given, -1) - wish.unsqueeze(-1)).abs()
        wrong = torch.where(timestep.action_mask[..., list(choices)], wrong, torch.inf)
        speed = torch.tensor(choices, device=wrong.device)[wrong.argmin(-1)]
        merge = plan.merge[:, :agents] & timestep.action_mask[..., Action.LANE_LEFT]
        # Holding the old target through a lane change must not run into somebody whom braking would spare.
        calm = given[0] <= wish + 2.0
        return torch.where(merge & calm, int(Action.LANE_LEFT), speed)


class FifoMerge(IdmGapAcceptance):
    """The same in a virtual platoon: first in, first out (``guidance``)."""

    cooperative = True


class SumoDefault:
    """SUMO's own car-following and lane changing, or the twin's form of it, drives the automated cars too."""

    assertive = False

    def __init__(self, env: BatchedEnv):
        _merging(env).hand_over(self.assertive)

    def act(self, timestep: TimeStep) -> Tensor:
        return torch.full_like(timestep.agent_id, int(Action.IDLE))


class SumoAssertive(SumoDefault):
    """The same with drivers who wish to drive the limit and accept short gaps (SUMO's lcAssertive): a fair opponent,
    since policies may drive the limit too, whatever speed a car began with."""

    assertive = True


def _builder(rule: type[Random] | type[IdmGapAcceptance] | type[SumoDefault]) -> Baseline:
    def build(env: BatchedEnv) -> BoundPolicy:
        return rule(env)

    return build


BASELINES: Mapping[str, Baseline] = {
    "random": _builder(Random),
    "idm_gap_acceptance": _builder(IdmGapAcceptance),
    "fifo_merge": _builder(FifoMerge),
    "sumo_default": _builder(SumoDefault),
    "sumo_assertive": _builder(SumoAssertive),
}
