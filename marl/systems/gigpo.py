"""GiGPO: groups of trajectories, and within them groups of turns that start from the same state.

Feng et al., "Group-in-Group Policy Optimization", arXiv 2505.10978. A turn's advantage is that of its trajectory plus
that of its return among the turns of the question with the same anchor state (role, task and what was heard last).
The paper has one agent; ``clock`` says which turns discount where there are several.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from marl.learning.language.group_norm import group_norm
from marl.learning.language.turn_advantages import alone, gigpo, turn_returns
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.learner import language_system
from marl.systems.language.options import Advantages, Context, LanguageConfig
from marl.systems.language.rewards import final_reward, row_reward, turn_reward
from marl.systems.system import Check


class TurnReturnConfig(LanguageConfig):
    """Options of systems that compare the returns of turns."""

    gamma: Annotated[float, Field(ge=0.0, le=1.0)] = 0.95
    """Discount per turn."""
    clock: Literal["row", "team"] = "row"
    """Which turns discount: those of the agent's own conversation; or those of all agents, as in Dr. MAS's copy of
    GiGPO, where what happens after a sub-agent's answer makes that answer's return smaller."""

    def returns(self, batch: TokenBatch, fraction: float) -> Tensor:
        """Discounted returns of the turns, float ``[U]``. fraction: the part of the run that is done."""
        now, at_end = turn_reward(batch, self), final_reward(batch, self, fraction)
        if self.clock == "row":
            return turn_returns(now, at_end, batch.turn_row, self.gamma)
        turns = batch.episode_turns[batch.episode]
        return turn_returns(now, at_end, batch.turn_row, self.gamma, batch.turn_time, turns)


class GigpoConfig(TurnReturnConfig):
    """Options of GiGPO."""

    turn_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Of the advantage among turns with the same anchor."""
    scale: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Divide advantages by this constant; null: by the standard deviation of the group."""


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    assert isinstance(config, GigpoConfig)
    row = batch.turn_row
    reward = row_reward(batch, config, context.fraction)
    whole = group_norm(reward, batch.group, batch.agent, scale=config.scale)
    returns = config.returns(batch, context.fraction)
    found = gigpo(whole.advantage[row], returns, batch.group[row], batch.turn_anchor, config.turn_weight, config.scale)
    figures = {"zero_variance_groups": whole.zero_variance, "turns_alone": alone(batch.group[row], batch.turn_anchor)}
    return Advantages(found, torch.ones(len(batch.rows)), figures)


GIGPO = language_system(
    name="gigpo",
    summary="trajectories of a question, and turns from the same state, compared",
    paper="arXiv 2505.10978",
    advantages=advantages,
    config=GigpoConfig,
    claim="comparing turns that start from the same state, beside whole trajectories, gives more success than GRPO.",
    formula=(
        "A_t = A_E + w A_S; A_E = r_i - mean_g r, A_S = R_t - mean over the turns of g in the same state of R, R_t = "
        "sum gamma^(k - t) r_k"
    ),
    check=Check(
        command="scripts/reproduce hierarchy",
        figure="greedy and sampled success minus GRPO's, five seeds",
        bound="above 0 with its 95 % interval",
        verdict="does not hold here",
        why=(
            "+2.3 ± 5.8 and +0.7 ± 1.7 points; 85 to 94 % of the turns have somebody to be compared with, so it is "
            "not for want of groups"
        ),
    ),
)
