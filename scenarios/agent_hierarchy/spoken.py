"""The hierarchy as a batched world that is spoken to: for policies whose actions are texts, whatever the questions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import BatchedEnv, EnvSpec, Final, Metric, TimeStep, Tree
from marl.envs.chat import Turn
from marl.errors import UserError
from marl.seeding import fold, fold_int, seeds_of
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


class SpokenHierarchy(BatchedEnv):
    """B episodes; every role is an agent, and what it does is said by ``say`` before each ``step``.

    observation: float32 ``[B, N, 1]``, nothing: policies read ``turns()``. reward: that of the language world, for the
    agent that spoke, as for all others. ``step`` raises ``UserError`` if nothing was said.

    Args:
        hierarchy: roles, tools and questions.
        copies: B.
        device: of the tensors.
    """

    #: Why nothing but texts can be acted with; empty where numbers will do as well.
    speech_only = (
        "world.tasks.file holds questions in words: train and play it with language systems (see 'marl list systems'), "
        "or leave --tasks out for the discrete face"
    )

    def __init__(self, hierarchy: Hierarchy, copies: int, device: torch.device):
        self.copies, self.device, self.hierarchy = copies, device, hierarchy
        self._envs = [HierarchyEnv(hierarchy) for _ in range(copies)]
        self._roles = list(hierarchy.roles.values())
        size, actions = self._sizes()
        self.spec = EnvSpec(
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
        self._seed = torch.zeros(copies, dtype=torch.int64)
        self._episode = torch.zeros(copies, dtype=torch.int64)
        self._count = torch.zeros(copies, dtype=torch.int64)
        self._said: list[str] | None = None

    def _sizes(self) -> tuple[int, int]:
        """Numbers of an observation, and of actions."""
        return 1, 1

    # BatchedEnv

    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        seeds = seeds_of(seed, self.copies)
        chosen = torch.ones(self.copies, dtype=torch.bool) if mask is None else mask.cpu()
        for copy in chosen.nonzero().squeeze(1).tolist():
            self._seed[copy], self._episode[copy] = seeds[copy], 0
            self._begin(copy)
        return self.current()

    def step(self, actions: Tree) -> TimeStep:
        assert isinstance(actions, Tensor)
        chosen = actions.cpu()
        agents = len(self._roles)
        reward = torch.zeros((self.copies, agents))
        ended = torch.zeros((self.copies, agents), dtype=torch.bool)
        truncated = torch.zeros_like(ended)
        metrics = {name: torch.zeros(self.copies) for name in METRICS}
        before = self._views()[0]
        said, self._said = self._said, None
        for copy, env in enumerate(self._envs):
            reward[copy] = self._chosen(copy, chosen) if said is None else self._speak(copy, said[copy])
            self._count[copy] += 1
            if env.turn() is None:
                (truncated if any(env.truncations.values()) else ended)[copy] = True
                outcome = env.outcome()
                figures = {"success": outcome.success, "calls": outcome.calls, "cost": outcome.cost, **outcome.metrics}
                for name, values in metrics.items():
                    values[copy] = float(figures[name])
                self._episode[copy] += 1
                self._begin(copy)
        done = (ended | truncated).any(dim=1)
        view = self.current()
        # Nothing can be seen once the last answer is given; the view before it stands for it.
        before = before.to(self.device)
        last = Final(before, before.flatten(1)) if bool(done.any()) else None
        return view._replace(
            reward=reward.to(self.device),
            terminated=ended.to(self.device),
            truncated=truncated.to(self.device),
            done=done.to(self.device),
            final=last,
            metrics={name: values.to(self.device) for name, values in metrics.items()},
        )

    # Spoken

    def turns(self) -> list[Turn]:
        turns = [env.turn() for env in self._envs]
        return [turn for turn in turns if turn is not None]

    def say(self, texts: Sequence[str]) -> None:
        self._said = list(texts)

    def said(self, copy: int) -> list[Conversation]:
        """All conversations of a copy's episode; the list and its messages grow until the episode is over."""
        return self._envs[copy].said

    def current(self) -> TimeStep:
        observation, mask = self._views()
        agents = len(self._roles)
        none = torch.zeros((self.copies, agents), dtype=torch.bool, device=self.device)
        observation, mask = observation.to(self.device), mask.to(self.device)
        return TimeStep(
            observation=observation,
            state=observation.flatten(1),
            reward=torch.zeros((self.copies, agents), device=self.device),
            terminated=none,
            truncated=none.clone(),
            done=none.any(dim=1),
            alive=torch.ones_like(none),
            agent_id=torch.arange(agents, device=self.device).expand(self.copies, agents).clone(),
            action_mask=mask,
            key=fold(fold(self._seed, self._episode), self._count).to(self.device),
            final=None,
            metrics={name: torch.zeros(self.copies, device=self.device) for name in METRICS},
        )

    def _begin(self, copy: int) -> None:
        self._envs[copy].reset(seed=fold_int(int(self._seed[copy]), int(self._episode[copy])))
        self._count[copy] = 0

    def _chosen(self, copy: int, actions: Tensor) -> float:
        """Act by numbers ``[B, N]``; returns the reward."""
        raise UserError(self.speech_only)

    def _speak(self, copy: int, text: str) -> float:
        """Say a text as the acting agent; returns its reward."""
        env = self._envs[copy]
        speaker = env.agent_selection
        env.step(text)
        return env.rewards[speaker]

    def _views(self) -> tuple[Tensor, Tensor]:
        """Observations ``[B, N, F]`` and masks ``[B, N, A]``."""
        shape = (self.copies, len(self._roles), 1)
        return torch.zeros(shape), torch.ones(shape, dtype=torch.bool)
