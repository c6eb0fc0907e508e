"""Policies that need no training: the weak demonstrator, and the same without weaknesses."""

from __future__ import annotations

from typing import cast

import torch

from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.policies.base import Baseline
from marl.seeding import Stream, fold_int
from scenarios.agent_hierarchy.answerable import check_planned
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.spoken import SpokenHierarchy


class Demonstrator:
    """Speaks as the scripted expert does (``marl.policies.base.BoundPolicy``)."""

    def __init__(self, env: BatchedEnv, flawless: bool):
        self._env = cast(SpokenHierarchy, env)
        check_planned(self._env.hierarchy, "flawless" if flawless else "expert")
        self._expert = Expert(self._env.hierarchy, flawless)

    def act(self, timestep: TimeStep) -> Tree:
        keys = timestep.key.tolist()
        turns = self._env.turns()
        self._env.say([self._expert(turn, fold_int(key, Stream.POLICY)) for turn, key in zip(turns, keys, strict=True)])
        return torch.zeros_like(timestep.alive, dtype=torch.int64)


BASELINES: dict[str, Baseline] = {
    "expert": lambda env: Demonstrator(env, flawless=False),
    "flawless": lambda env: Demonstrator(env, flawless=True),
}
