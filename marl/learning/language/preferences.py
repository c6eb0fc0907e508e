"""Losses of pairs: two rows that answer the same, one of which is better.

All are pure functions of numbers of rows ``[R]`` and of pairs of their indices ``[P]``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class Pairs(NamedTuple):
    """winner, loser: int64 ``[P]``, places of rows. The value of the winner is the greater one."""

    winner: Tensor
    loser: Tensor


def pairs(group: Tensor, value: Tensor) -> Pairs:
    """All pairs of a group's rows with unequal values.

    Args:
        group: int64 ``[R]``.
        value: float ``[R]``, higher is better.
    """
    together = group.unsqueeze(1) == group.unsqueeze(0)
    better = value.unsqueeze(1) > value.unsqueeze(0)
    winner, loser = (together & better).nonzero().unbind(1)
    return Pairs(winner, loser)


def bradley_terry(margin: Tensor) -> Tensor:
    """Minus the log-probability that the winner is preferred, ``[P]``; margin: its score less the loser's."""
    return -logsigmoid(margin)


def pairwise_policy_gradient(log_ratio: Tensor, gap: Tensor, clip: float) -> Tensor:
    """The loss of P3O for pairs, ``[P]`` (Wu et al., "Pairwise Proximal Policy Optimization", arXiv 2310.00212).

    ``-min(rho gap, clip(rho) gap) / 4``, rho the winner's ratio over the loser's: at ratio 1 its gradient is
    ``-(r_1 - r_2) / 2 * grad (log pi_1 - log pi_2) / 2``, which an amount added to both rewards does not change.

    Args:
        log_ratio: float ``[P]``, log of new over old probability, the winner's less the loser's.
        gap: float ``[P]``, the winner's reward less the loser's.
        clip: how far rho counts beyond 1.
    """
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * gap, ratio.clamp(1.0 - clip, 1.0 + clip) * gap) / 4.0
