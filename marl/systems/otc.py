"""OTC: a success is worth less the more calls it took, measured against the thriftiest success of its group.

Wang et al., "OTC: Optimal Tool Calls via Reinforcement Learning", arXiv 2504.14870, in its form for groups. The factor
multiplies the correctness, so a wrong answer never gains by being cheap. As in the paper the group's own standard
deviation divides: where all succeed, thrift is all that is left to learn, and it counts in full.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from marl.learning.language.group_norm import group_norm
from marl.learning.rewards import tool_efficiency
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.learner import language_system
from marl.systems.language.options import Advantages, Context, LanguageConfig
from marl.systems.language.rewards import earned_in_turns
from marl.systems.system import Check


class OtcConfig(LanguageConfig):
    """Options of OTC."""

    smooth: Annotated[float, Field(gt=0.0)] = 1.0
    """Constant c of the factor where the thriftiest success made no call."""


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    assert isinstance(config, OtcConfig)
    # Every episode of a group is measured, also one in which nobody spoke that learns.
    factor = tool_efficiency(batch.episode_calls, batch.episode_success, batch.episode_group, config.smooth)
    reward = batch.success * factor[batch.episode] + earned_in_turns(batch, config)
    found = group_norm(reward, batch.group, batch.level, scale=config.scale)
    figures = {"zero_variance_groups": found.zero_variance, "tool_efficiency": float(factor.mean())}
    return Advantages(found.advantage[batch.turn_row], torch.ones(len(batch.rows)), figures)


OTC = language_system(
    name="otc",
    summary="success weighted by how few calls it took",
    paper="arXiv 2504.14870",
    advantages=advantages,
    config=OtcConfig,
    claim="up to 73 % fewer tool calls at comparable success.",
    formula=(
        "r = success * sin(f pi / 2n), f = 2nm / (m + n), m calls of the rollout, n the fewest of a success in its "
        "group; then GRPO's A"
    ),
    check=Check(
        command="scripts/reproduce hierarchy",
        figure="calls of a question against the same GRPO without a price of calls, five seeds, 350,000 tokens",
        bound="fewer, with equal success, by 95 % intervals",
        verdict="holds",
        why="61 ± 12 % fewer calls, sampled success +2.4 ± 1.1 points",
    ),
)
