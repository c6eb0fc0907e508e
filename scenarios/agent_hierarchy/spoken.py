"""The hierarchy as a batched world that is spoken to: for policies whose actions are texts, whatever the questions."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import EnvSpec, Metric
from marl.envs.spoken import SpokenWorld
from marl.errors import UserError
from scenarios.agent_hierarchy.conversations import Conversation
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv

METRICS = {
    "success": Metric("share", "higher", "the answer was right"),
    "calls": Metric("1", "lower", "delegations and tool calls of an episode"),
    "cost": Metric("1", "lower", "cost of all calls of an episode"),
    "invalid_actions": Metric("1", "lower", "actions that were no legal call"),
    "optimal_calls": Metric("1", "neither", "calls that the question takes"),
    "optimal_cost": Metric("1", "neither", "least cost of the question"),
    "turns": Metric("1", "lower", "turns of all agents"),
}


class SpokenHierarchy(SpokenWorld):
    """B episodes; every role is an agent, and what it does is said by ``say`` before each ``step``.

    observation: float32 ``[B, N, 1]``, nothing: policies read ``turns()``. ``step`` raises ``UserError`` if nothing was
    said.

    Args:
        hierarchy: roles, tools and questions.
        copies: B.
        device: of the tensors.
    """

    speech_only = (
        "world.tasks.file holds questions in words: train and play it with language systems (see 'marl list systems'), "
        "or leave --tasks out for the discrete face"
    )

    def __init__(self, hierarchy: Hierarchy, copies: int, device: torch.device):
        self.hierarchy = hierarchy
        self._roles = list(hierarchy.roles.values())
        size, actions = self._sizes()
        spec = EnvSpec(
            agents=tuple(role.name for role in self._roles),
            groups={"agents": tuple(range(len(self._roles)))},
            observation_space={"agents": spaces.Box(0.0, 1.0, (size,), np.float32)},
            action_space={"agents": spaces.Discrete(actions)},
            state_space=spaces.Box(0.0, 1.0, (len(self._roles) * size,), np.float32),
            horizon=3 * hierarchy.config.max_turns,
            state_per_agent=False,
            metrics=METRICS,
            primary_metric="success",
            shared_reward=True,
        )
        super().__init__(lambda: HierarchyEnv(hierarchy), spec, copies, device)

    def _sizes(self) -> tuple[int, int]:
        """Numbers of an observation, and of actions."""
        return 1, 1

    def said(self, copy: int) -> list[Conversation]:
        """All conversations of a copy's episode; the list and its messages grow until the episode is over."""
        return cast(HierarchyEnv, self._envs[copy]).said

    def chosen(self, copy: int, actions: Tensor) -> float:
        raise UserError(self.speech_only)

    def views(self) -> tuple[Tensor, Tensor | None]:
        shape = (self.copies, len(self._roles), 1)
        return torch.zeros(shape), torch.ones(shape, dtype=torch.bool)
