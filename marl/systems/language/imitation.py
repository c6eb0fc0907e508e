"""Imitation of a demonstrator: before reinforcement learning, and beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marl.learning.language.token_losses import tokens_of
from marl.learning.language.token_trees import TokenRow
from marl.learning.learner import ClippedAdam
from marl.rollout.language.turns import Episode
from marl.systems.language.gradient import adam_of, linear_step, set_rate
from marl.systems.language.options import LanguageConfig
from marl.systems.language.rows import token_row
from marl.systems.language.speakers import Unit


class Imitation:
    """The optimisers of the warm start; they live from its first step until ``end``.

    units: whose weights it changes, frozen ones included.
    """

    def __init__(self, units: Sequence[Unit], config: LanguageConfig):
        self._units, self._config = units, config
        self._adams: dict[str, ClippedAdam] = {}

    def step(self, episodes: Sequence[Episode], number: int) -> dict[str, float]:
        """One gradient step towards what a demonstrator said; episodes hold the ids of its texts. Returns losses."""
        options = self._config.warm_start
        if not self._adams:
            self._begin()
        share = min((number + 1) / max(options.warmup, 1), 1.0, 1.0 - number / options.steps)
        figures = {}
        for unit in self._units:
            if not unit.taught:  # an adapter, whose body is shown how to speak
                continue
            adam = self._adams[unit.name]
            set_rate(adam, self._rate(unit) * share)
            rows = demonstrated(episodes, unit, 1.0)
            weight = tokens_of(rows).weight
            figures[f"imitation_loss_{unit.name}"] = linear_step(unit, adam, rows, weight, 1.0, self._config).loss
        return figures

    def end(self) -> None:
        """Forget the moments: reinforcement begins with its own."""
        self._adams = {}

    def _rate(self, unit: Unit) -> float:
        options = self._config.warm_start
        return options.pretrained_rate if unit.model.pretrained else options.rate

    def _begin(self) -> None:
        self._adams = {unit.name: adam_of(unit, self._rate(unit), self._config) for unit in self._units}

    def state(self) -> dict[str, Any]:
        return {name: adam.state() for name, adam in self._adams.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.end()
        if state:
            self._begin()
            for name, adam in self._adams.items():
                adam.load_state(state[name])


def demonstrated(episodes: Sequence[Episode], unit: Unit, weight: float, least_level: int = 0) -> list[TokenRow]:
    """What a demonstrator said for a unit's roles, as rows whose tokens share ``weight``; none if it is 0.

    Args:
        least_level: conversations above it in the hierarchy are left out.
    """
    written = [
        c for episode in episodes for c in episode.conversations if c.agent in unit.taught and c.level >= least_level
    ]
    tokens = sum(end - start for c in written for start, end in c.transcript.spans)
    if not weight or not tokens:
        return []
    return [token_row(conversation, weight / tokens, sampled=False) for conversation in written]
