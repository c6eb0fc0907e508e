"""Trained speakers outside training: bound to a batched world that takes texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from marl.config import AnyRunConfig
from marl.envs.batched import BatchedEnv, Metric, TimeStep, Tree
from marl.envs.chat import Spoken
from marl.errors import UserError
from marl.policies.language.base import LanguagePolicy, Request, Transcript
from marl.scenario import load_scenario
from marl.seeding import Stream, fold_int
from marl.systems.language.options import OpenAIPolicyConfig
from marl.systems.language.speakers import served_by
from marl.systems.registry import load_system

#: Of one turn of a served model.
_SERVED_TOKENS = 1024


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


class ServedSpeakers:
    """A model behind a server that speaks for all roles, whatever they are.

    Args:
        name: ``openai:URL,MODEL``, and options of ``algorithm.policy`` after it, ``:max_tokens=64:retries=0``.
        echo: told what the server does without.

    Raises:
        UserError: the name holds no address or no model, or an option that is none.
    """

    def __init__(self, name: str, echo: Callable[[str], None]):
        url, _, model = name.removeprefix("openai:").partition(",")
        # Names of models may hold colons themselves.
        model, *words = re.split(r":(?=\w+=)", model)
        if not model:
            raise UserError(
                f"policy '{name}' names no model: openai:URL,MODEL, such as openai:http://localhost:8000/v1,m"
            )
        given = {"max_tokens": str(_SERVED_TOKENS), **dict(word.split("=", 1) for word in words)}
        try:
            options = OpenAIPolicyConfig.model_validate({"base_url": url, "model": model, **given})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UserError(f"policy '{name}': {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        self.name = name
        self._policy = served_by(options, temperature=1.0)
        self._policy.echo = echo

    def bind(self, env: BatchedEnv) -> BoundServed:
        """Raises ``UserError`` if the world takes no texts."""
        if not isinstance(env, Spoken):
            raise UserError(f"policy '{self.name}' speaks, but {type(env).__name__} takes no texts")
        return BoundServed(env, dict.fromkeys(env.spec.agents, self._policy), greedy=True)


class BoundSpeakers:
    """Speakers in one batched world (``marl.policies.base.BoundPolicy``)."""

    def __init__(self, env: Spoken, policies: dict[str, LanguagePolicy], greedy: bool):
        self._env, self._policies, self._greedy = env, policies, greedy
        self._transcripts: dict[tuple[int, int], Transcript] = {}
        self._lost: set[int] = set()

    def act(self, timestep: TimeStep) -> Tree:
        done = set(timestep.done.nonzero().squeeze(1).tolist())
        self._transcripts = {key: value for key, value in self._transcripts.items() if key[0] not in done}
        turns = self._env.turns()
        texts = [""] * len(turns)
        keys: list[int] = timestep.key.tolist()
        waiting: dict[int, list[int]] = {}
        self._lost -= done
        for copy, turn in enumerate(turns):
            if copy not in self._lost:
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
                # Silence is an invalid action: an evaluation drops no episode, but does not ask in vain again either.
                texts[copy] = text or ""
                self._lost |= {copy} if text is None else set()
        self._env.say(texts)
        return _nothing(timestep.alive)


class BoundServed(BoundSpeakers):
    """Served speakers, with the share of their episodes in which the server gave no answer."""

    metrics: Mapping[str, Metric] = {"lost": Metric("share", "lower", "the server gave no answer in the episode")}

    def account(self, timestep: TimeStep) -> TimeStep:
        """The time step with the own metric, valid where an episode is done."""
        lost = torch.tensor([copy in self._lost for copy in range(len(timestep.done))], device=timestep.done.device)
        return timestep._replace(metrics={**timestep.metrics, "lost": lost.to(torch.float32)})


def _nothing(alive: Tensor) -> Tensor:
    return torch.zeros_like(alive, dtype=torch.int64)
