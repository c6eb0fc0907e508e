"""How calls are written: compact (``ask e5 r1 north``, ``r1 cache e5``) or as JSON; both are read, whatever is written.

A lookup names its relation before its tool: which tool will do depends on the relation, and a small model learns a
choice that depends on the word just said far sooner than one that depends on a word of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

from scenarios.agent_hierarchy.tools import Tool

Grammar = Literal["compact", "json"]

MAX_TEXT = 4096
_MAX_DIGITS = 9
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_NO_MARKS = str.maketrans(dict.fromkeys("\"'{}[]():,", " "))


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
    if text.startswith(_OPEN):
        text = text.removeprefix(_OPEN).partition(_CLOSE)[0].strip()
    return _from_json(text, tools) if text.startswith("{") else _from_words(text.split(), tools)


def _from_json(text: str, tools: Mapping[str, Tool]) -> Call | Fault:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return Fault("broken JSON")
    name, arguments = data.get("name"), data.get("arguments")
    if not isinstance(name, str) or name not in tools:
        return Fault("unknown call")
    if not isinstance(arguments, dict) or set(arguments) != set(tools[name].parameters):
        return Fault("wrong arguments")
    return _typed(tools[name], arguments)


def _from_words(words: list[str], tools: Mapping[str, Tool]) -> Call | Fault:
    if len(words) > 1 and words[0] not in tools and words[1] in tools:
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
    return _typed(tool, dict(zip(names, values, strict=True)))


def _typed(tool: Tool, arguments: Mapping[str, Any]) -> Call | Fault:
    typed: dict[str, Any] = {}
    for name, schema in tool.parameters.items():
        value = _value(arguments[name], schema)
        if value is None:
            return Fault(f"wrong {name}")
        typed[name] = value
    return Call(tool.name, typed)


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
    if "relation" in call.arguments:
        words[:2] = words[1::-1]
    return " ".join(words)


def nearest_legal(text: Any, tools: Mapping[str, Tool], fallback: Call) -> Call:
    """The legal call that a faulty text comes closest to, or ``fallback`` if none of its first words names a tool.

    Misspelt tools and agents are corrected, words too many dropped; quotes and brackets count as spaces.
    """
    bare = text[:MAX_TEXT].translate(_NO_MARKS).split() if isinstance(text, str) else []
    for place, word in enumerate(bare[:8]):
        close = get_close_matches(word, list(tools), n=1, cutoff=0.7)
        if close:
            tool, rest = tools[close[0]], bare[place + 1 :]
            if place and len(rest) < len(tool.parameters):
                rest = [bare[place - 1], *rest]
            return _mended(tool, rest) or fallback
    return fallback


def _mended(tool: Tool, words: list[str]) -> Call | None:
    """A call of this tool from words that nearly fit it, or None."""
    names = list(tool.parameters)
    arguments: dict[str, Any] = {}
    rest = list(words)
    for name in names:
        allowed = tool.parameters[name].get("enum")
        if allowed:
            found = [(word, close[0]) for word in rest if (close := get_close_matches(word, allowed, n=1))]
            if not found:
                return None
            rest.remove(found[0][0])
            arguments[name] = found[0][1]
    free = [name for name in names if name not in arguments]
    if len(free) == 1:
        arguments[free[0]] = " ".join(rest[:3])
    else:
        arguments |= dict(zip(free, rest, strict=False))
    if set(arguments) != set(names):
        return None
    typed = _typed(tool, {name: arguments[name] for name in names})
    return typed if isinstance(typed, Call) else None
