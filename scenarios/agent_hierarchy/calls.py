"""How calls are written: compact (``ask e5 r1 north``, ``r1 cache e5``) or as JSON; both are read, whatever is written.

A lookup names its relation before its tool: which tool will do depends on the relation, and a small model learns a
choice that depends on the word just said far sooner than one that depends on a word of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from scenarios.agent_hierarchy.tasks import MAX_TEXT, Step
from scenarios.agent_hierarchy.tools import Tool

Grammar = Literal["compact", "json"]

#: The parameter of lookups that is said before the tool.
RELATION = "relation"
_MAX_DIGITS = 9
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Call(NamedTuple):
    """A legal call: the tool's name, and arguments of the types that its schema asks for."""

    name: str
    arguments: dict[str, Any]


class Fault(NamedTuple):
    """Why a text is no legal call, in a few words that the agent gets to read."""

    reason: str


def parse(text: Any, tools: Mapping[str, Tool]) -> Call | Fault:
    """Read a call of one of ``tools``. Never raises, whatever the text."""
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        return Fault("not a text of bounded length")
    text = text.strip()
    wrapped = text.startswith(_OPEN)
    if wrapped:
        text = text.removeprefix(_OPEN).partition(_CLOSE)[0].strip()
    if text.startswith("{"):
        return _from_json(text, tools)
    # The mark promises JSON: other spellings of a call between it would be read as words of a text.
    return Fault("broken JSON") if wrapped else _from_words(text.split(), tools)


def _from_json(text: str, tools: Mapping[str, Tool]) -> Call | Fault:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return Fault("broken JSON")
    return from_object(data, tools)


def from_object(data: Mapping[str, Any], tools: Mapping[str, Tool]) -> Call | Fault:
    """The call that an object ``{"name": ..., "arguments": {...}}`` means."""
    name, arguments = data.get("name"), data.get("arguments")
    if not isinstance(name, str) or name not in tools:
        return Fault("unknown call")
    if not isinstance(arguments, dict) or set(arguments) != set(tools[name].parameters):
        return Fault("wrong arguments")
    return typed(tools[name], arguments)


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
    if names and surplus > 0 and tool.parameters[names[0]]["type"] == "string":
        # The first text takes what is too much: a task may have several words.
        values = [" ".join(values[: surplus + 1]), *values[surplus + 1 :]]
    if len(values) != len(names):
        return Fault("wrong arguments")
    return typed(tool, dict(zip(names, values, strict=True)))


def typed(tool: Tool, arguments: Mapping[str, Any]) -> Call | Fault:
    """A call with each argument in the type that the tool's schema asks for, or why one does not fit."""
    fitting: dict[str, Any] = {}
    for name, schema in tool.parameters.items():
        value = _value(arguments[name], schema)
        if value is None:
            return Fault(f"wrong {name}")
        fitting[name] = value
    return Call(tool.name, fitting)


def _value(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value in the schema's type, or None if it does not fit."""
    kind = schema["type"]
    if kind == "string":
        fits = isinstance(value, str) and value != "" and ("enum" not in schema or value in schema["enum"])
        return value if fits else None
    if isinstance(value, str):
        value = _from_text(value, kind)
    if kind == "integer":
        return value if type(value) is int and abs(value) < 10**_MAX_DIGITS else None
    if kind == "number":
        return float(value) if type(value) in (int, float) and abs(value) < 10**_MAX_DIGITS else None
    return value if type(value) is bool else None


def _from_text(text: str, kind: str) -> Any:
    if kind == "boolean":
        return {"true": True, "false": False}.get(text)
    try:
        return (int if kind == "integer" else float)(text[: _MAX_DIGITS + 3])
    except ValueError:
        return None


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
    if len(free) > 1:
        return Fault(f"parameter {free[1]!r} without a value: write {free[1]}=VALUE after its name")
    if value is None and free:
        return Call(tool.name, {})
    return typed(tool, given | dict.fromkeys(free, value))
