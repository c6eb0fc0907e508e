"""HGPO: turns compared in nested contexts, from the same observation to the same history.

"Hierarchy-of-Groups Policy Optimization", arXiv 2602.22817. An observation alone may stand for different situations,
which biases GiGPO's groups; turns that also share the observations before are compared with more weight. As in the
published code a turn takes part in contexts of length k only with k observations behind it (``begin``).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from marl.learning.language.turn_advantages import alone, contexts, hgpo
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.gigpo import TurnReturnConfig
from marl.systems.language.learner import language_system
from marl.systems.language.options import Advantages, Context, LanguageConfig
from marl.systems.system import Check


class HgpoConfig(TurnReturnConfig):
    """Options of HGPO."""

    history: Annotated[int, Field(ge=0, le=32)] = 2
    """Observations before the present one in the longest context."""
    alpha: Annotated[float, Field(ge=0.0)] = 1.0
    """Longer contexts weigh more: ``(length + 1)**alpha``."""
    begin: Literal["left_out", "padded"] = "left_out"
    """Contexts that reach before a conversation's begin: left out as published, or with the begin as part of them."""


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    assert isinstance(config, HgpoConfig)
    row = batch.turn_row
    returns = config.returns(batch, context.fraction)
    keys = contexts(batch.turn_anchor, row, batch.turn_number, config.history + 1)
    number = batch.turn_number if config.begin == "left_out" else None
    found = hgpo(returns, batch.group[row], keys, config.alpha, config.scale, number)
    idle = float((found == 0).to(torch.float32).mean())
    figures = {"turns_without_advantage": idle, "turns_alone": alone(batch.group[row], keys[0])}
    return Advantages(found, torch.ones(len(batch.rows)), figures)


HGPO = language_system(
    name="hgpo",
    summary="turns compared in nested contexts of observations",
    paper="arXiv 2602.22817",
    advantages=advantages,
    config=HgpoConfig,
    claim="advantages in nested contexts, longer ones weighing more, beat GRPO and GiGPO.",
    formula=(
        "A_t = sum_k w_k a_k / sum_k w_k over non-zero a_k, a_k = (R_t - mean) / sd among turns with the same last k "
        "observations, w_k = (k + 1)^alpha"
    ),
    check=Check(
        command="scripts/reproduce hierarchy_forms",
        figure="greedy and sampled success minus GRPO's, three seeds, both forms of the contexts",
        bound="above 0 with its 95 % interval",
        verdict="does not hold here",
        why=(
            "22 ± 15 points greedy and 12 ± 5 sampled behind; 55 to 63 % of the turns get no advantage because all "
            "that share a state come to the same return"
        ),
    ),
)
