"""AdaCoT: when to take the long way, as a trade of two penalties; here: when to look or delegate.

Lou et al., "AdaCoT: Pareto-Optimal Adaptive Chain-of-Thought Triggering", arXiv 2505.11896. An episode that made fewer
calls than it took has missed, one that made more has overdone it; the two penalties sweep a front of calls against
success. In a second stage that trains content alone, the decision itself gets no gradient (selective loss masking), or
it would drift to always or never. The paper decides by the first token after ``<think>``; here the decision is the
first token of the first turn. The penalties are from memory, unverified.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from marl.learning.language.group_norm import group_norm
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.learner import language_system
from marl.systems.language.needs import GroupConfig
from marl.systems.language.options import Advantages, Context, LanguageConfig
from marl.systems.language.rewards import legal, row_reward
from marl.systems.system import Check

Price = Annotated[float, Field(ge=0.0)]


class AdacotConfig(GroupConfig):
    """Options of AdaCoT."""

    miss: Price = 0.3
    """Subtracted where fewer calls were made than the question takes."""
    over: Price = 0.3
    """Subtracted where more calls were made."""
    malformed: Price = 0.0
    """Subtracted where a turn was no legal call."""
    mask: bool = False
    """Learn nothing about the first token of the first turn: the decision stays as it is."""


def penalty(batch: TokenBatch, config: AdacotConfig) -> Tensor:
    """Of each row, float ``[R]``. Raises ``UserError`` where the world does not measure ``optimal_calls``."""
    needed = batch.note("optimal_calls")
    miss, over = batch.calls < needed, batch.calls > needed
    return config.miss * miss + config.over * over + config.malformed * (1.0 - legal(batch))


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    assert isinstance(config, AdacotConfig)
    reward = row_reward(batch, config, context.fraction) - penalty(batch, config)
    found = group_norm(reward, batch.group, batch.agent, scale=config.scale)
    needed = batch.note("optimal_calls")
    figures = {
        "zero_variance_groups": found.zero_variance,
        "call_rate": float((batch.calls > 0).float().mean()),
        "missed": float((batch.calls < needed).float().mean()),
        "overdone": float((batch.calls > needed).float().mean()),
    }
    turn, ones = found.advantage[batch.turn_row], torch.ones(len(batch.rows))
    if not config.mask:
        return Advantages(turn, ones, figures)
    token = []
    for advantage, length, level in zip(found.advantage, batch.tokens_of_row.long().tolist(), batch.level, strict=True):
        token.append(advantage.repeat(length))
        token[-1][: int(level == 0)] = 0.0
    return Advantages(turn, ones, figures, token)


ADACOT = language_system(
    name="adacot",
    summary="two penalties decide when the long way is taken",
    paper="arXiv 2505.11896",
    advantages=advantages,
    config=AdacotConfig,
    claim=(
        "the penalties sweep a front of calls against success; with the decision masked, a second stage keeps its rate."
    ),
    formula="r = success - a [calls < needed] - b [calls > needed] - c [malformed]; A_0 = 0 for the deciding token",
    check=Check(
        command="scripts/reproduce systems adacot",
        figure="looks over a 2 x 2 grid of penalties, where half the questions take a look",
        bound="rising with the price of a miss, falling with that of too many",
        verdict="not decidable here",
        why=(
            "on five seeds looks go from .29 to .53 with the price of a miss (+.24 ± .25) and to .10 with that of too "
            "many (-.19 ± .35), as claimed, but both intervals hold 0. The second stage, with the decision masked, "
            "was not trained"
        ),
    ),
)
