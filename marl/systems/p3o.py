"""P3O: PPO on pairs of answers to a question, which sees differences of rewards alone.

Wu et al., "Pairwise Proximal Policy Optimization", arXiv 2310.00212. An amount that a reward model adds to all answers
of a question changes nothing. The formula is from memory, no code was found. Reading taken: one ratio for a pair (the
joint form), and the mean over all pairs of a question and an agent. Its expected gradient is half the policy gradient,
so ``rate`` doubles when it is compared with another system.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.learning.language.group_norm import group_norm
from marl.learning.language.preferences import pairs, pairwise_policy_gradient
from marl.learning.language.token_losses import Tokens, kl_penalty
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.learner import language_system
from marl.systems.language.needs import GroupConfig
from marl.systems.language.options import Advantages, Context, LanguageConfig, Memory
from marl.systems.language.rewards import row_reward
from marl.systems.system import Check


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    reward = row_reward(batch, config, context.fraction)
    found = group_norm(reward, batch.group, batch.agent, scale=1.0, leave_one_out=True)
    ones = torch.ones(len(batch.rows))
    return Advantages(found.advantage[batch.turn_row], ones, {"zero_variance_groups": found.zero_variance}, row=reward)


def loss(tokens: Tokens, config: LanguageConfig, memory: Memory) -> Tensor:
    better, worse = pairs(tokens.group, tokens.value)
    ratio = tokens.of_rows(tokens.log_prob - tokens.old)
    gap = tokens.value[better] - tokens.value[worse]
    each = pairwise_policy_gradient(ratio[better] - ratio[worse], gap, config.clip)
    memory["pairs"] = torch.tensor(float(len(better)))
    found = each.sum() / max(len(better), 1) * tokens.share.sum() + 0.0 * tokens.log_prob.sum()
    return found + kl_penalty(tokens, config.kl.weight, config.kl.estimator) if config.kl_in("loss") else found


P3O = language_system(
    name="p3o",
    summary="PPO on pairs of answers: differences of rewards alone",
    paper="arXiv 2310.00212",
    advantages=advantages,
    config=GroupConfig,
    loss=loss,
    claim=(
        "it does not care which of many equivalent rewards it is given, and trades reward for divergence better than "
        "PPO."
    ),
    formula=(
        "loss = -mean over pairs of min(rho (r_1 - r_2), clip(rho, 1 - e, 1 + e) (r_1 - r_2)) / 4, rho = rho_1 / "
        "rho_2 of whole answers"
    ),
    check=Check(
        command="scripts/reproduce systems p3o",
        figure=(
            "sampled success where every question pays an amount of its own, minus REINFORCE's at equal tokens, five "
            "seeds"
        ),
        bound="above 0 with its 95 % interval, and no further than .05 from its own success without these amounts",
        verdict="does not hold here",
        why=(
            "+.035 ± .083 on five seeds, and .059 ± .066 below itself without these amounts; its gradient is exactly "
            "indifferent to them in the unit test, but so little hurts REINFORCE here that nothing is gained. "
            "Divergence against reward was not compared"
        ),
    ),
)
