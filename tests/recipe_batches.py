"""Random language batches, and for tests of recipes an oracle in plain numpy that shares no code with them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from marl.envs.chat import ConversationResult, Outcome
from marl.policies.language.base import Span, Transcript
from marl.rollout.language.token_batch import TokenBatch, token_batch
from marl.rollout.language.turns import Conversation, Episode, TurnRecord
from marl.systems.language.options import Context

ROLES = {"planner": 0, "north": 1, "south": 2}
CONTEXT = Context(0.0, 0)


@dataclass
class Row:
    """What the oracle knows of a row."""

    episode: int
    group: int
    agent: str
    level: int
    task: int
    success: float
    cost: float
    calls: int
    episode_turns: int
    own_cost: float
    closed: bool
    correct: float
    turns: list[TurnRecord]
    lengths: list[int]

    def final(self, cost: float = 0.03, own: float = 0.0, form: float = 0.0) -> float:
        """Earned at the end, for the options ``reward.cost``, ``reward.own`` and ``reward.format``."""
        team = self.success * max(0.0, 1.0 - cost * self.cost)
        mine = (
            team if self.level == 0 or np.isnan(self.correct) else self.correct * max(0.0, 1.0 - cost * self.own_cost)
        )
        return (1.0 - own) * team + own * mine + form * self.legal

    @property
    def legal(self) -> float:
        return float(self.closed and not any(turn.invalid for turn in self.turns))

    def now(self, invalid: float = 0.01) -> list[float]:
        """Earned at once by each turn, for the option ``reward.invalid``."""
        return [turn.reward - invalid * turn.invalid for turn in self.turns]

    def total(self, **options: float) -> float:
        return self.final(**options) + sum(self.now())


@dataclass
class Case:
    """A batch and its rows as the oracle knows them."""

    batch: TokenBatch
    rows: list[Row]
    episodes: list[Episode] = field(default_factory=list)

    def per_turn(self, of_row: Callable[[int], Any]) -> np.ndarray:
        """A number of each row for each of its turns."""
        return np.array([of_row(i) for i, row in enumerate(self.rows) for _ in row.turns])


def case(seed: int, groups: int = 3, size: int = 4, trained: Sequence[str] = tuple(ROLES), mute: float = 0.2) -> Case:
    """Episodes of a planner who calls searchers up to three times, in groups of the same task.

    mute: chance that an episode has no searcher at all.
    """
    draw = np.random.default_rng(seed)
    episodes: list[Episode] = []
    for number in range(groups * size):
        calls = 0 if draw.random() < mute else int(draw.integers(1, 4))
        agents = ["planner", *draw.choice(["north", "south"], calls)]
        turns = [int(draw.integers(1, 5)) for _ in agents]
        times = iter(range(sum(turns)))
        conversations = []
        for place, agent in enumerate(agents):
            spoken = [
                TurnRecord(
                    int(draw.integers(100, 103)),
                    "",
                    float(draw.choice([0.0, 0.0, -0.25])),
                    bool(draw.random() < 0.2),
                    next(times),
                )
                for _ in range(turns[place])
            ]
            transcript = Transcript()
            for _ in spoken:
                transcript.hear([1, 2])
                transcript.say([3] * int(draw.integers(1, 4)), [-1.0] * 0)
                transcript.log_probs += [-1.0] * (len(transcript.ids) - len(transcript.log_probs))
            correct = None if draw.random() < 0.2 else bool(draw.random() < 0.5)
            result = ConversationResult(
                agent,
                None if place == 0 else "planner",
                int(place > 0),
                len(spoken),
                0,
                correct,
                float(draw.integers(3)),
            )
            result.closed = bool(draw.random() < 0.8)
            conversations.append(
                Conversation(place, agent, result.caller, result.level, [], transcript, spoken, result)
            )
        outcome = Outcome(bool(draw.random() < 0.6), float(draw.integers(0, 6)), calls, [], {})
        episodes.append(Episode(number // size, 50 + number // size, number, conversations, outcome))
    return Case(token_batch(episodes, ROLES, trained), rows_of(episodes, trained), episodes)


def rows_of(episodes: Sequence[Episode], trained: Sequence[str]) -> list[Row]:
    """What the oracle knows of episodes."""
    rows = []
    for number, episode in enumerate(episodes):
        outcome = episode.outcome
        assert outcome is not None
        for c in episode.conversations:
            if c.agent in trained and c.result is not None:
                rows.append(
                    Row(
                        number,
                        episode.group,
                        c.agent,
                        c.level,
                        c.turns[0].anchor,
                        float(outcome.success),
                        outcome.cost,
                        outcome.calls,
                        sum(len(other.turns) for other in episode.conversations),
                        c.result.cost,
                        c.result.closed,
                        float("nan") if c.result.correct is None else float(c.result.correct),
                        c.turns,
                        [end - start for start, end in c.transcript.spans],
                    )
                )
    return rows


def z_scores(
    value: Sequence[float] | np.ndarray,
    keys: Sequence[Hashable],
    scale: float | None = None,
    weight: np.ndarray | None = None,
    eps: float = 1e-6,
) -> np.ndarray:
    """Differences from the group's mean over its standard deviation, or over ``scale``; 0 for groups of one."""
    value = np.asarray(value, dtype=np.float64)
    weight = np.ones(len(value)) if weight is None else weight
    result = np.zeros(len(value))
    for key in set(keys):
        mine = np.array([k == key for k in keys]) & (weight > 0)
        if mine.sum() < 2:
            continue
        mean = np.average(value[mine], weights=weight[mine])
        deviation = np.sqrt(np.average((value[mine] - mean) ** 2, weights=weight[mine]))
        if deviation > 1e-6:
            result[mine] = (value[mine] - mean) / (deviation + eps if scale is None else scale)
    return result


def discounted(case_: Case, gamma: float, team: bool) -> np.ndarray:
    """Returns of all turns by a double loop over the turns of a row."""
    result = []
    for row in case_.rows:
        now, last = row.now(), row.turns[-1].time
        clock = [turn.time for turn in row.turns] if team else list(range(len(row.turns)))
        end = row.episode_turns - 1 if team else clock[-1]
        assert last <= row.episode_turns - 1
        for t in range(len(row.turns)):
            later = sum(gamma ** (clock[k] - clock[t]) * now[k] for k in range(t, len(row.turns)))
            result.append(later + gamma ** (end - clock[t]) * row.final())
    return np.array(result)


def transcript_of(*spans: tuple[int, int]) -> Transcript:
    """A transcript whose own turns are ``spans``, with ids that count from 0."""
    end = max(end for _, end in spans)
    return Transcript(list(range(end)), [-1.0] * end, [Span(*span) for span in spans])
