"""How calls are written: compact (``ask e5 r1 north``, ``r1 cache e5``), as JSON, or as models of many families do.

A lookup names its relation before its tool: which tool will do depends on the relation, and a small model learns a
choice that depends on the word just said far sooner than one that depends on a word of the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from marl.policies.language.call_formats import UnreadableError, Written, unthought, written_calls
from scenarios.agent_hierarchy.arguments import fitted
from scenarios.agent_hierarchy.tasks import MAX_TEXT, Step
from scenarios.agent_hierarchy.tools import Tool

Grammar = Literal["compact", "json"]

#: The parameter of lookups that is said before the tool.
RELATION = "relation"
#: Characters of a text with its thoughts, and calls of one text.
_MAX_THOUGHT, _MAX_CALLS = 1 << 20, 16
#: What calls are written with and answers in plain words are not.
_MAY_CALL = re.compile(r"[{}<>|`=]|^\s*Action\b", re.MULTILINE)


class Call(NamedTuple):
    """A legal call: the tool's name, and arguments of the types that its schema asks for."""

    name: str
    arguments: dict[str, Any]


class Fault(NamedTuple):
    """Why a text is no legal call, in a few words that the agent gets to read."""

    reason: str


def read(text: Any, tools: Mapping[str, Tool]) -> tuple[Call, ...] | Fault:
    """Read the calls of a text, all of them or none. Never raises, whatever the text.

    Args:
        text: whatever an agent said.
        tools: those that its role has, by name.
    """
    if not isinstance(text, str) or len(text) > _MAX_THOUGHT:
        return Fault("not a text of bounded length")
    try:
        said = unthought(text)
        if len(said) > MAX_TEXT:
            return Fault("not a text of bounded length")
        written = written_calls(said, tools)
    except UnreadableError as fault:
        return Fault(str(fault))
    if not written:
        call = _from_words(said.split(), tools)
        return call if isinstance(call, Fault) else (call,)
    if len(written) > _MAX_CALLS:
        return Fault(f"{len(written)} calls at once: at most {_MAX_CALLS}")
    calls: list[Call] = []
    for each in written:
        made = _known(each, tools)
        if isinstance(made, Fault):
            # Half of what was meant would be something else.
            return made if len(written) == 1 else Fault(f"none of {len(written)} calls made: {made.reason}")
        calls.append(made)
    return tuple(calls)


def parse(text: Any, tools: Mapping[str, Tool]) -> Call | Fault:
    """The one call of a text. Arguments as of ``read``."""
    found = read(text, tools)
    if isinstance(found, Fault):
        return found
    return found[0] if len(found) == 1 else Fault(f"{len(found)} calls at once")


def plain_answer(text: Any, tools: Mapping[str, Tool]) -> str | None:
    """The answer that a text without any call is; None if it is empty, or may hold a call in whatever form.

    Args:
        text: whatever an agent said.
        tools: those that its role has, by name.
    """
    if not isinstance(text, str):
        return None
    try:
        said = unthought(text)
        if written_calls(said, tools) or _MAY_CALL.search(said):
            return None
    except UnreadableError:
        return None
    named = set(re.findall(r"[\w.-]+", said)) & (set(tools) - {"answer", "ask"})
    return said if said and not named and len(said) <= MAX_TEXT else None


def _known(written: Written, tools: Mapping[str, Tool]) -> Call | Fault:
    if written.name not in tools:
        return Fault("unknown call")
    return typed(tools[written.name], written.arguments, written.bare)


def from_object(data: Any, tools: Mapping[str, Tool]) -> Call | Fault:
    """The call that an object ``{"name": ..., "arguments": {...}}`` means."""
    name, arguments = data.get("name"), data.get("arguments", {})
    if not isinstance(name, str) or name not in tools:
        return Fault("unknown call")
    return typed(tools[name], arguments) if isinstance(arguments, dict) else Fault("wrong arguments")


def _from_words(words: list[str], tools: Mapping[str, Tool]) -> Call | Fault:
    if len(words) > 1 and words[0] not in tools and words[1] in tools:
        # The relation first, and nothing else before the tool: "Action: echo ..." is no call of this grammar.
        lookup = tools[words[1]]
        if next(iter(lookup.parameters), "") != RELATION or len(words) != 1 + len(lookup.parameters):
            return Fault("unknown call")
        words = [words[1], words[0], *words[2:]]
    if not words or words[0] not in tools:
        return Fault("unknown call")
    tool = tools[words[0]]
    names = list(tool.parameters)
    values = words[1:]
    surplus = len(values) - len(names)
    if names and surplus > 0 and tool.parameters[names[0]].get("type") == "string":
        # The first text takes what is too much: a task may have several words.
        values = [" ".join(values[: surplus + 1]), *values[surplus + 1 :]]
    if len(values) > len(names):
        return Fault("wrong arguments")
    return typed(tool, dict(zip(names, values, strict=False)), bare=True)


def typed(tool: Tool, arguments: Mapping[str, Any], bare: bool = False) -> Call | Fault:
    """A call with each argument in the type that the tool's schema asks for, or which of them does not fit.

    Args:
        tool: that is called.
        arguments: as they were written.
        bare: their values are texts without a type.
    """
    found = fitted(tool, arguments, bare)
    return Fault(found) if isinstance(found, str) else Call(tool.name, found)


def render(call: Call, grammar: Grammar) -> str:
    """The text of a call; ``parse`` reads it back."""
    if grammar == "json":
        return json.dumps({"name": call.name, "arguments": call.arguments}, separators=(",", ":"))
    words = [call.name, *map(str, call.arguments.values())]
    if RELATION in call.arguments:
        words[:2] = words[1::-1]
    return " ".join(words)


def tool_step(tool: Tool, step: Step, value: str | None) -> Call | Fault:
    """The call by which a tool makes a step of a plan: the value so far is the first parameter that the step does not
    spell out; None: a value that is not known yet, of which only the place is checked."""
    given: dict[str, Any] = dict(step.given)
    free = [name for name in tool.parameters if name not in given]
    surplus = [name for name in given if name not in tool.parameters]
    if surplus:
        return Fault(f"parameter {surplus[0]!r} that it does not know: it takes {', '.join(tool.parameters)}")
    # Others may have defaults.
    free = [name for place, name in enumerate(free) if place == 0 or name in tool.needed]
    if len(free) > 1:
        return Fault(f"parameter {free[1]!r} without a value: write {free[1]}=VALUE after its name")
    if value is None and free:
        return Call(tool.name, {})
    return typed(tool, given | dict.fromkeys(free, value), bare=True)
