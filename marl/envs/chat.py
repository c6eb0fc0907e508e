"""The contract of language worlds: turn-based, chat messages in, text out.

A language world is a PettingZoo ``AECEnv`` whose ``agent_selection`` follows a call stack. ``LanguageEnv`` adds what a
learner needs to know beside the messages: which conversation a turn belongs to, who called, and how an episode ended.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv

#: An OpenAI chat message: ``role`` (system, user, assistant or tool) and ``content``; an assistant's legal calls are
#: its ``tool_calls`` (id, type, and a function with its name and arguments as an object), the result of one has its id
#: as ``tool_call_id`` and its ``name``. What was refused as no call is answered by a message of the tool without an id.
Message = dict[str, Any]

SPEAKERS = ("system", "user", "assistant", "tool")


class ChatSpace(spaces.Space[str]):
    """Any text of at most ``max_length`` characters. (``gymnasium.spaces.Text`` refuses spaces unless told of them.)

    Samples are noise or one of ``examples``, half and half: an agent that samples says something well-formed at times.
    """

    def __init__(self, max_length: int = 4096, examples: Sequence[str] = (), seed: int | None = None):
        super().__init__((), np.str_, seed)
        self.max_length, self.examples = max_length, tuple(examples)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random text; ``mask`` and ``probability`` have no meaning here."""
        if self.examples and self.np_random.random() < 0.5:
            return self.examples[int(self.np_random.integers(len(self.examples)))]
        length = int(self.np_random.integers(min(self.max_length, 40) + 1))
        return "".join(map(chr, self.np_random.integers(32, 0x250, length)))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"ChatSpace({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChatSpace) and (self.max_length, self.examples) == (other.max_length, other.examples)


class Messages(tuple[Message, ...]):
    """What an agent observes: the messages of its conversation so far."""

    #: PettingZoo's ``api_test`` asks it of every observation.
    dtype = np.dtype(object)


class ConversationSpace(spaces.Space[Messages]):
    """``Messages``, each of at most ``max_length`` characters; empty for an agent that nobody has called."""

    def __init__(self, max_length: int = 4096, seed: int | None = None):
        super().__init__(None, np.dtype(object), seed)
        self.max_length = max_length

    def sample(self, mask: Any = None, probability: Any = None) -> Messages:
        """A conversation of one line."""
        speaker = SPEAKERS[int(self.np_random.integers(len(SPEAKERS)))]
        return Messages([{"role": speaker, "content": "".join(map(chr, self.np_random.integers(32, 127, 8)))}])

    def contains(self, x: Any) -> bool:
        return isinstance(x, tuple) and all(
            isinstance(message, dict)
            and message.get("role") in SPEAKERS
            and isinstance(message.get("content"), str)
            and len(message["content"]) <= self.max_length
            for message in x
        )

    def __repr__(self) -> str:
        return f"ConversationSpace({self.max_length})"


class Turn(NamedTuple):
    """The decision that a language world waits for.

    agent: the role that speaks. conversation: its number within the episode; a call opens a new one, whose messages
    only ever grow. caller: the role that called, or None for the first. level: calls above this one. messages: the
    whole conversation, owned by the world. tools: JSON schemas of the calls that the agent may make. anchor: of the
    role, its task and the last thing it heard: equal where the momentary observation is, whatever way led there.
    plan: what the world tells a demonstrator alone: the task in the words that it works by; empty if the task itself is
    in those words, or if there is no plan. No policy that learns sees it.
    """

    agent: str
    conversation: int
    caller: str | None
    level: int
    messages: list[Message]
    tools: tuple[dict[str, Any], ...]
    anchor: int
    plan: str = ""


@dataclass
class ConversationResult:
    """How one conversation went.

    turns: made in it. invalid: of them, texts that were no legal call. correct: whether what it answered was right,
    None where nobody can tell. cost: of the calls made in it. closed: it answered by itself, within its budgets.
    """

    agent: str
    caller: str | None
    level: int
    turns: int = 0
    invalid: int = 0
    correct: bool | None = None
    cost: float = 0.0
    closed: bool = False


class TurnResult(NamedTuple):
    """How one turn went.

    reward: what its agent earned by it at once, such as the price of a correction, in units of the team's reward. The
    team's reward at the end and the price of an illegal call are not in it: those are the learner's affair. invalid:
    its text was no legal call.
    """

    reward: float
    invalid: bool


class Outcome(NamedTuple):
    """How an episode ended.

    success: the answer was right. cost: of all calls. calls: made in all. conversations: results by number.
    metrics: further figures, by name.
    """

    success: bool
    cost: float
    calls: int
    conversations: list[ConversationResult]
    metrics: dict[str, float]


class LanguageEnv(AECEnv):  # type: ignore[misc]  # pettingzoo has no types
    """A turn-based world of talking agents. Its agents are roles; several conversations of one may be open at once.

    ``copy.deepcopy`` of a world in mid-episode is the same moment once more: systems that try several candidates for a
    turn go on from copies.
    """

    possible_agents: list[str]

    @abstractmethod
    def turn(self) -> Turn | None:
        """The decision to make now, or None when the episode is over."""

    @abstractmethod
    def step(self, action: str | None) -> None:
        """Say ``action`` as the selected agent. Text that is no legal call costs a penalty and changes nothing."""

    @abstractmethod
    def turn_result(self) -> TurnResult:
        """How the turn went that was made last, also if it ended the episode."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """How the finished episode went."""


@runtime_checkable
class Spoken(Protocol):
    """A batched world that takes texts as well as numbers, so that policies of both kinds meet the same episodes."""

    #: Why this one takes texts alone, and the mend; empty if numbers will do.
    speech_only: str

    def turns(self) -> list[Turn]:
        """The decision that each copy waits for."""

    def say(self, texts: Sequence[str]) -> None:
        """What each copy's acting agent says in the coming ``step``, whose actions are then ignored."""


@dataclass(frozen=True)
class LanguageWorld:
    """What a scenario offers to language systems.

    roles: names of the agents, the first one is asked first. make: an environment; episodes are chosen by the seed of
    ``reset``, and seeds of training and evaluation never overlap. levels: role -> its least depth below the first.
    expert: what a scripted demonstrator would say in a turn, given a random key: what a warm start imitates.
    vocabulary: the words of a compact grammar, or None if text has to be split into bytes.
    corpus: texts that a tokenizer of bytes is made from. context: tokens that a conversation may take.
    demonstrations: an environment that asks only what the expert can show, seeds as of ``make``; None: ``make``.
    untaught: why the expert can show nothing here, and the mend; empty: it can. cautions: sentences that somebody who
    trains here should read before the run.
    """

    roles: tuple[str, ...]
    levels: Mapping[str, int]
    make: Callable[[], LanguageEnv]
    expert: Callable[[Turn, int], str]
    vocabulary: tuple[str, ...] | None
    corpus: Callable[[], list[str]]
    context: int
    demonstrations: Callable[[], LanguageEnv] | None = None
    untaught: str = ""
    cautions: tuple[str, ...] = ()
