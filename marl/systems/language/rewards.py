"""What rows and turns earn: the rewards that recipes for language hierarchies hand to advantages."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.learning.rewards import outcome_reward
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.options import LanguageConfig


def final_reward(batch: TokenBatch, config: LanguageConfig, fraction: float) -> Tensor:
    """What each row earns at its end, float ``[R]``: outcome, format and own answer (``RewardConfig``).

    Args:
        batch: the rows.
        config: weights and prices.
        fraction: the part of the run that is done; in its last part calls may be dearer.
    """
    options = config.reward
    team = outcome_reward(batch.success, batch.cost, config.cost_weight(fraction))
    price = config.cost_weight(fraction) if options.own_cost is None else options.own_cost
    thrifty = outcome_reward(batch.correct, batch.own_cost, price)
    own = torch.where(batch.correct.isnan() | (batch.level == 0), team, thrifty)
    return (1.0 - options.own) * team + options.own * own + options.format * legal(batch)


def turn_reward(batch: TokenBatch, config: LanguageConfig) -> Tensor:
    """What each turn earns at once, float ``[U]``.

    That is what the world says, less the prices of an illegal call and of leaving the reference (``KlConfig``).
    """
    return _apart_from_calls(batch, config) - config.reward.invalid * batch.turn_invalid


def _apart_from_calls(batch: TokenBatch, config: LanguageConfig) -> Tensor:
    price = config.kl.weight if config.kl_in("reward") else 0.0
    return batch.turn_reward - price * batch.turn_drift


def row_reward(batch: TokenBatch, config: LanguageConfig, fraction: float) -> Tensor:
    """All that each row earns, float ``[R]``: at its end, and at once in its turns. Arguments as ``final_reward``."""
    return final_reward(batch, config, fraction) + earned_in_turns(batch, config)


def earned_in_turns(batch: TokenBatch, config: LanguageConfig) -> Tensor:
    """The sum of ``turn_reward`` over each row, float ``[R]``; illegal calls are counted, not added up one by one."""
    return batch.of_rows(_apart_from_calls(batch, config)) - config.reward.invalid * batch.invalid


def legal(batch: TokenBatch) -> Tensor:
    """1 for rows whose turns were all legal calls and that answered within their budgets, else 0, float ``[R]``."""
    return ((batch.invalid == 0) & (batch.closed > 0)).to(torch.float32)
