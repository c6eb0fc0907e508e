"""HGPO: turns compared in nested contexts, from the same observation to the same history.

"Hierarchy-of-Groups Policy Optimization", arXiv 2602.22817. An observation alone may stand for different situations,
which biases GiGPO's groups; turns that also share the observations before are compared with more weight.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from marl.learning.language.turn_advantages import alone, contexts, hgpo, turn_returns
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.learner import language_system
from marl.systems.language.options import Advantages, Context, LanguageConfig, row_reward


class HgpoConfig(LanguageConfig):
    """Options of HGPO."""

    gamma: Annotated[float, Field(ge=0.0, le=1.0)] = 0.95
    """Discount per turn."""
    history: Annotated[int, Field(ge=0, le=32)] = 2
    """Observations before the present one in the longest context."""
    alpha: Annotated[float, Field(ge=0.0)] = 1.0
    """Longer contexts weigh more: ``(length + 1)**alpha``."""


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    assert isinstance(config, HgpoConfig)
    row = batch.turn_row
    reward = row_reward(batch, config, context.fraction)
    returns = turn_returns(batch.turn_reward, reward, row, config.gamma)
    keys = contexts(batch.turn_anchor, row, batch.turn_number, config.history + 1)
    found = hgpo(returns, batch.group[row], keys, config.alpha, config.scale)
    idle = float((found == 0).to(torch.float32).mean())
    figures = {"turns_without_advantage": idle, "turns_alone": alone(batch.group[row], keys[0])}
    return Advantages(found, torch.ones(len(batch.rows)), figures)


HGPO = language_system(
    name="hgpo",
    summary="turns compared in nested contexts of observations",
    paper="arXiv 2602.22817",
    advantages=advantages,
    config=HgpoConfig,
)
