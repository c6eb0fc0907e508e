"""Losses of tokens: what a recipe makes of log-probabilities, advantages and a reference.

A loss sees all E learned tokens of R rows at once. Its gradient in the log-probabilities is all that a model needs for
its own (``marl.systems.language.gradient``), so a loss may couple tokens and rows as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from marl.learning.language.token_trees import TokenRow
from marl.learning.surrogates import Estimator, kl_estimate, ppo_clip


class Tokens(NamedTuple):
    """E learned tokens, one row's after the other's; float32 ``[E]`` unless said.

    log_prob: under the present weights; what the loss is differentiated by. old: when it was sampled. weight: its
    advantage times its share. share: its part of a mean over tokens, before division by the normaliser. row: int64, the
    row that it belongs to. reference: under the reference policy, None without one.
    group, value: int64 and float32 ``[R]``, of rows: which are compared with each other, and by what.
    """

    log_prob: Tensor
    old: Tensor
    weight: Tensor
    share: Tensor
    row: Tensor
    group: Tensor
    value: Tensor
    reference: Tensor | None = None

    def of_rows(self, x: Tensor) -> Tensor:
        """Sums over the tokens of each row, ``[R]``, of ``[E]``."""
        return torch.zeros(len(self.group), dtype=x.dtype).index_add(0, self.row, x)


#: Tokens -> the loss as a scalar, a sum over tokens that the normaliser divides afterwards.
TokenLoss = Callable[[Tokens], Tensor]


def tokens_of(rows: Sequence[TokenRow]) -> Tokens:
    """The learned tokens of rows, their log-probabilities taken as those when they were sampled."""

    def column(values: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([np.zeros(0), *values])).to(torch.float32)

    places = [row.learned.nonzero()[0] for row in rows]
    old = column([row.old[own] for row, own in zip(rows, places, strict=True)])
    weight = column([row.weight[own] for row, own in zip(rows, places, strict=True)])
    share = [np.zeros(len(own)) if row.share is None else row.share[own] for row, own in zip(rows, places, strict=True)]
    counts = torch.tensor([len(own) for own in places], dtype=torch.int64)
    number = torch.repeat_interleave(torch.arange(len(rows)), counts)
    group = torch.tensor([row.group for row in rows], dtype=torch.int64)
    return Tokens(old, old, weight, column(share), number, group, torch.tensor([row.value for row in rows]))


def clipped_surrogate(tokens: Tokens, low: float, high: float) -> Tensor:
    """The surrogate of PPO, each token's ratio kept within ``1 - low`` and ``1 + high``; a scalar."""
    return ppo_clip(tokens.log_prob - tokens.old, tokens.weight, low, high).sum()


def kl_penalty(tokens: Tokens, weight: float, estimator: Estimator) -> Tensor:
    """``weight`` times the divergence from the reference, the mean over tokens that ``share`` says; a scalar."""
    assert tokens.reference is not None
    return weight * (tokens.share * kl_estimate(tokens.log_prob, tokens.reference, estimator)).sum()


def ratio_variance(tokens: Tokens, price: float) -> tuple[Tensor, Tensor]:
    """A surrogate without a clip, that pays for the second moment of ratios instead; and that moment, a mean.

    ``-rho A + price * (rho - 1)^2`` summed over tokens by their shares, a scalar; its gradient is
    ``-rho (A - 2 price (rho - 1)) grad log pi`` (R2VPO, arXiv 2601.03320).
    """
    ratio = (tokens.log_prob - tokens.old).exp()
    moment = (tokens.share * (ratio - 1.0).square()).sum()
    return -(ratio * tokens.weight).sum() + price * moment, moment / tokens.share.sum().clamp(min=1e-12)
