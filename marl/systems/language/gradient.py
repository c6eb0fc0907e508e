"""Steps of the gradient on rows of tokens, for the weights of every unit.

A step on a loss of log-probabilities has two passes. The first finds the log-probabilities without a gradient; of rows
that the present weights have sampled they are known. The loss is differentiated by them. The second pass takes the
gradient of their sum with those derivatives as weights, which is linear and so shares the tokens that rows have in
common (``marl.learning.language.token_trees``); by the chain rule it is the gradient of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from marl.errors import NotFiniteError
from marl.learning.language.token_losses import Tokens, clipped_surrogate, kl_penalty, tokens_of
from marl.learning.language.token_trees import TokenRow
from marl.learning.learner import ClippedAdam
from marl.learning.surrogates import kl_estimate
from marl.rollout.finite import MEND_LEARNING
from marl.systems.language.likelihood import LogRatio, log_probs_of, score
from marl.systems.language.options import LanguageConfig, Memory, RecipeLoss
from marl.systems.language.reference import Reference
from marl.systems.language.speakers import Unit


class Step(NamedTuple):
    """loss: minus the weighted sum of log-probabilities, before the step. norm: of the gradient, before clipping.

    log_ratio: of the weights before the step to those that sampled.
    """

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


def linear_step(
    unit: Unit, adam: ClippedAdam, rows: Sequence[TokenRow], weight: Tensor, normaliser: float, config: LanguageConfig
) -> Step:
    """One step that makes tokens more probable by their weights.

    Args:
        unit: whose weights move.
        adam: of these weights.
        rows: sequences of tokens.
        weight: float ``[E]``, of all learned tokens of the rows, one row's after the other's.
        normaliser: the sum over all tokens is divided by it.
        config: temperature, and how much is computed at once.

    Raises:
        NotFiniteError: the loss or the norm of its gradient is none.
    """
    adam.zero()
    old = tokens_of(rows).old
    total, apart = 0.0, LogRatio()
    for trees, log_prob in log_probs_of(unit, rows, config):
        apart.add(log_prob[trees.learned], old[trees.entry])
        loss = -(log_prob * trees.summed(weight)).sum()
        torch.autograd.backward(loss / normaliser)
        total += float(loss.detach()) / normaliser
    if not math.isfinite(total):  # before the step: what would follow may be handed to another process or server
        raise NotFiniteError(f"the loss of '{unit.name}' is {total}", MEND_LEARNING)
    norm = float(adam.step())
    if not math.isfinite(norm):
        raise NotFiniteError(f"the norm of the gradient of '{unit.name}' is {norm}", MEND_LEARNING)
    return Step(total, norm, apart)


def policy_loss(tokens: Tokens, config: LanguageConfig, memory: Memory) -> Tensor:
    """The loss of recipes without one of their own: the clipped surrogate, and the price of leaving the reference."""
    loss = clipped_surrogate(tokens, *config.clips)
    return loss + kl_penalty(tokens, config.kl.weight, config.kl.estimator) if config.kl_in("loss") else loss


class Reinforcement:
    """The optimisers of all units that learn, and the epochs of an update.

    loss: of a recipe, None for ``policy_loss``.
    """

    def __init__(
        self, units: Sequence[Unit], config: LanguageConfig, reference: Reference, loss: RecipeLoss | None = None
    ):
        self._config, self._units, self._reference, self._loss = config, units, reference, loss
        self._adams = {unit.name: adam_of(unit, config.rate, config) for unit in units}
        #: What a loss of a recipe's own remembers, by unit.
        self.memory: dict[str, Memory] = {unit.name: {} for unit in units}

    @property
    def needs_all(self) -> bool:
        """Whether rows without any advantage have a gradient too."""
        return self._loss is not None or self._config.kl_in("loss")

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
    ) -> dict[str, float]:
        """The epochs of one update. Returns figures of the first one; none where there was nothing to learn.

        Args:
            unit: whose weights move.
            rows: to learn from.
            normaliser: the sum over all tokens is divided by it.
            rate: of learning.
            fresh: the rows were sampled by the present weights.
            shown: demonstrations to imitate in the first step; nobody sampled them, so they have no ratio.
        """
        if not rows and not shown:  # every group of it was of one mind
            return {}
        self._reference.begin()  # on the side sub of a shared store nothing else does
        adam = self._adams[unit.name]
        set_rate(adam, rate)
        fresh = fresh and not getattr(unit.model, "sampled_elsewhere", False)
        tokens = tokens_of(rows)
        if self._reference.in_loss:
            tokens = tokens._replace(reference=self._reference.score(unit, rows))
        figures: dict[str, float] = {}
        for epoch in range(self._config.epochs if rows else 1):
            if not (fresh and epoch == 0):
                tokens = tokens._replace(log_prob=score(unit, rows, self._config))
            if epoch == 0 and tokens.reference is not None:
                drift = kl_estimate(tokens.log_prob, tokens.reference, self._config.kl.estimator)
                figures[f"kl_{unit.name}"] = float(drift.mean()) if rows else 0.0
            weight = self._weights(tokens, self.memory[unit.name], known=fresh and epoch == 0)
            both = [*rows, *shown] if epoch == 0 else rows
            if epoch == 0 and shown:
                weight = torch.cat([weight, tokens_of(shown).weight])
            step = linear_step(unit, adam, both, weight, normaliser, self._config)
            if epoch == 0:
                figures |= step.figures(unit.name)
        remembered = {f"{name}_{unit.name}": float(x) for name, x in self.memory[unit.name].items() if x.numel() == 1}
        return figures | remembered

    def _weights(self, tokens: Tokens, memory: Memory, known: bool) -> Tensor:
        """Minus the derivatives of the loss by the log-probabilities, float ``[E]``.

        memory: of the unit, for a recipe's loss.
        known: the present weights sampled all tokens, so that every ratio is 1.
        """
        if known and not self.needs_all:
            return tokens.weight
        leaf = tokens.log_prob.clone().requires_grad_()
        loss = (self._loss or policy_loss)(tokens._replace(log_prob=leaf), self._config, memory)
        (slope,) = torch.autograd.grad(loss, leaf)
        return -slope

    def state(self) -> dict[str, Any]:
        return {name: adam.state() for name, adam in self._adams.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for unit in self._units:
            self._adams[unit.name].load_state(state[unit.name])
