"""TRPA: preferences between levels that a rule gives, so that the size of a reward cannot be hacked.

Su et al., "Trust Region Preference Approximation", arXiv 2504.04524. An answer is right, wrong but well-formed, or
neither; all pairs of a question from different levels are compared by the mean log-ratio of their tokens to the policy
that reinforcement began with. Reading taken: a group of one level is pushed up if it is the best one and down if not,
``-log sigma(+-log-ratio)``; the released code does so for a whole batch without a pair. Where corrections have a price
(``coordination.safety.penalty``), a row that paid one is not well-formed.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from marl.learning.language.group_norm import groups
from marl.learning.language.preferences import bradley_terry, pairs
from marl.learning.language.token_losses import Tokens
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.learner import language_system
from marl.systems.language.needs import GroupConfig
from marl.systems.language.options import Advantages, Context, LanguageConfig, Memory
from marl.systems.language.rewards import legal
from marl.systems.system import Check

#: The best level: right and well-formed.
BEST = 2.0


class TrpaConfig(GroupConfig):
    """Options of TRPA."""

    beta: Annotated[float, Field(gt=0.0)] = 0.1
    """Of the log-ratio to the reference in a preference."""
    best: Annotated[float, Field(gt=0.0)] = 2.5
    """Multiplies ``beta`` where the winner is of the best level."""
    single: bool = True
    """Learn from groups of one level as well."""


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    # A row that paid for a correction is not well-formed: levels have no room for the size of a price.
    formed = legal(batch) * (batch.of_rows(batch.turn_reward) >= 0)
    level = batch.success + formed
    of = groups(batch.group, batch.agent).of
    mean = torch.zeros(int(of.max()) + 1).index_add_(0, of, level) / torch.bincount(of)
    return Advantages((level - mean[of])[batch.turn_row], torch.ones(len(batch.rows)), {}, row=level)


def loss(tokens: Tokens, config: LanguageConfig, memory: Memory) -> Tensor:
    assert isinstance(config, TrpaConfig) and tokens.reference is not None
    length = tokens.of_rows(torch.ones_like(tokens.log_prob)).clamp(min=1.0)
    apart = tokens.of_rows(tokens.log_prob - tokens.reference) / length
    better, worse = pairs(tokens.group, tokens.value)
    strength = torch.where(tokens.value[better] == BEST, config.best * config.beta, config.beta)
    terms = [bradley_terry(strength * (apart[better] - apart[worse]))]
    if config.single:
        alone = ~torch.isin(tokens.group, tokens.group[better])
        terms.append(bradley_terry(torch.where(tokens.value == BEST, apart, -apart)[alone]))
    each = torch.cat(terms)
    memory["pairs"] = torch.tensor(float(len(better)))
    return each.sum() / max(len(each), 1) * tokens.share.sum() + 0.0 * tokens.log_prob.sum()


TRPA = language_system(
    name="trpa",
    summary="preferences between levels that a rule gives",
    paper="arXiv 2504.04524",
    advantages=advantages,
    config=TrpaConfig,
    loss=loss,
    reference=True,
    claim="no size of a reward is hacked, as levels alone count, at the success of reward-based systems.",
    formula=(
        "loss = -mean over pairs of levels of log sigma(c beta (d_w - d_l)), d = mean over tokens of l - l_ref, c = "
        "2.5 if the winner is right"
    ),
    check=Check(
        command="scripts/reproduce systems trpa",
        figure="sampled success where one wrong answer is paid three times a right one, minus GRPO's",
        bound="above 0 with its 95 % interval",
        verdict="holds",
        why=(
            "+.341 ± .116 sampled and +.557 ± .147 greedy on five seeds: GRPO goes for the bait on every seed (9 % "
            "right)"
        ),
    ),
)
