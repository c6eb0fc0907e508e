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
from marl.systems.language.options import Advantages, Context, LanguageConfig
from marl.systems.language.rewards import row_reward
from marl.systems.system import Check


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
    claim=(
        "an agent normalised over its own turns has no gradient spikes and learns more than with one normalisation "
        "for all."
    ),
    formula="A_t = (r - mean_{g,agent} r) / (sd_{g,agent} r + eps), over the turns of an agent",
    check=Check(
        command="scripts/reproduce hierarchy",
        figure=(
            "updates with a gradient norm above three times the median, and success against one normalisation, five "
            "seeds"
        ),
        bound="fewer spikes, more success, with 95 % intervals",
        verdict="does not hold here",
        why=(
            "spikes: 1.2 ± 1.6 of 26 updates against 0.2 ± 0.6; success +0.9 ± 2.5 points; with a rarely called "
            "sub-agent (`full`) 2.3 ± 5.7 against 2.7 ± 6.2 spikes"
        ),
    ),
)
