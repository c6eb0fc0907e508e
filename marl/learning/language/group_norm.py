"""Advantages relative to a group: one function of keys covers most critic-free systems.

GRPO (Shao et al., arXiv 2402.03300) compares the G answers to a question. What is compared is a matter of keys: Dr.
MAS groups by (question, agent), M-GRPO by (question, level), GiGPO by anchor state, HGPO by nested contexts, GDPO one
reward component at a time.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Groups(NamedTuple):
    """of: int64 ``[M]``, the group of each entry. weight: float ``[K]``, added up. members: int64 ``[K]``."""

    of: Tensor
    weight: Tensor
    members: Tensor


class GroupNorm(NamedTuple):
    """advantage: float ``[M]``. zero_variance: share of the groups of two and more whose values are all equal.

    singletons: share of the groups that have one member.
    """

    advantage: Tensor
    zero_variance: float
    singletons: float


def groups(*keys: Tensor, weight: Tensor | None = None) -> Groups:
    """Entries with equal keys (each int64 ``[M]``) form a group; those of weight 0 belong to it but do not count."""
    table = torch.stack([key.to(torch.int64) for key in keys], dim=1)
    _, index = torch.unique(table, dim=0, return_inverse=True)
    weight = torch.ones(len(table)) if weight is None else weight.to(torch.float32)
    number = int(index.max()) + 1 if len(index) else 0
    count = torch.zeros(number).index_add_(0, index, weight)
    members = torch.zeros(number, dtype=torch.int64).index_add_(0, index, (weight > 0).to(torch.int64))
    return Groups(index, count, members)


def group_norm(
    value: Tensor,
    *keys: Tensor,
    weight: Tensor | None = None,
    scale: float | None = None,
    eps: float = 1e-6,
    leave_one_out: bool = False,
    deviation: Literal["standard", "mean"] = "standard",
) -> GroupNorm:
    """``(value - mean) / (sd + eps)`` within groups; exactly 0 for a group of one.

    Args:
        value: float ``[M]``.
        keys: int64 ``[M]`` each; entries that agree in all of them form a group.
        weight: float ``[M]``, how often each entry counts for mean and sd (0: not at all, and its advantage is 0).
        scale: divide by this constant instead of the group's own standard deviation, which blows a small remaining
            difference (a cost among successes) up to unit size; 1 is Dr. GRPO (Liu et al., arXiv 2503.20783).
        leave_one_out: compare with the mean of the others (RLOO, Ahmadian et al., arXiv 2402.14740).
        deviation: divide by the standard deviation; or by the mean absolute one, so that the absolute advantages of
            every group add up to its number of members, whatever its share of successes (DGPO, MathForge).

    The standard deviation is that of the population, so that the mean square of a group's advantages is 1.
    """
    value = value.to(torch.float32)
    index, count, members = groups(*keys, weight=weight)
    counted = torch.ones_like(value) if weight is None else weight.to(torch.float32)
    total = torch.zeros_like(count).index_add_(0, index, value * counted)
    mean = total / count.clamp(min=1e-12)
    centred = value - mean[index]
    variance = torch.zeros_like(count).index_add_(0, index, centred.square() * counted) / count.clamp(min=1e-12)
    flat = (variance <= eps**2) & (members > 1)
    if leave_one_out:
        others = (count[index] - 1.0).clamp(min=1e-12)
        centred = torch.where(count[index] > 1.0, centred * count[index] / others, 0.0)
    if deviation == "mean":
        absolute = torch.zeros_like(count).index_add_(0, index, centred.abs() * counted)
        spread = absolute / count.clamp(min=1e-12)
    else:
        spread = variance.sqrt()
    divisor = spread[index] + eps if scale is None else torch.full_like(value, scale)
    usable = (members[index] > 1) & (counted > 0) & ~flat[index]
    advantage = torch.where(usable, centred / divisor, 0.0)
    several, present = (members > 1).sum(), (members > 0).sum()
    return GroupNorm(
        advantage,
        float(flat.sum() / several) if several else 0.0,
        float((members == 1).sum() / present) if present else 0.0,
    )
