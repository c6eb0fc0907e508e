"""Plays turn-based language episodes side by side, with generation batched per policy.

Episodes do not wait for each other: of all pending turns, those of the policy with the most are answered together, so
that batches stay large while conversations of different depth and length go on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from marl.envs.chat import ConversationResult, LanguageEnv, Message, Outcome, Turn
from marl.policies.language.base import LanguagePolicy, Request, Transcript
from marl.seeding import fold_int


@dataclass
class TurnRecord:
    """One turn of a conversation.

    anchor: of the moment (``marl.envs.chat.Turn``). reward, invalid: ``marl.envs.chat.TurnResult``. time: number of the
    turn among those of all agents of the episode.
    """

    anchor: int
    text: str
    reward: float
    invalid: bool = False
    time: int = 0


@dataclass
class Conversation:
    """One agent's stretch of an episode, from being called to answering; each prompt extends the ids before it.

    number: within the episode. messages: all that was said, the world's own list. result: filled in when the episode
    is over. above: what had been said in the conversations that were open above it when it was opened, the first one
    first.
    """

    number: int
    agent: str
    caller: str | None
    level: int
    messages: list[Message] = field(default_factory=list)
    transcript: Transcript = field(default_factory=Transcript)
    turns: list[TurnRecord] = field(default_factory=list)
    result: ConversationResult | None = None
    above: list[Message] = field(default_factory=list)


@dataclass
class Episode:
    """One episode. seed: chose the task. group: episodes of one group share the task. key: of all sampling in it.

    outcome: None if a policy gave no answer, so that the episode was dropped. spent: tokens that were generated for it
    beside those of its conversations. greedy: its agents said the most probable tokens. learn: False if it is there to
    be compared with, and nothing is learned from its tokens.
    """

    seed: int
    group: int
    key: int
    conversations: list[Conversation] = field(default_factory=list)
    outcome: Outcome | None = None
    spent: int = 0
    greedy: bool = False
    learn: bool = True

    @property
    def turns(self) -> int:
        """Turns of all agents, up to the last one that it holds."""
        return max((c.turns[-1].time + 1 for c in self.conversations if c.turns), default=0)


class Ask(NamedTuple):
    """An episode to be played; fields as of ``Episode``."""

    seed: int
    group: int
    greedy: bool = False
    learn: bool = True


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

        Args:
            key: episode i samples from ``fold(key, i)``.
            groups: by default every episode is a group of its own.
        """
        groups = range(len(seeds)) if groups is None else groups
        return self.ask([Ask(seed, group, greedy) for seed, group in zip(seeds, groups, strict=True)], key)

    def ask(self, asks: Sequence[Ask], key: int) -> list[Episode]:
        """As ``play``, each episode as it is asked for."""
        while len(self._envs) < len(asks):
            self._envs.append(self._make())
        episodes = [
            Episode(ask.seed, ask.group, fold_int(key, i), greedy=ask.greedy, learn=ask.learn)
            for i, ask in enumerate(asks)
        ]
        running = [Running(env, episode) for env, episode in zip(self._envs, episodes, strict=False)]
        advance(running, self._policies)
        return episodes

    def close(self) -> None:
        for env in self._envs:
            env.close()


#: What is answered together: (policy, whether greedily) -> the episodes that wait for it.
Waiting = dict[tuple[int, bool], list["Running"]]


def advance(running: Sequence[Running], policies: Mapping[str, LanguagePolicy]) -> None:
    """Play all to their ends. Of all pending turns, those of the policy with the most are answered together."""
    waiting: Waiting = {}
    for one in running:
        _enqueue(one, policies, waiting)
    while waiting:
        chosen = max(waiting, key=lambda policy: len(waiting[policy]))
        asked = waiting.pop(chosen)
        _answer(asked, policies)
        for one in asked:
            if one.spoke:
                _enqueue(one, policies, waiting)


def answer(running: Sequence[Running], policies: Mapping[str, LanguagePolicy]) -> None:
    """Make the one turn that each of them waits for."""
    waiting: Waiting = {}
    for one in running:
        _enqueue(one, policies, waiting)
    for asked in waiting.values():
        _answer(asked, policies)


def _enqueue(one: Running, policies: Mapping[str, LanguagePolicy], waiting: Waiting) -> None:
    turn = one.next_turn()
    if turn is not None:
        waiting.setdefault((id(policies[turn.agent]), one.episode.greedy), []).append(one)


def _answer(asked: Sequence[Running], policies: Mapping[str, LanguagePolicy]) -> None:
    """Let the policy that all of them wait for speak."""
    greedy = asked[0].episode.greedy
    requests = [one.request() for one in asked]
    for one, text in zip(asked, policies[requests[0].turn.agent].complete(requests, greedy), strict=True):
        one.say(text)


class Running:
    """An episode that is being played."""

    def __init__(self, env: LanguageEnv, episode: Episode):
        self._env, self.episode = env, episode
        self._count = 0
        self._turn: Turn | None = None
        #: Whether the last request was answered.
        self.spoke = False
        env.reset(seed=episode.seed)

    def next_turn(self) -> Turn | None:
        """The turn to make now, or None when the episode is over; its outcome is noted then."""
        before, self._turn = self._turn, self._env.turn()
        turn, conversations = self._turn, self.episode.conversations
        if turn is None:
            self.episode.outcome = outcome = self._env.outcome()
            for conversation in conversations:
                conversation.result = outcome.conversations[conversation.number]
                conversation.transcript.cache = None
        elif turn.conversation == len(conversations):
            new = Conversation(turn.conversation, turn.agent, turn.caller, turn.level, turn.messages)
            new.above = _above(turn, before, conversations)
            conversations.append(new)
        return turn

    def request(self) -> Request:
        assert self._turn is not None
        self._count += 1
        return Request(self._turn, self.spoken.transcript, fold_int(self.episode.key, self._count))

    @property
    def spoken(self) -> Conversation:
        """The conversation of the turn that was asked for last."""
        assert self._turn is not None
        return self.episode.conversations[self._turn.conversation]

    @property
    def tokens(self) -> int:
        """Tokens that policies have generated in it so far."""
        return sum(end - start for c in self.episode.conversations for start, end in c.transcript.spans)

    def say(self, text: str | None) -> None:
        """Make the turn that was asked for; None: no answer came, and the episode is not gone on with."""
        assert self._turn is not None
        self.spoke = text is not None
        if text is None:
            return
        self._env.step(text)
        reward, invalid = self._env.turn_result()
        self.spoken.turns.append(TurnRecord(self._turn.anchor, text, reward, invalid, self._count - 1))

    def fork(self, key: int) -> Running:
        """The same moment once more, to go on otherwise. key: of all sampling from here on."""
        # What was said stays as it is, and what policies have cached is only ever read.
        shared: dict[int, Any] = {}
        for conversation in self.episode.conversations:
            shared |= {id(message): message for message in conversation.messages}
            shared[id(conversation.transcript.cache)] = conversation.transcript.cache
        other = Running.__new__(Running)
        other._env = copy.deepcopy(self._env, shared)
        other.episode = replace(self.episode, key=key, conversations=copy.deepcopy(self.episode.conversations, shared))
        other._count, other._turn, other.spoke = self._count, self._turn, self.spoke
        return other


def _above(turn: Turn, before: Turn | None, conversations: Sequence[Conversation]) -> list[Message]:
    """``Conversation.above`` of one that opens with ``turn``. before: the turn before it, in which it was called."""
    callers = [c for c in conversations if c.agent == turn.caller]
    asked = [c for c in callers if before is not None and c.number == before.conversation] or callers[-1:]
    return [*asked[0].above, *asked[0].messages] if asked else []
