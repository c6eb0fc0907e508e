"""Trained speakers outside training: bound to a batched world that takes texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from marl.config import AnyRunConfig
from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.envs.chat import Spoken
from marl.errors import UserError
from marl.policies.language.base import LanguagePolicy, Request, Transcript
from marl.scenario import load_scenario
from marl.seeding import Stream, fold_int
from marl.systems.registry import load_system


class LearnedSpeakers:
    """The policies of all roles, as a run left them. state: the algorithm's part of its checkpoint."""

    def __init__(self, name: str, config: AnyRunConfig, state: dict[str, Any]):
        self.name, self.config, self._state = name, config, state

    def bind(self, env: BatchedEnv) -> BoundSpeakers:
        """Raises ``UserError`` if the world takes no texts, or has other words or roles than the one of training."""
        language = load_scenario(self.config.scenario).language
        if language is None or not isinstance(env, Spoken):
            raise UserError(f"policy '{self.name}' speaks, but {type(env).__name__} takes no texts")
        learner = load_system(self.config.system).build(
            language(self.config.world), self.config.algorithm, self.config.seed, self.config.device
        )
        try:
            learner.take_weights(self._state["policy"])
        except (KeyError, RuntimeError):
            raise UserError(f"policy '{self.name}' does not fit the configuration in its own config.yaml") from None
        unknown = set(env.spec.agents) - set(learner.policies)
        if unknown:
            raise UserError(f"policy '{self.name}' has no role '{min(unknown)}': evaluate it with its own --graph")
        return BoundSpeakers(env, learner.policies, self.config.algorithm.greedy)

    def act(self, observations: Any, seed: int = 0) -> Any:
        """Speakers take conversations, not single observations: bind them to a world, or use ``TurnPlayer``."""
        raise UserError(f"policy '{self.name}' speaks: play it with 'marl evaluate', or by bind(env)")

    def reset(self) -> None:
        """Nothing is kept outside bound worlds."""


class BoundSpeakers:
    """Speakers in one batched world (``marl.policies.base.BoundPolicy``)."""

    def __init__(self, env: Spoken, policies: dict[str, LanguagePolicy], greedy: bool):
        self._env, self._policies, self._greedy = env, policies, greedy
        self._transcripts: dict[tuple[int, int], Transcript] = {}

    def act(self, timestep: TimeStep) -> Tree:
        done = set(timestep.done.nonzero().squeeze(1).tolist())
        self._transcripts = {key: value for key, value in self._transcripts.items() if key[0] not in done}
        turns = self._env.turns()
        texts = [""] * len(turns)
        keys: list[int] = timestep.key.tolist()
        waiting: dict[int, list[int]] = {}
        for copy, turn in enumerate(turns):
            waiting.setdefault(id(self._policies[turn.agent]), []).append(copy)
        for copies in waiting.values():
            requests = [
                Request(
                    turns[copy],
                    self._transcripts.setdefault((copy, turns[copy].conversation), Transcript()),
                    fold_int(keys[copy], Stream.POLICY),
                )
                for copy in copies
            ]
            said = self._policies[turns[copies[0]].agent].complete(requests, self._greedy)
            for copy, text in zip(copies, said, strict=True):
                texts[copy] = text or ""  # silence is an invalid action: an evaluation drops no episode
        self._env.say(texts)
        return _nothing(timestep.alive)


def _nothing(alive: Tensor) -> Tensor:
    return torch.zeros_like(alive, dtype=torch.int64)
