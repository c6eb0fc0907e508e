"""GiGPO: groups of trajectories, and within them groups of turns that start from the same state.

Feng et al., "Group-in-Group Policy Optimization", arXiv 2505.10978. A turn's advantage is that of its trajectory plus
that of its return among the turns of the question with the same anchor state (role, task and what was heard last).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from marl.learning.language.group_norm import group_norm
from marl.learning.language.turn_advantages import alone, gigpo, turn_returns
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.learner import language_system
from marl.systems.language.options import Advantages, Context, LanguageConfig, row_reward


class GigpoConfig(LanguageConfig):
    """Options of GiGPO."""

    gamma: Annotated[float, Field(ge=0.0, le=1.0)] = 0.95
    """Discount per turn."""
    turn_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Of the advantage among turns with the same anchor."""
    scale: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Divide advantages by this constant; null: by the standard deviation of the group."""


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    assert isinstance(config, GigpoConfig)
    row = batch.turn_row
    reward = row_reward(batch, config, context.fraction)
    whole = group_norm(reward, batch.group, batch.agent, scale=config.scale)
    returns = turn_returns(batch.turn_reward, reward, row, config.gamma)
    found = gigpo(whole.advantage[row], returns, batch.group[row], batch.turn_anchor, config.turn_weight, config.scale)
    figures = {"zero_variance_groups": whole.zero_variance, "turns_alone": alone(batch.group[row], batch.turn_anchor)}
    return Advantages(found, torch.ones(len(batch.rows)), figures)


GIGPO = language_system(
    name="gigpo",
    summary="trajectories of a question, and turns from the same state, compared",
    paper="arXiv 2505.10978",
    advantages=advantages,
    config=GigpoConfig,
)
