"""Surrogate objectives: per-element losses of the log-ratio ``log pi(a) - log pi_old(a)``, and their diagnostics.

All are ``[*] -> [*]``; ``regularizers.masked_mean`` makes a scalar of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ppo_clip(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped surrogate as a loss (Schulman et al., arXiv 1707.06347, eq. 7): ``-min(r A, clip(r, 1 +- clip) A)``.

    Its gradient is that of ``-r A``, and 0 where the ratio r has left the interval in the direction A asks for.
    """
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Estimates KL(pi_old || pi) from actions of pi_old: unbiased and never negative.

    ``r - 1 - log r``, the estimator k3 of Schulman, "Approximating KL divergence" (2020).
    """
    return torch.expm1(log_ratio) - log_ratio


def clip_fraction(log_ratio: Tensor, clip: float) -> Tensor:
    """1 where the ratio is outside ``1 +- clip``, else 0; float."""
    return (torch.expm1(log_ratio).abs() > clip).to(log_ratio.dtype)
