"""Credit for single turns: returns of turns, anchor-state groups, nested contexts, several rewards.

Turns are entries ``[U]`` in the order of their rows; ``row`` (int64 ``[U]``, non-decreasing) says which one each
belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from marl.learning.language.group_norm import group_norm, groups
from marl.seeding import fold


def turn_returns(
    reward: Tensor, final: Tensor, row: Tensor, gamma: float, time: Tensor | None = None, end: Tensor | None = None
) -> Tensor:
    """Discounted returns ``sum gamma**(k - t) r_k`` over the later turns of a row, float ``[U]``.

    Args:
        reward: float ``[U]``, earned at once.
        final: float ``[R]``, added to the row's last turn.
        row: int64 ``[U]``, non-decreasing, the row of each turn.
        gamma: discount per turn: of the row, or with ``time`` of all agents.
        time: int64 ``[U]``, number of each turn among those of all agents of its episode: turns that others made in
            between discount as well.
        end: int64 ``[R]``, with ``time``: turns of the row's whole episode, at whose end ``final`` is earned.
    """
    result = reward.clone().to(torch.float32)
    later = 0.0
    last_row = -1
    for turn in range(len(row) - 1, -1, -1):
        here = int(row[turn])
        if time is None or end is None:
            later = float(final[here]) if here != last_row else gamma * later
        elif here != last_row:
            later = float(final[here]) * gamma ** int(end[here] - 1 - time[turn])
        else:
            later *= gamma ** int(time[turn + 1] - time[turn])
        later += float(reward[turn])
        result[turn], last_row = later, here
    return result


def gigpo(
    episode_advantage: Tensor,
    returns: Tensor,
    group: Tensor,
    anchor: Tensor,
    weight: float = 1.0,
    scale: float | None = 1.0,
) -> Tensor:
    """``A_E + w A_S``: whole trajectories, and turns in the same state, float ``[U]`` (GiGPO, arXiv 2505.10978, eq. 8).

    Args:
        episode_advantage: float ``[U]``, of the turn's trajectory.
        returns: float ``[U]`` from the turn on.
        group, anchor: int64 ``[U]``; turns of a group with equal anchors are compared, one that has its anchor for
            itself gets A_S = 0.
        scale: 1 for differences from the mean (the published default), None for the standard deviation.
    """
    return episode_advantage + weight * group_norm(returns, group, anchor, scale=scale).advantage


def contexts(anchor: Tensor, row: Tensor, number: Tensor, depth: int) -> list[Tensor]:
    """Keys of the last 1, 2, ..., ``depth`` observations of each turn, int64 ``[U]`` each.

    A context that would reach before the row's begin includes the begin.

    Args:
        anchor: int64 ``[U]``, the observation of each turn.
        row: int64 ``[U]``, the row of each turn.
        number: int64 ``[U]``, of the turn in its row.
        depth: observations of the longest context.
    """
    keys = [anchor]
    index = torch.arange(len(anchor))
    for back in range(1, depth):
        earlier = (index - back).clamp(min=0)
        there = torch.where(number >= back, anchor[earlier], -1)
        keys.append(fold(keys[-1], there))
    return keys


def alone(group: Tensor, key: Tensor) -> float:
    """Share of turns that nothing is compared with, as no other of their group has their key; int64 ``[U]`` each."""
    found = groups(group, key)
    return float((found.members[found.of] == 1).to(torch.float32).mean())


def hgpo(
    returns: Tensor,
    group: Tensor,
    keys: Sequence[Tensor],
    alpha: float = 1.0,
    scale: float | None = None,
    number: Tensor | None = None,
) -> Tensor:
    """Advantages in nested contexts, float ``[U]`` (HGPO, arXiv 2602.22817).

    The advantage of a turn is the weighted mean of its non-zero advantages among the turns that share its last k
    observations, with weight ``(k + 1)**alpha``.

    Args:
        returns: float ``[U]``, from each turn on.
        group: int64 ``[U]``, turns of different groups are never compared.
        keys: contexts of rising length, as ``contexts`` gives them.
        alpha: longer contexts weigh more.
        scale: None for the standard deviation of the context's turns.
        number: int64 ``[U]``, of the turn in its row: only turns with k observations behind them, the present one
            included, take part in contexts of length k, as in the published code. None: all do, and the row's begin is
            part of a context that reaches before it.
    """
    total = torch.zeros_like(returns)
    weights = torch.zeros_like(returns)
    for k, key in enumerate(keys, start=1):
        full = None if number is None else (number >= k - 1).to(torch.float32)
        found = group_norm(returns, group, key, weight=full, scale=scale).advantage
        weight = (k + 1.0) ** alpha * (found != 0)
        total += weight * found
        weights += weight
    return total / weights.clamp(min=1e-12)


def gdpo(rewards: Tensor, weights: Sequence[float], *keys: Tensor, eps: float = 1e-4) -> Tensor:
    """Every reward normalised for itself, then their weighted sum over the batch, float ``[M]``.

    GDPO, arXiv 2601.05242. rewards: float ``[K, M]``. keys: int64 ``[M]``, the groups.
    """
    total = torch.zeros(rewards.shape[1])
    for reward, weight in zip(rewards, weights, strict=True):
        total = total + weight * group_norm(reward, *keys, eps=eps).advantage
    deviation = total.std(unbiased=False)
    return (total - total.mean()) / (deviation + eps) if deviation > 0 else torch.zeros_like(total)


def token_gae(value: Tensor, reward: Tensor, ends: Tensor, gamma: float, lam: float) -> Tensor:
    """Advantages of tokens by Bellman backup with action decomposition, float ``[L]`` (POAD, arXiv 2405.15821, eq. 10).

    Between the tokens of a turn nothing is discounted and nothing is earned; ``gamma`` and ``reward`` belong to the
    last token of a turn, which bootstraps from the value before the first token of the next one.

    Args:
        value: float ``[L]``, of the state before each own token of one row.
        reward: float ``[L]``, at the last tokens of turns.
        ends: bool ``[L]``, which tokens these are.
    """
    advantage = torch.zeros_like(value)
    later, trace = 0.0, 0.0
    for token in range(len(value) - 1, -1, -1):
        if ends[token]:
            delta = float(reward[token]) + gamma * later - float(value[token])
            trace = delta + gamma * lam * trace
        else:
            trace = later - float(value[token]) + lam * trace
        advantage[token], later = trace, float(value[token])
    return advantage
