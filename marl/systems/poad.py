"""POAD: a critic of tokens whose backup does not depend on how an action is spelt; and its counterpart of turns.

Wen et al., "Reinforcing Language Agents via Policy Optimization with Action Decomposition", arXiv 2405.15821. Within a
turn nothing is discounted, at its end the value before the next turn's first token takes over. ``mappo_text`` is the
same with one value per turn and a central critic: MAPPO whose actions are texts. In a hierarchy the state is what is
said in the open conversations, so its critic reads those above an agent's own as well
(``critic_input: observation`` is IPPO on texts).
"""

from __future__ import annotations

from typing import Literal

import torch

from marl.policies.joint_critic import CriticInput
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.critic import CriticConfig
from marl.systems.language.learner import language_system
from marl.systems.language.options import Advantages, Context, LanguageConfig
from marl.systems.language.rewards import final_reward, turn_reward
from marl.systems.system import Check


class TurnCriticConfig(CriticConfig):
    """Options of MAPPO on texts: POAD's with one value per turn, read off all open conversations."""

    credit: Literal["token", "turn"] = "turn"
    """What has a value: each token, or each turn as a whole."""
    critic_input: CriticInput = "state"
    """What the critic reads: all conversations that are open above the agent's own as well, or its own alone."""


def advantages(batch: TokenBatch, config: LanguageConfig, context: Context) -> Advantages:
    assert context.critic is not None
    at_end = final_reward(batch, config, context.fraction)
    found, figures = context.critic.advantages(batch, turn_reward(batch, config), at_end)
    return Advantages(torch.zeros(len(batch.turn_row)), torch.ones(len(batch.rows)), figures, found)


POAD = language_system(
    name="poad",
    summary="a critic of tokens, backed up within and between turns",
    paper="arXiv 2405.15821",
    advantages=advantages,
    config=CriticConfig,
    claim="a critic of tokens, backed up without discounting within an action, learns faster than a critic of actions.",
    formula=(
        "token j of a turn: delta = V_{j+1} - V_j, at its last token delta = r + gamma V' - V; A = sum (gamma "
        "lambda)^n delta, gamma counting turns only"
    ),
    check=Check(
        command="scripts/reproduce hierarchy",
        figure="success minus that of a critic of turns, five seeds",
        bound="above 0 with its 95 % interval",
        verdict="does not hold here",
        why="-1.3 ± 6.5 and 0 ± 3.6 points; turns here have a few tokens, so credit within a turn has little to do",
    ),
)
MAPPO_TEXT = language_system(
    name="mappo_text",
    summary="PPO with a central critic of turns, for texts",
    paper="arXiv 2103.01955",
    advantages=advantages,
    config=TurnCriticConfig,
    claim="MAPPO, whose actions are texts: a critic of all that was said beats a local one.",
    formula="A by generalised advantage estimation over turns, V of all open conversations",
    check=Check(
        command="scripts/reproduce hierarchy_forms",
        figure="success minus that of the same with a local critic, three seeds",
        bound="above 0 with its 95 % interval",
        verdict="does not hold here",
        why="-2.2 ± 5.2 and +1 ± 11 points",
    ),
)
