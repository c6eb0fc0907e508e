"""What the world keeps of each conversation, and the small numbers that texts and keys are turned into."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from marl.envs.chat import ConversationResult, Message
from scenarios.agent_hierarchy.calls import Call
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.hierarchy import Role
from scenarios.agent_hierarchy.tasks import spoken_task


class Conversation(NamedTuple):
    """One conversation as it is shown: the role, its depth, and the world's own list of its messages."""

    agent: str
    level: int
    messages: list[Message]


class OpenCall:
    """One open or finished call."""

    __slots__ = (
        "anchor",
        "answering",
        "asked",
        "made",
        "messages",
        "pending",
        "queue",
        "result",
        "role",
        "several",
        "size",
        "task",
        "told",
    )

    def __init__(self, role: Role, caller: str | None, level: int, task: str, anchor: int):
        self.role, self.task, self.anchor = role, task, anchor
        self.queue: deque[tuple[Call, str]] = deque()  # calls of the last turn that are still to be made, with ids
        self.several = False  # there was more than one
        self.answering: tuple[str, str] | None = None  # id and name of the call that the next tool message answers
        self.asked = ""  # the last call of a sub-agent
        self.told: list[list[str]] = []  # what it announced with each of these calls
        self.made, self.pending = 0, 0  # steps of the task that are answered, and those that the last call is to answer
        self.size = 0
        self.messages: list[Message] = []
        self.result = ConversationResult(role.name, caller, level)

    def said(self, text: str, calls: Sequence[Call]) -> Message:
        """The message of a turn; its calls, if there are any, are those to be made now."""
        turn = self.result.turns
        names = [str(turn) if len(calls) == 1 else f"{turn}x{place}" for place in range(len(calls))]
        self.queue, self.several = deque(zip(calls, names, strict=True)), len(calls) > 1
        self.answering = None
        message: Message = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [
                {"id": name, "type": "function", "function": call._asdict()}
                for call, name in zip(calls, names, strict=True)
            ]
        return message

    def heard(self, text: str) -> Message:
        """The message with what came of the call that is being made, or of a text that was none."""
        message: Message = {"role": "tool", "content": text}
        if self.answering is not None:
            message["tool_call_id"], message["name"] = self.answering
        return message


def instruction(role: Role, config: HierarchyConfig) -> str:
    """What a role is told at the top of its conversations."""
    if config.grammar == "compact":
        return role.name
    tools = ", ".join(role.tools)
    how = f"Every message of yours is one call of a tool: {tools}."
    if config.plain_answers:
        how = f"Call a tool ({tools}), or answer in plain words."
    return f"You are {role.name}. {how} {role.options.prompt}".rstrip()


def answered(messages: Sequence[Message]) -> list[tuple[Call, str]]:
    """The executed calls of a conversation with what came back."""
    calls = {call["id"]: Call(**call["function"]) for message in messages for call in message.get("tool_calls", ())}
    return [(calls[m["tool_call_id"]], m["content"]) for m in messages if "tool_call_id" in m]


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
