"""GRPO for a hierarchy: one group, and one normalisation, for all rows of a question.

Shao et al., "DeepSeekMath", arXiv 2402.03300, eq. 3. With one role it is single-agent GRPO; with several it is the
baseline that M-GRPO and Dr. MAS improve on: rows of all roles are compared with each other.
"""

from __future__ import annotations

import torch

from marl.learning.language.group_norm import group_norm
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.learner import language_system
from marl.systems.language.options import Advantages, Context, LanguageConfig
from marl.systems.language.rewards import row_reward


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    reward = row_reward(batch, config, context.fraction)
    found = group_norm(reward, batch.group, scale=config.scale)
    figures = {"zero_variance_groups": found.zero_variance}
    return Advantages(found.advantage[batch.turn_row], torch.ones(len(batch.rows)), figures)


GRPO = language_system(
    name="grpo",
    summary="rows of all roles of a question compared with each other",
    paper="arXiv 2402.03300",
    advantages=advantages,
    claim="needs no critic: answers to a question are compared with each other.",
    formula=(
        "A_i = (r_i - mean_g r) / (sd_g r + eps) over all rows of a question; loss = -mean_tokens min(rho A, "
        "clip(rho, 1 - e, 1 + e) A)"
    ),
)
