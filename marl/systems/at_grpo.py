"""AT-GRPO and hierarchical GRPO: what is compared is the same question, role and turn, or the same sub-problem.

AT-GRPO ("Stronger Together", PettingLLMs, arXiv 2510.11062) groups by (question, role, turn) and samples trees: N
candidates at each turn from the same state, the best of which goes on (``marl.rollout.language.trees``). What a
candidate earns is its own penalty and, as the worlds here pay at the end, the team's reward when the present policies
follow it to the end; the published tasks have a reward for every state. It divides by the group's standard deviation,
as the released trainer does (``norm_adv_by_std_in_grpo: True`` in PettingLLMs); ``scale: 1`` takes differences from the
mean alone. Hierarchical GRPO (prime-rl, pull request 3138) compares a sub-agent only with others that were asked the
same, and a planner with other plans for the same question, by differences from the mean alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field

from marl.envs.chat import LanguageEnv, Outcome
from marl.learning.language.group_norm import group_norm
from marl.policies.language.base import LanguagePolicy
from marl.rollout.language.token_batch import TokenBatch
from marl.rollout.language.trees import TreePlayer
from marl.rollout.language.turns import TurnRecord
from marl.systems.language.learner import language_system
from marl.systems.language.options import Advantages, Context, LanguageConfig, Player, rollouts
from marl.systems.language.rewards import final_reward, row_reward, turn_reward
from marl.systems.system import Check


class AtGrpoConfig(LanguageConfig):
    """Options of AT-GRPO and of hierarchical GRPO."""

    compare: Literal["turn", "sub_problem"] = "turn"
    """Turns of the same role and number, or rows of the same role and task."""
    tree: bool = True
    """Try ``group`` candidates at each turn from the same state, not rollouts that agree in the question alone."""


class HierarchicalGrpoConfig(AtGrpoConfig):
    """Options of hierarchical GRPO."""

    compare: Literal["turn", "sub_problem"] = "sub_problem"
    """Turns of the same role and number, or rows of the same role and task."""
    scale: Annotated[float, Field(gt=0.0)] | None = 1.0
    """Divide advantages by this constant; null: by the standard deviation of the group."""
    tree: bool = False
    """Try ``group`` candidates at each turn from the same state."""


def player(make: Callable[[], LanguageEnv], policies: Mapping[str, LanguagePolicy], config: LanguageConfig) -> Player:
    """Trees, or independent rollouts."""
    assert isinstance(config, AtGrpoConfig)
    if not config.tree:
        return rollouts(make, policies, config)
    options = config.reward

    def judge(outcome: Outcome, turn: TurnRecord) -> float:
        worth = max(0.0, 1.0 - options.cost * outcome.cost) * outcome.success
        return worth + turn.reward - options.invalid * turn.invalid

    return TreePlayer(make, policies, judge)


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    assert isinstance(config, AtGrpoConfig)
    row = batch.turn_row
    weight = torch.ones(len(batch.rows))
    if config.compare == "turn":
        # Without trees a row has several turns, each of which answers for its own mistakes.
        earned = final_reward(batch, config, context.fraction)[row] + turn_reward(batch, config)
        found = group_norm(earned, batch.group[row], batch.agent[row], batch.turn_number, scale=config.scale)
        turn = found.advantage
    else:
        reward = row_reward(batch, config, context.fraction)
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
    player=player,
    claim=(
        "comparing candidates for a turn from the same state, grown as a tree, beats groups that share the question "
        "alone."
    ),
    formula="A_c = (r_c - mean r) / (sd r + eps) over the candidates c of one turn; the best goes on",
    check=Check(
        command="scripts/reproduce hierarchy",
        figure="success minus that of independent rollouts, at equal tokens, five seeds",
        bound="above 0 with its 95 % interval",
        verdict="not decidable here",
        why=(
            "42.3 ± 9.8 % greedy with its groups alone, 41.4 ± 9.3 for GRPO; a tree spends its tokens on fol"
            "lowing candidates"
        ),
    ),
)
HIERARCHICAL_GRPO = language_system(
    name="hierarchical_grpo",
    summary="sub-agents compared on the same sub-problem",
    paper="prime-rl pull request 3138",
    advantages=advantages,
    config=HierarchicalGrpoConfig,
    player=player,
    claim="sub-agents are compared only where they were asked the same.",
    formula="A_i = r_i - mean over rows of the same role and task of r",
)
