"""Language worlds as batched ones: for policies whose actions are texts, and for faces that act by numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from marl.envs.batched import BatchedEnv, EnvSpec, Final, TimeStep, Tree
from marl.envs.chat import LanguageEnv, Turn
from marl.seeding import fold, fold_int, seeds_of


class SpokenWorld(BatchedEnv):
    """B episodes of a language world; every role is an agent.

    What is done is said by ``say`` before a ``step``, whose actions are then ignored; else ``chosen`` makes something
    of the numbers. reward: that of the language world, for the agent that spoke, as for all others. metrics: of the
    outcome: success, calls, cost and whatever else the world measures, as far as ``spec`` lists them.

    Args:
        make: an episode's world.
        spec: what a learner has to know.
        copies: B.
        device: of the tensors.
    """

    #: Why nothing but texts can be acted with; empty where numbers will do as well.
    speech_only = ""

    def __init__(self, make: Callable[[], LanguageEnv], spec: EnvSpec, copies: int, device: torch.device):
        self.copies, self.device, self.spec = copies, device, spec
        self._envs = [make() for _ in range(copies)]
        self._seed = torch.zeros(copies, dtype=torch.int64)
        self._episode = torch.zeros(copies, dtype=torch.int64)
        self._count = torch.zeros(copies, dtype=torch.int64)
        self._said: list[str] | None = None

    # What a world gives

    @abstractmethod
    def views(self) -> tuple[Tensor, Tensor | None]:
        """Observations ``[B, N, F]`` and masks ``[B, N, A]`` (None: everything is legal), on the CPU."""

    @abstractmethod
    def chosen(self, copy: int, actions: Tensor) -> float:
        """Act in a copy by numbers, those of all copies being ``actions`` on the CPU; returns the reward."""

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
        agents = self.spec.n_agents
        reward = torch.zeros((self.copies, agents))
        ended = torch.zeros((self.copies, agents), dtype=torch.bool)
        truncated = torch.zeros_like(ended)
        metrics = {name: torch.zeros(self.copies) for name in self.spec.metrics}
        before = self.views()[0]
        said, self._said = self._said, None
        for copy, env in enumerate(self._envs):
            reward[copy] = self.chosen(copy, chosen) if said is None else self._speak(copy, said[copy])
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

    def current(self) -> TimeStep:
        observation, mask = self.views()
        agents = self.spec.n_agents
        none = torch.zeros((self.copies, agents), dtype=torch.bool, device=self.device)
        observation = observation.to(self.device)
        return TimeStep(
            observation=observation,
            state=observation.flatten(1),
            reward=torch.zeros((self.copies, agents), device=self.device),
            terminated=none,
            truncated=none.clone(),
            done=none.any(dim=1),
            alive=torch.ones_like(none),
            agent_id=torch.arange(agents, device=self.device).expand(self.copies, agents).clone(),
            action_mask=None if mask is None else mask.to(self.device),
            key=fold(fold(self._seed, self._episode), self._count).to(self.device),
            final=None,
            metrics={name: torch.zeros(self.copies, device=self.device) for name in self.spec.metrics},
        )

    def _begin(self, copy: int) -> None:
        self._envs[copy].reset(seed=fold_int(int(self._seed[copy]), int(self._episode[copy])))
        self._count[copy] = 0

    def _speak(self, copy: int, text: str) -> float:
        """Say a text as the acting agent; returns its reward."""
        env = self._envs[copy]
        speaker = env.agent_selection
        env.step(text)
        return float(env.rewards[speaker])
