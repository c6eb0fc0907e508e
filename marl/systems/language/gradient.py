"""Steps of the gradient on rows of tokens, for the weights of every unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from marl.errors import NotFiniteError
from marl.learning.language.token_trees import TokenRow
from marl.learning.learner import ClippedAdam
from marl.learning.surrogates import ppo_clip
from marl.rollout.finite import MEND_LEARNING
from marl.systems.language.likelihood import LogRatio, log_probs
from marl.systems.language.options import LanguageConfig
from marl.systems.language.speakers import Unit


class Step(NamedTuple):
    """loss: before the step. norm: of the gradient, before clipping. log_ratio: of these weights to what sampled."""

    loss: float
    norm: float
    log_ratio: LogRatio

    def figures(self, name: str) -> dict[str, float]:
        """``grad_norm_NAME`` and the figures of the log-ratio."""
        return {f"grad_norm_{name}": self.norm} | self.log_ratio.figures(name)


def adam_of(unit: Unit, rate: float, config: LanguageConfig) -> ClippedAdam:
    """An optimiser of a unit's weights, without any moments yet."""
    return ClippedAdam(unit.model.parameters_of(unit.key), rate, config.max_grad_norm)


def set_rate(adam: ClippedAdam, rate: float) -> None:
    for group in adam.adam.param_groups:
        group["lr"] = rate


def gradient_step(
    unit: Unit,
    adam: ClippedAdam,
    rows: Sequence[TokenRow],
    normaliser: float,
    config: LanguageConfig,
    on_policy: bool = True,
) -> Step:
    """One step on a unit's weights.

    Args:
        unit: whose weights move.
        adam: of these weights.
        rows: to learn from, with the weight of each token.
        normaliser: the sum over all tokens is divided by it.
        config: clip, temperature, and how much is computed at once.
        on_policy: the rows were sampled by these very weights, or are demonstrations: the ratio is 1.

    Raises:
        NotFiniteError: the loss or the norm of its gradient is none.
    """
    adam.zero()
    on_policy = on_policy and not getattr(unit.model, "sampled_elsewhere", False)
    total, apart = 0.0, LogRatio()
    scored = log_probs(unit.model, unit.key, rows, config.temperature, config.tree_tokens, config.pass_tokens)
    for trees, log_prob in scored:
        apart.add(log_prob, trees.old)
        loss = -(log_prob * (trees.positive + trees.negative))
        if not on_policy:
            # What somebody else said was not sampled, and has no ratio.
            shown, clip = trees.old.isnan(), config.clip
            ratio = log_prob - torch.where(shown, log_prob.detach(), trees.old)
            clipped = ppo_clip(ratio, trees.positive, clip) + ppo_clip(ratio, trees.negative, clip)
            loss = torch.where(shown, loss, clipped)
        loss = loss.sum()
        torch.autograd.backward(loss / normaliser)
        total += float(loss.detach()) / normaliser
    if not math.isfinite(total):  # before the step: what would follow may be handed to another process or server
        raise NotFiniteError(f"the loss of '{unit.name}' is {total}", MEND_LEARNING)
    norm = float(adam.step())
    if not math.isfinite(norm):
        raise NotFiniteError(f"the norm of the gradient of '{unit.name}' is {norm}", MEND_LEARNING)
    return Step(total, norm, apart)


class Reinforcement:
    """The optimisers of all units that learn, and the epochs of an update."""

    def __init__(self, units: Sequence[Unit], config: LanguageConfig):
        self._config, self._units = config, units
        self._adams = {unit.name: adam_of(unit, config.rate, config) for unit in units}

    def rate(self, number: int, fraction: float) -> float:
        """The learning rate of an update. fraction: the part of the run that is done."""
        config = self._config
        rate = config.rate * min((number + 1) / max(config.warmup, 1), 1.0)
        return rate * (1.0 - fraction if config.anneal else 1.0)

    def learn(
        self,
        unit: Unit,
        rows: Sequence[TokenRow],
        normaliser: float,
        rate: float,
        fresh: bool = True,
        shown: Sequence[TokenRow] = (),
    ) -> Step | None:
        """The epochs of one update. Returns the first step, or None without any.

        Args:
            unit: whose weights move.
            rows: to learn from.
            normaliser: the sum over all tokens is divided by it.
            rate: of learning.
            fresh: the rows were sampled by the present weights.
            shown: demonstrations to imitate in the first step; nobody sampled them, so they have no ratio.
        """
        adam = self._adams[unit.name]
        set_rate(adam, rate)
        first: Step | None = None
        for epoch in range(self._config.epochs):
            on_policy = fresh and epoch == 0
            both = [*rows, *shown] if on_policy else rows
            if not both:  # every group of it was of one mind
                break
            step = gradient_step(unit, adam, both, normaliser, self._config, on_policy)
            first = first or step
        return first

    def state(self) -> dict[str, Any]:
        return {name: adam.state() for name, adam in self._adams.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for unit in self._units:
            self._adams[unit.name].load_state(state[unit.name])
