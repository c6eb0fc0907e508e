"""Trajectory alignment of M-GRPO: every rollout gives equally many sub-agent samples, whatever number of calls it made.

Hong et al., arXiv 2511.13288, section 3: a rollout with fewer than D calls has random ones duplicated, one with more
has random ones dropped, so that a question's sub-agent batch always holds K * D samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from marl.seeding import fold_int


class Alignment(NamedTuple):
    """weight: float ``[M]``, how often each sample is used. duplicated, dropped: shares of the aligned batch and of the
    samples; empty: rollouts that made no call and so give nothing."""

    weight: Tensor
    duplicated: float
    dropped: float
    empty: int


def align(rollout: Tensor, rollouts: int, target: int | None, key: int) -> Alignment:
    """How often each sub-agent sample is used.

    Args:
        rollout: int64 ``[M]``, the rollout that each sample comes from.
        rollouts: their number, those without samples included.
        target: D, or None for the mean number of calls of the rollouts that made any, rounded up.
        key: of the random choices.
    """
    count = torch.bincount(rollout, minlength=rollouts)
    called = int((count > 0).sum())
    if called == 0:
        return Alignment(torch.zeros(0), 0.0, 0.0, rollouts)
    size = -(-int(count.sum()) // called) if target is None else target
    draw = torch.Generator().manual_seed(fold_int(key, 1) & ((1 << 63) - 1))
    weight = torch.zeros(len(rollout))
    duplicated = dropped = 0
    for number in range(rollouts):
        own = (rollout == number).nonzero().squeeze(1)
        if len(own) == 0:
            continue
        order = own[torch.randperm(len(own), generator=draw)]
        if len(own) >= size:
            weight[order[:size]] = 1.0
            dropped += len(own) - size
        else:
            weight[own] = 1.0
            more = own[torch.randint(len(own), (size - len(own),), generator=draw)]
            weight.index_add_(0, more, torch.ones(len(more)))
            duplicated += size - len(own)
    return Alignment(weight, duplicated / (called * size), dropped / len(rollout), rollouts - called)
