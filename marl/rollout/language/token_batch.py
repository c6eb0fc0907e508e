"""``TokenBatch``: what language episodes hand to the learner: rows of tokens with integer keys.

A row is one conversation that a trained policy wrote; its turns are where it spoke. Advantages are computed per turn
from the keys and broadcast to the turn's tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from marl.errors import UserError
from marl.rollout.language.turns import Conversation, Episode


@dataclass(frozen=True)
class TokenBatch:
    """R rows with U turns in all, of E episodes.

    rows: the conversations. Per row, ``[R]``: episode, group (of episodes with the same task), agent (number of the
    role), caller (number of the role, -1: the user), level, task (equal where a sub-agent was asked the same within a
    group), success (of the episode), cost (of the episode), calls (of the episode), own_cost, closed (answered within
    its budgets), correct (of its own answer; NaN if nobody can tell).
    Per turn, ``[U]``: row, number (within its row), anchor, reward (earned at once), invalid (1: it was no legal call),
    time (number among the turns of all agents of its episode), length (in tokens), drift (how far the sampling policy
    was from a reference, summed over the turn's tokens; 0 where nothing was compared).
    Per episode, ``[E]``, those without any row included: group, success, calls, turns (of all agents); measured: what
    else the world measured (``note``).
    aside: the rows of episodes that are there to be compared with, and not learned from; None: there are none.
    """

    rows: list[Conversation]
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
    closed: Tensor
    correct: Tensor
    turn_row: Tensor
    turn_number: Tensor
    turn_anchor: Tensor
    turn_reward: Tensor
    turn_invalid: Tensor
    turn_time: Tensor
    turn_length: Tensor
    turn_drift: Tensor
    episode_group: Tensor
    episode_success: Tensor
    episode_calls: Tensor
    episode_turns: Tensor
    measured: tuple[Mapping[str, float], ...] = ()
    aside: TokenBatch | None = None

    def note(self, name: str) -> Tensor:
        """What the world measured of each row's episode, float ``[R]``. Raises ``UserError`` if it did not."""
        for metrics in self.measured:
            if name not in metrics:
                raise UserError(f"this system needs the metric '{name}', which the world does not measure")
        return torch.tensor([metrics[name] for metrics in self.measured], dtype=torch.float32)[self.episode]

    @property
    def episodes(self) -> int:
        """Number of episodes, those without any row included."""
        return len(self.episode_group)

    @property
    def turns_of_row(self) -> Tensor:
        """Number of turns of each row, ``[R]``."""
        return torch.bincount(self.turn_row, minlength=len(self.rows))

    @property
    def tokens_of_row(self) -> Tensor:
        """Number of own tokens of each row, ``[R]``."""
        return self.of_rows(self.turn_length.to(torch.float32))

    @property
    def invalid(self) -> Tensor:
        """Number of each row's turns that were no legal call, ``[R]``."""
        return self.of_rows(self.turn_invalid)

    def of_rows(self, turns: Tensor) -> Tensor:
        """Sums over the turns of each row, float ``[R]``, of float ``[U]``."""
        return torch.zeros(len(self.rows)).index_add_(0, self.turn_row, turns)


def token_batch(episodes: Sequence[Episode], roles: Mapping[str, int], trained: Collection[str]) -> TokenBatch:
    """The rows of finished episodes that were written by ``trained`` roles; dropped episodes are left out.

    Args:
        roles: role -> number.
    """
    beside = [replace(episode, learn=True) for episode in episodes if not episode.learn]
    finished = [(one, one.outcome) for one in episodes if one.outcome is not None and one.learn]
    rows: list[Conversation] = []
    keys: list[tuple[int, ...]] = []
    values: list[tuple[float, ...]] = []
    turns: list[tuple[int, ...]] = []
    rewards: list[tuple[float, float]] = []
    for number, (episode, outcome) in enumerate(finished):
        team = (float(outcome.success), outcome.cost, float(outcome.calls))
        for conversation in episode.conversations:
            result = conversation.result
            if conversation.agent not in trained or not conversation.transcript.spans:
                continue
            assert result is not None
            caller = -1 if conversation.caller is None else roles[conversation.caller]
            task = conversation.turns[0].anchor if conversation.turns else 0
            keys.append((number, episode.group, roles[conversation.agent], caller, conversation.level, task))
            correct = float("nan") if result.correct is None else float(result.correct)
            values.append((*team, result.cost, float(result.closed), correct))
            spoken = zip(conversation.transcript.spans, conversation.turns, strict=True)
            for place, (span, turn) in enumerate(spoken):
                turns.append((len(rows), place, turn.anchor, turn.time, span.end - span.start))
                rewards.append((turn.reward, float(turn.invalid)))
            rows.append(conversation)
    whole = [(episode.group, outcome.calls, episode.turns) for episode, outcome in finished]
    return TokenBatch(
        rows,
        **_columns(("episode", "group", "agent", "caller", "level", "task"), keys, torch.int64),
        **_columns(("success", "cost", "calls", "own_cost", "closed", "correct"), values, torch.float32),
        **_columns(("turn_row", "turn_number", "turn_anchor", "turn_time", "turn_length"), turns, torch.int64),
        **_columns(("turn_reward", "turn_invalid"), rewards, torch.float32),
        turn_drift=torch.zeros(len(turns)),
        **_columns(("episode_group", "episode_calls", "episode_turns"), whole, torch.int64),
        episode_success=torch.tensor([outcome.success for _, outcome in finished], dtype=torch.float32),
        measured=tuple(outcome.metrics for _, outcome in finished),
        aside=token_batch(beside, roles, trained) if beside else None,
    )


def _columns(names: Sequence[str], table: Sequence[tuple[float, ...]], dtype: torch.dtype) -> dict[str, Tensor]:
    """The columns of a table by name, ``[rows]`` each."""
    columns = torch.tensor(table, dtype=dtype).reshape(-1, len(names)).unbind(1)
    return dict(zip(names, columns, strict=True))
