"""Guidance: a planner's view added to the observation, and a reward for reaching its sub-goals.

The world supplies the plan (``marl.envs.batched.Plans``): Follower's path on a grid, a merge gap on a road, a task plan
in language. After "Learn to Follow: Decentralized Lifelong Multi-Agent Pathfinding via Planning and Learning",
Skrynnik et al., AAAI 2024, arXiv 2310.01207: the sub-goal is the next element of the plan, and reaching it in the very
next step earns a small reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from marl.coordination.module import Module, Spaces, extended, merged
from marl.envs.batched import BatchedEnv, Plans, TimeStep
from marl.errors import UserError


class Guidance(Module):
    """Adds the features of ``env.plan()`` to what each agent observes.

    reward_weight: what reaching a sub-goal earns, added to ``TimeStep.reward``.
    Raises ``UserError`` if the world has no planner.
    """

    def __init__(self, env: BatchedEnv, reward_weight: float):
        if not isinstance(env, Plans):
            raise UserError(
                f"{type(env).__name__} has no planner to guide its agents: set coordination.guidance.enabled=false"
            )
        if len(env.spec.groups) != 1:
            raise UserError("guidance needs agents of one group: set coordination.guidance.enabled=false")
        self._env: Plans = env
        self.reward_weight = reward_weight
        self._features = env.enable_plan()
        (self._group,) = env.spec.groups
        self.observation_space: Mapping[str, spaces.Space[Any]] = {
            self._group: extended(env.spec.observation_space[self._group], self._features)
        }

    def observes(self, observed: Spaces) -> Spaces:
        return self.observation_space

    def view(self, timestep: TimeStep) -> TimeStep:
        return self.augment(timestep)

    def augment(self, timestep: TimeStep) -> TimeStep:
        """The same moment with the plan in its observations and the sub-goal reward; once per time step."""
        plan = self._env.plan()
        final = timestep.final
        if final is not None and plan.final is not None:
            final = final._replace(observation=merged(final.observation, plan.final))
        return timestep._replace(
            observation=merged(timestep.observation, plan.features),
            reward=timestep.reward + self.reward_weight * plan.reached,
            final=final,
        )
