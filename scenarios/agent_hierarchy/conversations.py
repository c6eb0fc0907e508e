"""What the world keeps of each conversation, and the small numbers that texts and keys are turned into."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from marl.envs.chat import ConversationResult, Message
from scenarios.agent_hierarchy.hierarchy import Role
from scenarios.agent_hierarchy.tasks import spoken_task


class Conversation(NamedTuple):
    """One conversation as it is shown: the role, its depth, and the world's own list of its messages."""

    agent: str
    level: int
    messages: list[Message]


class OpenCall:
    """One open or finished call."""

    __slots__ = ("anchor", "asked", "called", "made", "messages", "pending", "result", "role", "size", "task", "told")

    def __init__(self, role: Role, caller: str | None, level: int, task: str, anchor: int):
        self.role, self.task, self.anchor = role, task, anchor
        self.called = False  # the last turn was a legal call, which the next tool message answers
        self.asked = ""  # the last call of a sub-agent
        self.told: list[list[str]] = []  # what it announced with each of these calls
        self.made, self.pending = 0, 0  # steps of the task that are answered, and those that the last call is to answer
        self.size = 0
        self.messages: list[Message] = []
        self.result = ConversationResult(role.name, caller, level)


def intended(conversation: OpenCall) -> list[str]:
    """What an agent will ask for next, once the call at hand is answered; nothing if its task says no more."""
    steps = spoken_task(conversation.task)[1][conversation.made + conversation.pending :]
    return ["above", steps[0].words] if steps else []


def chance(key: int) -> float:
    """Uniform in [0, 1)."""
    return (key & ((1 << 53) - 1)) / (1 << 53)


def text_number(text: str) -> int:
    """A number of a text that is the same in every process."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))
