"""The advantages of language systems on plain arrays, for use in any other trainer.

Every function takes lists, numpy arrays or tensors, one entry per sample (or turn), and returns float32 numpy arrays.
Keys (question, agent, ...) may be texts or numbers; entries that agree in all keys of a call are compared. A group of
one has advantage 0. ``scale``: None divides by the group's own standard deviation, a number by that constant (1:
differences from the mean alone). The systems of ``marl.systems`` use the same code underneath.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.learning.language import turn_advantages
from marl.learning.language.alignment import align
from marl.learning.language.group_norm import group_norm
from marl.learning.rewards import tool_efficiency

Numbers = Any
Keys = Any
Array = NDArray[np.float32]


class Aligned(NamedTuple):
    """advantage: float ``[M]``. weight: float ``[M]``, how often each sample counts. duplicated, dropped: shares."""

    advantage: Array
    weight: Array
    duplicated: float
    dropped: float


def grpo(reward: Numbers, question: Keys, scale: float | None = None, eps: float = 1e-6) -> Array:
    """Compared with the other answers to the question (Shao et al., arXiv 2402.03300)."""
    return _array(group_norm(_float(reward), _key(question), scale=scale, eps=eps).advantage)


def rloo(reward: Numbers, question: Keys) -> Array:
    """The difference from the mean of the others (Ahmadian et al., arXiv 2402.14740)."""
    return _array(group_norm(_float(reward), _key(question), scale=1.0, leave_one_out=True).advantage)


def dr_mas(reward: Numbers, question: Keys, agent: Keys, scale: float | None = None, eps: float = 1e-6) -> Array:
    """Each agent over its own active turns: its mean square advantage is 1 in every question (arXiv 2602.08847)."""
    return _array(group_norm(_float(reward), _key(question), _key(agent), scale=scale, eps=eps).advantage)


def m_grpo(
    reward: Numbers,
    question: Keys,
    level: Keys,
    rollout: Keys,
    first: Any,
    target: int | None = None,
    scale: float | None = None,
    key: int = 0,
) -> Aligned:
    """Levels apart, rollouts aligned to equally many samples below the first level (arXiv 2511.13288).

    Args:
        rollout: which one a sample comes from.
        first: the key of the level that is not aligned.
        target: samples D per rollout, None for the mean of the rollouts that have any.
        key: of what is duplicated and dropped.
    """
    levels, source = _key(level), _key(rollout)
    weight = torch.ones(len(source))
    duplicated = dropped = 0.0
    below = torch.from_numpy(np.asarray(level) != first)
    for number in sorted(set(levels[below].tolist())):
        mine = (levels == number).nonzero().squeeze(1)
        found = align(source[mine], int(source.max()) + 1, target, key + number)
        weight[mine] = found.weight
        duplicated, dropped = max(duplicated, found.duplicated), max(dropped, found.dropped)
    advantage = group_norm(_float(reward), _key(question), levels, weight=weight, scale=scale).advantage
    return Aligned(_array(advantage), _array(weight), duplicated, dropped)


def at_grpo(reward: Numbers, question: Keys, role: Keys, turn: Keys, scale: float | None = None) -> Array:
    """Candidates for one turn of one role, best tried from the same state (arXiv 2510.11062)."""
    return _array(group_norm(_float(reward), _key(question), _key(role), _key(turn), scale=scale).advantage)


def hierarchical_grpo(
    reward: Numbers, question: Keys, role: Keys, sub_problem: Keys, scale: float | None = 1.0
) -> Array:
    """A sub-agent compared with those that were asked the same, a planner with plans for the same question."""
    return _array(group_norm(_float(reward), _key(question), _key(role), _key(sub_problem), scale=scale).advantage)


def gigpo(
    reward: Numbers,
    final: Numbers,
    row: Sequence[int],
    question: Keys,
    anchor: Keys,
    gamma: float = 0.95,
    weight: float = 1.0,
    scale: float | None = 1.0,
) -> Array:
    """Per turn: the trajectory's advantage and that among turns in the same state (arXiv 2505.10978).

    Args:
        reward: of each turn.
        final: of each row, added to its last turn.
        row: int, which one a turn belongs to, in order.
        question: of each row.
        anchor: of each turn.
    """
    place, questions = torch.as_tensor(np.asarray(row)), _key(question)
    whole = group_norm(_float(final), questions, scale=scale).advantage
    returns = turn_advantages.turn_returns(_float(reward), _float(final), place, gamma)
    found = turn_advantages.gigpo(whole[place], returns, questions[place], _key(anchor), weight, scale)
    return _array(found)


def hgpo(
    reward: Numbers,
    final: Numbers,
    row: Sequence[int],
    number: Sequence[int],
    question: Keys,
    anchor: Keys,
    depth: int = 3,
    gamma: float = 0.95,
    alpha: float = 1.0,
    scale: float | None = None,
    padded: bool = False,
) -> Array:
    """Per turn: advantages among turns that share their last 1 to ``depth`` observations (arXiv 2602.22817).

    Args:
        number: of each turn in its row, from 0.
        padded: contexts that reach before a row's begin have the begin as a part of them; the published code leaves
            them out. The rest as in ``gigpo``.
    """
    place = torch.as_tensor(np.asarray(row))
    numbers = torch.as_tensor(np.asarray(number))
    keys = turn_advantages.contexts(_key(anchor), place, numbers, depth)
    returns = turn_advantages.turn_returns(_float(reward), _float(final), place, gamma)
    full = None if padded else numbers
    return _array(turn_advantages.hgpo(returns, _key(question)[place], keys, alpha, scale, full))


def gdpo(rewards: Numbers, weights: Sequence[float], question: Keys, eps: float = 1e-4) -> Array:
    """Several rewards ``[K, M]``, each normalised for itself, then their weighted sum (arXiv 2601.05242)."""
    return _array(turn_advantages.gdpo(_float(rewards), weights, _key(question), eps=eps))


def otc(calls: Numbers, success: Numbers, question: Keys, smooth: float = 1.0) -> Array:
    """The factor of a success that took so many calls, 1 for the thriftiest of its question (arXiv 2504.14870)."""
    return _array(tool_efficiency(_float(calls), _float(success), _key(question), smooth))


def _float(values: Numbers) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float32))


def _key(values: Keys) -> Tensor:
    """Numbers from 0 for whatever distinguishes the groups."""
    return torch.from_numpy(np.unique(np.asarray(values), return_inverse=True)[1].astype(np.int64))


def _array(values: Tensor) -> Array:
    return values.detach().numpy().astype(np.float32)
