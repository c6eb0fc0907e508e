"""Flow-GRPO: only the planner learns, while it is in the flow of a working system.

Li et al., "In-the-Flow Agentic System Optimization", arXiv 2510.05592 (AgentFlow). The other modules stay as they are;
every turn of the planner is a sample whose prompt is the memory so far, the outcome is broadcast to all of them, and a
trajectory counts the same whatever its number of turns (``loss: turn``). The released trainer differs from the paper:
every turn is a member of the group, so that long trajectories weigh more in mean and deviation, and its loss is the
mean over tokens: ``compare: turn`` with ``loss: token``. Graph ``agent_flow`` has its four modules.
"""

from __future__ import annotations

from typing import Literal

import torch

from marl.learning.language.group_norm import group_norm
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.learner import language_system
from marl.systems.language.options import Advantages, Context, LanguageConfig
from marl.systems.language.rewards import row_reward
from marl.systems.system import Check


class FlowGrpoConfig(LanguageConfig):
    """Options of Flow-GRPO."""

    loss: Literal["token", "turn"] = "turn"
    """Mean over all tokens; or over rows, of the mean over turns, of the mean over tokens."""
    compare: Literal["trajectory", "turn"] = "trajectory"
    """Members of a group: trajectories as in the paper, or all their turns as in the released trainer."""


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    assert isinstance(config, FlowGrpoConfig)
    # A trajectory that has n turns stands n times among the turns, each time with the same reward.
    count = batch.turns_of_row if config.compare == "turn" else None
    reward = row_reward(batch, config, context.fraction)
    found = group_norm(reward, batch.group, weight=count, scale=config.scale)
    figures = {"zero_variance_groups": found.zero_variance}
    return Advantages(found.advantage[batch.turn_row], torch.ones(len(batch.rows)), figures)


FLOW_GRPO = language_system(
    name="flow_grpo",
    summary="the planner alone learns in the flow, outcomes broadcast to its turns",
    paper="arXiv 2510.05592",
    advantages=advantages,
    config=FlowGrpoConfig,
    entry_only=True,
    claim="training the planner alone, in the flow of the working system, is enough.",
    formula=(
        "A_i = (R_i - mean_g R) / (sd_g R + eps), the same for all turns of trajectory i; every trajectory weighs 1"
    ),
    check=Check(
        command="scripts/reproduce hierarchy",
        figure="greedy success, five seeds at 150,000 tokens, against co-training and against frozen sub-agents",
        bound="no worse than co-training",
        verdict="does not hold here",
        why=(
            "19 ± 15 points greedy is what training all gains; the planner alone stays where frozen sub-agen"
            "ts are (-7 ± 12 and -2 ± 2 points)"
        ),
    ),
)
