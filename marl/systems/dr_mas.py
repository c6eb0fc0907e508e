"""Dr. MAS: every agent is normalised over its own active turns.

"Dr. MAS", arXiv 2602.08847: with one normalisation for all, an agent's mean square advantage is
``(sd_k**2 + (mean_k - mean)**2) / sd**2``, so agents that are called in only some rollouts get inflated gradients; with
a normalisation of its own it is exactly 1. Every turn counts, as in the published code. A group of one has advantage 0
(the published code: its raw reward).
"""

from __future__ import annotations

import torch

from marl.learning.language.group_norm import group_norm
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.learner import language_system
from marl.systems.language.options import Advantages, Context, LanguageConfig, row_reward


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    row = batch.turn_row
    reward = row_reward(batch, config, context.fraction)[row]
    found = group_norm(reward, batch.group[row], batch.agent[row], scale=config.scale)
    figures = {"zero_variance_groups": found.zero_variance, "singleton_groups": found.singletons}
    return Advantages(found.advantage, torch.ones(len(batch.rows)), figures)


DR_MAS = language_system(
    name="dr_mas",
    summary="every agent normalised over its own active turns",
    paper="arXiv 2602.08847",
    advantages=advantages,
)
