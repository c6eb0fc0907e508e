"""``TokenBatch``: what language episodes hand to the learner: rows of tokens with integer keys.

A row is one conversation that a trained policy wrote; its turns are where it spoke. Advantages are computed per turn
from the keys and broadcast to the turn's tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.rollout.language.turns import Conversation, Episode


@dataclass(frozen=True)
class TokenBatch:
    """R rows with U turns in all, of E episodes.

    rows: the conversations. Per row, ``[R]``: episode, group (of episodes with the same task), agent (number of the
    role), caller (number of the role, -1: the user), level, task (equal where a sub-agent was asked the same within a
    group), success (of the episode), cost (of the episode), calls (of the episode), own_cost, invalid (its own turns
    that were no legal call), closed (answered within its budgets), correct (of its own answer; NaN if nobody can tell).
    Per turn, ``[U]``: row, number (within its row), anchor, reward (earned at once), length (in tokens).
    """

    rows: list[Conversation]
    episodes: int
    episode: Tensor
    group: Tensor
    agent: Tensor
    caller: Tensor
    level: Tensor
    task: Tensor
    success: Tensor
    cost: Tensor
    calls: Tensor
    own_cost: Tensor
    invalid: Tensor
    closed: Tensor
    correct: Tensor
    turn_row: Tensor
    turn_number: Tensor
    turn_anchor: Tensor
    turn_reward: Tensor
    turn_length: Tensor

    @property
    def turns_of_row(self) -> Tensor:
        """Number of turns of each row, ``[R]``."""
        return torch.bincount(self.turn_row, minlength=len(self.rows))

    @property
    def tokens_of_row(self) -> Tensor:
        """Number of own tokens of each row, ``[R]``."""
        lengths = self.turn_length.to(torch.float32)
        return torch.zeros(len(self.rows)).index_add_(0, self.turn_row, lengths)


def token_batch(episodes: Sequence[Episode], roles: Mapping[str, int], trained: Collection[str]) -> TokenBatch:
    """The rows of finished episodes that were written by ``trained`` roles; dropped episodes are left out.

    roles: role -> number.
    """
    finished = [episode for episode in episodes if episode.outcome is not None]
    rows: list[Conversation] = []
    keys: list[tuple[int, int, int, int, int, int]] = []
    values: list[tuple[float, ...]] = []
    turns: list[tuple[int, int, int, int]] = []
    rewards: list[float] = []
    for number, episode in enumerate(finished):
        outcome = episode.outcome
        assert outcome is not None
        for conversation in episode.conversations:
            result = conversation.result
            if conversation.agent not in trained or not conversation.transcript.spans:
                continue
            assert result is not None
            caller = -1 if conversation.caller is None else roles[conversation.caller]
            task = conversation.turns[0].anchor if conversation.turns else 0
            keys.append((number, episode.group, roles[conversation.agent], caller, conversation.level, task))
            correct = float("nan") if result.correct is None else float(result.correct)
            values.append(
                (
                    float(outcome.success),
                    outcome.cost,
                    float(outcome.calls),
                    result.cost,
                    float(result.invalid),
                    float(result.closed),
                    correct,
                )
            )
            spoken = zip(conversation.transcript.spans, conversation.turns, strict=True)
            for place, (span, turn) in enumerate(spoken):
                turns.append((len(rows), place, turn.anchor, span.end - span.start))
                rewards.append(turn.reward)
            rows.append(conversation)
    key = torch.tensor(keys, dtype=torch.int64).reshape(-1, 6)
    value = torch.tensor(values, dtype=torch.float32).reshape(-1, 7)
    spoken_turns = torch.tensor(turns, dtype=torch.int64).reshape(-1, 4)
    return TokenBatch(
        rows,
        len(finished),
        **dict(zip(("episode", "group", "agent", "caller", "level", "task"), key.unbind(1), strict=True)),
        **dict(
            zip(("success", "cost", "calls", "own_cost", "invalid", "closed", "correct"), value.unbind(1), strict=True)
        ),
        **dict(zip(("turn_row", "turn_number", "turn_anchor", "turn_length"), spoken_turns.unbind(1), strict=True)),
        turn_reward=torch.tensor(rewards, dtype=torch.float32),
    )
