"""Numbers that are none in language episodes, named by place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from marl.errors import NotFiniteError
from marl.rollout.finite import MEND_LEARNING, MEND_WORLD
from marl.rollout.language.turns import Conversation, Episode


def check_episodes(episodes: Sequence[Episode]) -> None:
    """Raise ``NotFiniteError`` for the first number of finished episodes that is none.

    Looked at are what rewards are made of (success, cost, the reward of each turn) and the log-probabilities of what
    was said; other metrics may be NaN where they are not defined.
    """
    for copy, episode in enumerate(episodes):
        if episode.outcome is None:
            continue
        place = f"episode {copy} (task {episode.seed})"
        for name, value in (("success", episode.outcome.success), ("cost", episode.outcome.cost)):
            if not math.isfinite(value):
                raise NotFiniteError(f"the {name} of {place} is {value}", MEND_WORLD)
        for conversation in episode.conversations:
            for what in _rewards(conversation):
                raise NotFiniteError(f"{what} of agent '{conversation.agent}' in {place}", MEND_WORLD)
            said = np.asarray(conversation.transcript.log_probs, np.float64)
            if not np.isfinite(said).all():
                raise NotFiniteError(
                    f"a log-probability of what agent '{conversation.agent}' said in {place} is not finite",
                    MEND_LEARNING,
                )


def _rewards(conversation: Conversation) -> Iterator[str]:
    """The numbers of a conversation that are none, in words."""
    if conversation.result is not None and not math.isfinite(conversation.result.cost):
        yield f"the cost {conversation.result.cost}"
    for number, turn in enumerate(conversation.turns):
        if not math.isfinite(turn.reward):
            yield f"the reward {turn.reward} in turn {number}"
