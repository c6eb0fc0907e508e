"""Surrogate objectives: per-element losses of the log-ratio ``log pi(a) - log pi_old(a)``, and their diagnostics.

All are ``[*] -> [*]``; ``regularizers.masked_mean`` makes a scalar of them.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def ppo_clip(log_ratio: Tensor, advantage: Tensor, clip: float, high: float | None = None) -> Tensor:
    """The clipped surrogate as a loss (Schulman et al., arXiv 1707.06347, eq. 7): ``-min(r A, clip(r, 1 +- clip) A)``.

    Its gradient is that of ``-r A``, and 0 where the ratio r has left the interval in the direction A asks for.

    Args:
        log_ratio: float ``[*]``, ``log pi(a) - log pi_old(a)``.
        advantage: float ``[*]``.
        clip: the ratio may fall to ``1 - clip``.
        high: it may rise to ``1 + high`` (DAPO's "clip higher", arXiv 2503.14476); None: to ``1 + clip``.
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + (clip if high is None else high))
    return -torch.minimum(ratio * advantage, clipped * advantage)


Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(log_prob: Tensor, reference: Tensor, estimator: Estimator = "k3") -> Tensor:
    """Estimates KL(pi || reference) from actions of pi, float ``[*]`` (Schulman, "Approximating KL divergence", 2020).

    With ``d = log pi - log reference``: k1 is d (unbiased, of either sign), k2 is ``d**2 / 2`` (biased, never
    negative), k3 is ``exp(-d) - 1 + d`` (unbiased and never negative; GRPO, arXiv 2402.03300, eq. 4). As a loss k1 is
    of no use: its gradient is that of ``log pi``, whose mean over actions of pi is 0 whatever the reference is; the
    gradient of k2 has the mean of the true KL's.

    Args:
        log_prob: float ``[*]``, of the actions under pi.
        reference: float ``[*]``, of the same actions under the reference.
        estimator: which one.
    """
    difference = log_prob - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference.square()
    return torch.expm1(-difference) + difference


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Estimates KL(pi_old || pi) from actions of pi_old: unbiased and never negative.

    ``r - 1 - log r``, the estimator k3 of Schulman, "Approximating KL divergence" (2020).
    """
    return torch.expm1(log_ratio) - log_ratio


def clip_fraction(log_ratio: Tensor, clip: float) -> Tensor:
    """1 where the ratio is outside ``1 +- clip``, else 0; float."""
    return (torch.expm1(log_ratio).abs() > clip).to(log_ratio.dtype)
