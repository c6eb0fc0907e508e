"""Rewards of language episodes: outcome broadcast, format, own answer, and the price of calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def outcome_reward(success: Tensor, cost: Tensor, weight: float) -> Tensor:
    """``success * max(0, 1 - weight * cost)``, float ``[*]``: thrift counts among successes only."""
    return success * (1.0 - weight * cost).clamp(min=0.0)


def tool_efficiency(calls: Tensor, success: Tensor, group: Tensor, smooth: float = 1.0) -> Tensor:
    """The factor of OTC for each rollout of a group, float ``[M]`` (Wang et al., arXiv 2504.14870, GRPO form).

    Args:
        calls: tool calls m of each rollout.
        success, group: ``[M]``. With n the fewest calls of the group's correct rollouts: 1 where m = n = 0, ``cos(m
            pi / (2 m + smooth))`` where n = 0, else ``sin(f pi / (2 n))`` with ``f = 2 n m / (m + n)``, which is 1
            exactly at m = n. Groups without a correct rollout get 1.
    """
    factor = torch.ones_like(calls, dtype=torch.float32)
    for g in set(group.tolist()):
        mine = group == g
        right = calls[mine & (success > 0)]
        if len(right) == 0:
            continue
        n, m = float(right.min()), calls[mine].to(torch.float32)
        if n == 0.0:
            factor[mine] = torch.cos(m * math.pi / (2.0 * m + smooth))
        else:
            f = 2.0 * n * m / (m + n)
            factor[mine] = torch.sin(f * math.pi / (2.0 * n))
    return factor


def risk_advantage(score: Tensor, low: float, high: float, lower: float, upper: float, tail: float) -> Tensor:
    """How far below the upper quantile a score is, the lower tail weighing more, float ``[M]`` and never above 0.

    RiskPO, arXiv 2510.00911: ``(tail * C + M) / (tail + 1)``, where ``C = -(q - S)+ / lower`` and
    ``M = ((S - q)+ - (S - Q)+ + q - Q) / (upper - lower)``.

    Args:
        score: float ``[M]``, S.
        low: the score q at the quantile ``lower``.
        high: the score Q at the quantile ``upper``.
        lower: share of scores below q.
        upper: share of scores below Q.
        tail: weight of the lower tail.
    """
    middle = ((score - low).clamp(min=0.0) - (score - high).clamp(min=0.0) + low - high) / (upper - lower)
    below = -(low - score).clamp(min=0.0) / lower
    return (tail * below + middle) / (tail + 1.0)
