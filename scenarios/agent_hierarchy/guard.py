"""The guard of calls: what it executes in the place of a text that is no legal call, and what it leaves alone.

It mends slips within a call that it can read: misspelt names in a call of plain words or of one JSON object. A text
that may hold a call in another form (marks of a model's family, code, lists, a tool's name in the middle of prose) is
never guessed at: ``calls.read`` has read it exactly, or it stays invalid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from marl.policies.language.call_formats import UnreadableError, marked, unthought
from scenarios.agent_hierarchy.calls import RELATION, Call, Fault, from_object, read, typed
from scenarios.agent_hierarchy.tasks import MAX_TEXT
from scenarios.agent_hierarchy.tools import Tool

_FENCE = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
#: Marks of a form that is not plain words.
_FORM = re.compile(r"[{}\[\]()<>`=|]")
#: What plain words may be decorated with.
_DECORATION = str.maketrans(dict.fromkeys("\"':,", " "))
_DECODER = json.JSONDecoder()


def guarded(text: Any, tools: Mapping[str, Tool], fallback: Call) -> Call | Fault:
    """What is executed in the place of a text that ``parse`` refused.

    Args:
        text: whatever an agent said.
        tools: those that its role has, by name.
        fallback: the call for a text that comes near no tool at all.

    Returns the call in the text, with misspelt names corrected and words too many dropped; ``fallback``; or a ``Fault``
    if the text may hold a call that cannot be told for sure.
    """
    if not isinstance(text, str):
        return fallback
    try:
        bare = unthought(text)
    except UnreadableError as fault:
        return Fault(str(fault))
    if len(bare) > MAX_TEXT:
        return Fault("not a text of bounded length")
    if marked(bare):
        found = read(text, tools)
        return found if isinstance(found, Fault) else Fault("a call in a form that is not known")
    fence = _FENCE.fullmatch(bare)
    bare = fence[1].strip() if fence else bare
    if _FORM.search(bare):
        return _in_json(bare, tools)
    return _in_words(bare.translate(_DECORATION).split(), tools, fallback)


def _in_json(text: str, tools: Mapping[str, Tool]) -> Call | Fault:
    """The one JSON object in a text as a call: read exactly, or mended where the object is all there is."""
    unknown = Fault("a call in a form that is not known")
    place = text.find("{")
    found = _object(text, place)
    if found is None:
        return unknown
    data, end = found
    around = f"{text[:place]} {text[end:]}"
    call = from_object(data, tools)
    if isinstance(call, Call) and "{" not in around:
        mentioned = set(re.findall(r"\w+", around)) & set(tools)
        return unknown if mentioned - {call.name} else call
    return _mended_object(data, tools) if not around.strip() else unknown


def _object(text: str, place: int) -> tuple[dict[str, Any], int] | None:
    """The JSON object that begins at a place, and where it ends. Brackets that are missing at the end are added."""
    if place < 0:
        return None
    for closed in (text, text + "}", text + "}}"):
        try:
            data, end = _DECODER.raw_decode(closed, place)
        except (ValueError, RecursionError):
            continue
        return data, end
    return None


def _mended_object(data: Mapping[str, Any], tools: Mapping[str, Tool]) -> Call | Fault:
    """A JSON call whose names are nearly right: of the tool, of its parameters, and of values to choose from."""
    name = _close(data.get("name"), tools)
    if name is None or not isinstance(data.get("arguments", {}), dict):
        return Fault("unknown call")
    tool = tools[name]
    arguments: dict[str, Any] = {}
    for key, value in data.get("arguments", {}).items():
        known = _close(key, tool.parameters)
        if known is None or known in arguments:
            return Fault("wrong arguments")
        allowed = tool.parameters[known].get("enum")
        arguments[known] = _close(value, allowed) if allowed else value
    return typed(tool, arguments)


def _close(word: Any, known: Iterable[str]) -> str | None:
    """The one of ``known`` that a word is, nearly."""
    return next(iter(get_close_matches(word, list(known), n=1, cutoff=0.7)), None) if isinstance(word, str) else None


def _in_words(words: list[str], tools: Mapping[str, Tool], fallback: Call) -> Call | Fault:
    """A call of plain words whose tool stands first, or second after a relation; ``fallback`` without any tool."""
    places = [place for place, word in enumerate(words) if _close(word, tools)]
    if not places:
        return fallback
    place = places[0]
    tool, rest = tools[_close(words[place], tools) or ""], words[place + 1 :]
    if place == 1 and next(iter(tool.parameters), "") == RELATION and len(words) == 1 + len(tool.parameters):
        rest = [words[0], *rest]
    elif place or any(word in tools for word in rest):
        return Fault("a call among other words")
    return _mended(tool, rest) or fallback


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
        arguments[free[0]] = " ".join(rest)
    else:
        arguments |= dict(zip(free, rest, strict=False))
    call = typed(tool, {name: arguments[name] for name in names if name in arguments}, bare=True)
    return call if isinstance(call, Call) else None
