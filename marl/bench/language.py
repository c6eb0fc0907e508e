"""The parts of a language world and of its training, each measured alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from marl.bench.clock import Stopwatch
from marl.bench.worlds import Part
from marl.config import AnyRunConfig
from marl.errors import UserError
from marl.policies.language.scripted import ScriptedPolicy
from marl.rollout.language.turns import Episode, TurnPlayer
from marl.scenario import Scenario
from marl.seeding import fold_int
from marl.systems.registry import load_system
from marl.training.language_trainer import tokens_of


class LanguageParts:
    """Makes the parts of one configuration; speakers are as training finds them, without imitation.

    Raises ``UserError`` if the configuration cannot be built.
    """

    def __init__(self, scenario: Scenario, config: AnyRunConfig):
        if scenario.language is None:
            raise UserError(f"{scenario.name} is no language world: measure it with --system {scenario.system}")
        if config.copies % config.algorithm.group:
            raise UserError(f"copies={config.copies} is not a multiple of algorithm.group={config.algorithm.group}")
        self._config = config
        self._world = scenario.language(config.world)
        self._watch = Stopwatch(torch.device(config.device))
        self._updates = 0

    def parts(self, wanted: tuple[str, ...]) -> Iterator[Part]:
        """The parts of those names: the world with its demonstrator, generation, update, the whole."""
        if "world" in wanted:
            yield self._demonstrated()
        if {"policy", "update", "end"} & set(wanted):
            yield from self._trained(wanted)

    def _seeds(self, number: int) -> list[int]:
        group = self._config.algorithm.group
        return [number * self._config.copies + i // group for i in range(self._config.copies)]

    def _demonstrated(self) -> Part:
        policy = ScriptedPolicy(self._world.expert, None)
        player = TurnPlayer(self._world.make, dict.fromkeys(self._world.roles, policy))
        turns: list[int] = []

        def play() -> float:
            began = self._watch.now()
            episodes = player.play(self._seeds(len(turns)), len(turns))
            spent = self._watch.now() - began
            turns.append(sum(len(c.turns) for episode in episodes for c in episode.conversations))
            return spent

        return Part("world and demonstrator", lambda: turns[-1], play, unit="turns", close=player.close)

    def _trained(self, wanted: Sequence[str]) -> Iterator[Part]:
        config = self._config
        learner = load_system(config.system).build(self._world, config.algorithm, config.seed, config.device)
        player = TurnPlayer(self._world.make, learner.policies)
        played: list[list[Episode]] = []
        tokens: list[int] = []
        phases = {"generation": 0.0, "update": 0.0}

        def generate() -> float:
            number = len(tokens)
            seeds = self._seeds(number)
            began = self._watch.now()
            episodes = player.play(seeds, fold_int(config.seed, number), seeds)
            spent = self._watch.now() - began
            tokens.append(max(sum(map(tokens_of, episodes)), 1))
            played[:] = [episodes]
            return spent

        def learn() -> float:
            if not played:
                generate()
            began = self._watch.now()
            learner.update(played[0], self._updates, 0.0, None)
            self._updates += 1
            return self._watch.now() - began

        def both() -> float:
            first, second = generate(), learn()
            phases["generation"] += first
            phases["update"] += second
            return first + second

        def shares() -> dict[str, Any]:
            total = max(sum(phases.values()), 1e-9)
            return {"shares": {name: seconds / total for name, seconds in phases.items()}}

        def count() -> float:
            return tokens[-1]

        made = [
            Part("generation", count, generate, unit="tokens"),
            Part("update", count, learn, unit="tokens"),
            Part("end to end", count, both, unit="tokens", notes=shares),
        ]
        chosen = [part for name, part in zip(("policy", "update", "end"), made, strict=True) if name in wanted]
        chosen[-1].close = player.close
        yield from chosen
