"""How probable a model finds the tokens that it learns from, and whether that is what they were sampled with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.learning.language.token_trees import TokenRow, TokenTrees, pack
from marl.policies.language.base import TokenModel
from marl.systems.language.options import LanguageConfig
from marl.systems.language.speakers import Unit


def log_probs(
    model: TokenModel, role: str, rows: Sequence[TokenRow], temperature: float, tree_tokens: int, pass_tokens: int
) -> Iterator[tuple[TokenTrees, Tensor]]:
    """Log-probabilities of the learned tokens of rows, float ``[M]`` with the trees that hold them, with gradients.

    Args:
        model: scores them.
        role: whose weights are meant.
        rows: sequences of tokens.
        temperature: that they were sampled at.
        tree_tokens: of one tree at most; a model that cannot take trees gets one sequence a row.
        pass_tokens: scored at once at most.
    """
    for trees in pack(rows, tree_tokens if model.packs else 0, pass_tokens):
        logits = model.logits_at(role, trees.token, trees.position, trees.mask, trees.at)
        log_prob = torch.log_softmax(logits / temperature, dim=-1)
        yield trees, log_prob.gather(1, trees.target.unsqueeze(1)).squeeze(1)


def log_probs_of(unit: Unit, rows: Sequence[TokenRow], config: LanguageConfig) -> Iterator[tuple[TokenTrees, Tensor]]:
    """``log_probs`` under a unit's present weights, as its options sample and pack."""
    return log_probs(unit.model, unit.key, rows, config.temperature, config.tree_tokens, config.pass_tokens)


@torch.no_grad()
def score(unit: Unit, rows: Sequence[TokenRow], config: LanguageConfig) -> Tensor:
    """Log-probabilities of all learned tokens, one row's after the other's, float ``[E]``, without gradients.

    Args:
        unit: whose present weights score.
        rows: sequences of tokens.
        config: temperature, and how much is computed at once.
    """
    found = torch.zeros(sum(int(row.learned.sum()) for row in rows))
    for trees, log_prob in log_probs_of(unit, rows, config):
        found[trees.entry] = log_prob[trees.learned]
    return found


@dataclass
class LogRatio:
    """Absolute log-ratios of training to sampling: their sum, their number and the largest."""

    total: float = 0.0
    count: int = 0
    largest: float = 0.0

    def add(self, log_prob: Tensor, old: Tensor) -> None:
        """Count tokens in. log_prob, old: float ``[M]``; NaN in ``old`` stands for tokens that nobody sampled."""
        apart = (log_prob.detach() - old).abs()[~old.isnan()]
        if len(apart):
            self.total += float(apart.sum())
            self.count += len(apart)
            # A maximum would hide what is no number.
            self.largest = max(self.largest, float(apart.max())) if bool(apart.isfinite().all()) else float("inf")

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def figures(self, name: str) -> dict[str, float]:
        """``log_ratio_mean_NAME`` and ``log_ratio_max_NAME``; nothing if no token was sampled."""
        if not self.count:
            return {}
        return {f"log_ratio_mean_{name}": self.mean, f"log_ratio_max_{name}": self.largest}
