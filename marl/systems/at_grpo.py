"""AT-GRPO and hierarchical GRPO: what is compared is the same question, role and turn, or the same sub-problem.

AT-GRPO ("Stronger Together", PettingLLMs, arXiv 2510.11062) groups by (question, role, turn). Its tree sampling, where
all candidates of a turn start from one state, is not done here: rollouts are independent, so a group's members agree in
what is asked and not in what happened before. Hierarchical GRPO (prime-rl, pull request 3138) compares a sub-agent only
with others that were asked the same, and a planner with other plans for the same question. Both use differences from
the mean without dividing by the standard deviation.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from marl.learning.group_norm import group_norm
from marl.rollout.token_batch import TokenBatch
from marl.systems.language import Advantages, Context, LanguageConfig, row_reward
from marl.systems.language_learner import language_system


class AtGrpoConfig(LanguageConfig):
    """Options of AT-GRPO and of hierarchical GRPO."""

    compare: Literal["turn", "sub_problem"] = "turn"
    """Turns of the same role and number, or rows of the same role and task."""
    scale: Annotated[float, Field(gt=0.0)] | None = 1.0


class HierarchicalGrpoConfig(AtGrpoConfig):
    """Options of hierarchical GRPO."""

    compare: Literal["turn", "sub_problem"] = "sub_problem"


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    assert isinstance(config, AtGrpoConfig)
    row = batch.turn_row
    reward = row_reward(batch, config, context.fraction)
    weight = torch.ones(len(batch.rows))
    if config.compare == "turn":
        earned = reward[row] + batch.turn_reward
        found = group_norm(earned, batch.group[row], batch.agent[row], batch.turn_number, scale=config.scale)
        turn = found.advantage
    else:
        found = group_norm(reward, batch.group, batch.agent, batch.task, scale=config.scale)
        turn = found.advantage[row]
    figures = {"zero_variance_groups": found.zero_variance, "singleton_groups": found.singletons}
    return Advantages(turn, weight, figures)


AT_GRPO = language_system(
    name="at_grpo",
    summary="turns of the same question, role and number compared",
    paper="arXiv 2510.11062",
    advantages=advantages,
    config=AtGrpoConfig,
)
HIERARCHICAL_GRPO = language_system(
    name="hierarchical_grpo",
    summary="sub-agents compared on the same sub-problem",
    paper="prime-rl pull request 3138",
    advantages=advantages,
    config=HierarchicalGrpoConfig,
)
