"""Plays turn-based language episodes side by side, with generation batched per policy.

Episodes do not wait for each other: of all pending turns, those of the policy with the most are answered together, so
that batches stay large while conversations of different depth and length go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from marl.envs.chat import ConversationResult, LanguageEnv, Message, Outcome, Turn
from marl.policies.language.base import LanguagePolicy, Request, Transcript
from marl.seeding import fold_int


@dataclass
class TurnRecord:
    """One turn of a conversation. anchor: of the moment (``marl.envs.chat.Turn``). reward: earned at once."""

    anchor: int
    text: str
    reward: float


@dataclass
class Conversation:
    """One agent's stretch of an episode, from being called to answering; each prompt extends the ids before it.

    number: within the episode. messages: all that was said, the world's own list. result: filled in when the episode
    is over.
    """

    number: int
    agent: str
    caller: str | None
    level: int
    messages: list[Message] = field(default_factory=list)
    transcript: Transcript = field(default_factory=Transcript)
    turns: list[TurnRecord] = field(default_factory=list)
    result: ConversationResult | None = None


@dataclass
class Episode:
    """One episode. seed: chose the task. group: episodes of one group share the task. key: of all sampling in it.

    outcome: None if a policy gave no answer, so that the episode was dropped.
    """

    seed: int
    group: int
    key: int
    conversations: list[Conversation] = field(default_factory=list)
    outcome: Outcome | None = None


class TurnPlayer:
    """Keeps environments and plays episodes in them.

    policies: role -> who speaks for it; roles that share a policy share its batches.
    """

    def __init__(self, make: Callable[[], LanguageEnv], policies: Mapping[str, LanguagePolicy]):
        self._make, self._policies = make, policies
        self._envs: list[LanguageEnv] = []

    def play(
        self, seeds: Sequence[int], key: int, groups: Sequence[int] | None = None, greedy: bool = False
    ) -> list[Episode]:
        """Play one episode per seed to its end. Dropped ones are among those returned, with no outcome.

        key: episode i samples from ``fold(key, i)``. groups: by default every episode is a group of its own.
        """
        while len(self._envs) < len(seeds):
            self._envs.append(self._make())
        groups = range(len(seeds)) if groups is None else groups
        episodes = [
            Episode(seed, group, fold_int(key, i)) for i, (seed, group) in enumerate(zip(seeds, groups, strict=True))
        ]
        running = [_Running(env, episode) for env, episode in zip(self._envs, episodes, strict=False)]
        waiting: dict[int, list[_Running]] = {}
        by_id = {id(policy): policy for policy in self._policies.values()}
        for one in running:
            self._enqueue(one, waiting)
        while waiting:
            chosen = max(waiting, key=lambda policy: len(waiting[policy]))
            asked = waiting.pop(chosen)
            texts = by_id[chosen].complete([one.request() for one in asked], greedy)
            for one, text in zip(asked, texts, strict=True):
                if text is not None:
                    one.say(text)
                    self._enqueue(one, waiting)
        return episodes

    def _enqueue(self, one: _Running, waiting: dict[int, list[_Running]]) -> None:
        turn = one.next_turn()
        if turn is not None:
            waiting.setdefault(id(self._policies[turn.agent]), []).append(one)

    def close(self) -> None:
        for env in self._envs:
            env.close()


class _Running:
    """An episode that is being played."""

    def __init__(self, env: LanguageEnv, episode: Episode):
        self._env, self._episode = env, episode
        self._count = 0
        self._turn: Turn | None = None
        env.reset(seed=episode.seed)

    def next_turn(self) -> Turn | None:
        """The turn to make now, or None when the episode is over; its outcome is noted then."""
        self._turn = turn = self._env.turn()
        conversations = self._episode.conversations
        if turn is None:
            self._episode.outcome = outcome = self._env.outcome()
            for conversation in conversations:
                conversation.result = outcome.conversations[conversation.number]
                conversation.transcript.cache = None
        elif turn.conversation == len(conversations):
            new = Conversation(turn.conversation, turn.agent, turn.caller, turn.level, turn.messages)
            conversations.append(new)
        return turn

    def request(self) -> Request:
        assert self._turn is not None
        self._count += 1
        transcript = self._episode.conversations[self._turn.conversation].transcript
        return Request(self._turn, transcript, fold_int(self._episode.key, self._count))

    def say(self, text: str) -> None:
        assert self._turn is not None
        self._env.step(text)
        reward = self._env.rewards[self._turn.agent] if not self._over() else 0.0
        record = TurnRecord(self._turn.anchor, text, reward)
        self._episode.conversations[self._turn.conversation].turns.append(record)

    def _over(self) -> bool:
        return self._env.turn() is None
