"""Advantages: pure functions of time-major tensors ``[T, *]``, where ``*`` is any shape (copies, agents, slots)."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.learning.regularizers import masked_mean


@torch.no_grad()
def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, cut: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimation (Schulman et al., arXiv 1506.02438, eq. 16), float ``[T, *]``.

    The return that the critic learns is ``gae(...) + value``.

    Args:
        reward: float ``[T, *]``, earned by step t.
        value: float ``[T, *]``, V of the state that step t started from.
        next_value: float ``[T, *]``, V of the state that step t led to: the final one where an episode was
            truncated, never that of the episode which follows.
        terminated: bool ``[T, *]``, the task ended in step t: nothing comes after it, whatever ``next_value`` says.
        cut: bool ``[T, *]``, step t + 1 does not continue step t: terminated, truncated, or the slot changed its
            agent. Step T - 1 has no successor and needs no flag.
        gamma: discount per step.
        lam: decay of the trace, 0 for one-step differences, 1 for Monte-Carlo returns.
    """
    advantage = reward + gamma * next_value.masked_fill(terminated, 0.0) - value
    decay = (gamma * lam) * (~cut).to(advantage.dtype)
    for t in range(advantage.shape[0] - 2, -1, -1):
        advantage[t].addcmul_(decay[t], advantage[t + 1])
    return advantage


@torch.no_grad()
def normalize(advantage: Tensor, mask: Tensor, eps: float = 1e-5) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 where ``mask`` (bool, same shape), and 0 elsewhere.

    Args:
        eps: added to the deviation, so that the rounding errors of equal advantages are not blown up to order one.
    """
    centred = advantage - masked_mean(advantage, mask)
    deviation = masked_mean(centred.square(), mask).sqrt()
    return torch.where(mask, centred / (deviation + eps), 0.0)
