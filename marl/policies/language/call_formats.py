"""Calls as models write them: thoughts left aside, and the forms of many families read into names and arguments.

A form is known by its marks. A text with marks is read by them alone and whole: one call that is broken makes a text of
no calls at all, and marks of two forms are refused, so that nothing is ever taken for another call than was meant.
Without marks there may be JSON: all there is, or one object in the middle of words that name no other tool.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple


class Written(NamedTuple):
    """A call as it was written. bare: its values are texts without a type, to be read as the tool's schema says."""

    name: str
    arguments: dict[str, Any]
    bare: bool = False


class UnreadableError(Exception):
    """Why a text that seems to hold calls cannot be read, in a few words that an agent gets to read."""


#: Marks between which models think.
_THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)
#: What calls begin with.
_MAY_CALL = re.compile(r"[{\[<]")
_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: _unique(pairs))
_NAME = r"[\w.:-]+"


def unthought(text: str) -> str:
    """A text without its thoughts; the begin of the first one may have been in the prompt.

    Raises:
        UnreadableError: a thought has no end, or stands in the middle of what may be a call.
    """
    if "<|channel|>" in text:
        text = text.replace("<|start|>assistant", "")
    for begin, end in _THOUGHTS:
        first = text.find(begin)
        if end in text and end != "<|end|>" and not 0 <= first < text.find(end):
            text = text.partition(end)[2]
        while (place := text.find(begin)) >= 0:
            close = text.find(end, place + len(begin))
            if close < 0:
                raise UnreadableError("a thought without an end")
            if _MAY_CALL.search(text, 0, place):
                raise UnreadableError("a thought in the middle of a call")
            text = text[:place] + text[close + len(end) :]
    return text.strip()


def written_calls(text: str, names: Collection[str]) -> list[Written]:
    """The calls of a text, in order; none if it holds nothing that looks like one.

    Args:
        text: without thoughts.
        names: of tools: JSON among words is a call only of one of these.

    Raises:
        UnreadableError: there are calls in it that cannot be told for sure.
    """
    found = [form for form in FORMS if form.marks.search(text)]
    if not found and _FUNCTIONS.marks.search(text):
        found = [_FUNCTIONS]
    if len(found) > 1:
        raise UnreadableError("calls in two forms")
    return list(found[0].read(text)) if found else _unmarked(text, names)


def marked(text: str) -> bool:
    """Whether a text has the marks of a form."""
    return any(form.marks.search(text) for form in (*FORMS, _FUNCTIONS))


def json_call(text: str) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of a text that is one plain JSON call, else None."""
    if not text.startswith("{"):
        return None
    try:
        call = call_from_object(_whole_json(text))
    except UnreadableError:
        return None
    return call.name, call.arguments


# JSON


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _json_at(text: str, place: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError):
        raise UnreadableError("broken JSON") from None


def _whole_json(text: str) -> Any:
    data, end = _json_at(text, 0)
    if text[end:].strip():
        raise UnreadableError("broken JSON")
    return data


def call_from_object(data: Any) -> Written:
    """The call that an object means: of OpenAI, Hermes, Llama, Cohere and whoever writes alike."""
    if not isinstance(data, dict):
        raise UnreadableError("a call that is no JSON object")
    function = data.get("function")
    if isinstance(function, dict):
        return call_from_object(function)
    names = [data[key] for key in ("name", "tool_name", "function") if key in data]
    given = [data[key] for key in ("arguments", "parameters", "args") if key in data]
    if len(names) != 1 or not isinstance(names[0], str):
        raise UnreadableError("a call without a name")
    arguments = given[0] if given else {}
    if isinstance(arguments, str):
        arguments = _whole_json(arguments.strip() or "{}")
    if len(given) > 1 or not isinstance(arguments, dict):
        raise UnreadableError("a call whose arguments are no JSON object")
    return Written(names[0], arguments)


def _from_json(text: str) -> Iterator[Written]:
    """Calls of a text that is one object, a list, or several objects one after the other."""
    place = 0
    while place < len(text):
        data, end = _json_at(text, place)
        data = data.get("tool_calls", data) if isinstance(data, dict) else data
        yield from map(call_from_object, data if isinstance(data, list) else [data])
        place = end + len(text[end:]) - len(text[end:].lstrip(" \t\r\n;,"))


# Python


def _from_python(text: str) -> Iterator[Written]:
    """Calls of ``[name(of="one"), ...]``, values being literals."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        for call in tree.elts if isinstance(tree, ast.List) else [tree]:
            if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
                raise UnreadableError("a call without names of its arguments")
            pairs = [(str(word.arg), ast.literal_eval(_literal(word.value))) for word in call.keywords]
            yield Written(ast.unparse(call.func), _unique(pairs))
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError):
        raise UnreadableError("a call in broken Python") from None


def _literal(node: ast.expr) -> ast.expr:
    """The same with the words of JSON for values of Python."""
    words = {"true": True, "false": False, "null": None}
    for child in ast.walk(node):
        for field, value in ast.iter_fields(child):
            if isinstance(value, ast.Name) and value.id in words:
                setattr(child, field, ast.Constant(words[value.id]))
            elif isinstance(value, list):
                value[:] = [
                    ast.Constant(words[item.id]) if isinstance(item, ast.Name) and item.id in words else item
                    for item in value
                ]
    return ast.Constant(words[node.id]) if isinstance(node, ast.Name) and node.id in words else node


# Marks


class Form(NamedTuple):
    """A form. marks: how it is told. read: its calls; raises ``UnreadableError``."""

    marks: re.Pattern[str]
    read: Callable[[str], Iterator[Written]]


def _blocks(text: str, block: str, marks: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """All blocks of a text; raises ``UnreadableError`` if there is none, or marks beside them."""
    found = list(re.finditer(block, text, re.DOTALL))
    if not found or marks.search(re.sub(block, "", text, flags=re.DOTALL)):
        raise UnreadableError("a call without an end")
    yield from found


def _form(marks: str, block: str, read: Callable[[re.Match[str]], Iterator[Written]]) -> Form:
    known = re.compile(marks)

    def calls(text: str) -> Iterator[Written]:
        for match in _blocks(text, block, known):
            yield from read(match)

    return Form(known, calls)


def _pairs(text: str, pair: str) -> dict[str, Any]:
    """Arguments that are marked one by one; raises ``UnreadableError`` if anything else is there."""
    found = re.findall(pair, text, re.DOTALL)
    if re.sub(pair, "", text, flags=re.DOTALL).strip():
        raise UnreadableError("broken arguments")
    try:
        return _unique(found)
    except ValueError:
        raise UnreadableError("an argument twice") from None


def _tagged(match: re.Match[str]) -> Iterator[Written]:
    """``<tool_call>`` with JSON (Hermes, Qwen), tags of functions (Qwen 3.5), or a name and tags of arguments (GLM)."""
    body = match[1].strip()
    if body.startswith(("{", "[")):
        yield from _from_json(body)
    elif body.startswith("<function="):
        yield from _FUNCTIONS.read(body)
    else:
        name, _, rest = body.partition("<arg_key>")
        pair = r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>"
        arguments = _pairs("<arg_key>" + rest if rest else "", pair)
        if not re.fullmatch(_NAME, name.strip()):
            raise UnreadableError("a call in a form that is not known")
        yield Written(name.strip(), {key.strip(): _line(value) for key, value in arguments.items()}, bare=True)


def _line(value: str) -> str:
    """A value without the line breaks that set it off from its tags."""
    return value.removeprefix("\n").removesuffix("\n")


def _function(match: re.Match[str]) -> Iterator[Written]:
    name, body = match[1], match[2]
    if body.strip().startswith("{"):
        data = _whole_json(body.strip())
        yield Written(name, data)
        return
    arguments = _pairs(body, r"<parameter=([^>\n]+)>(.*?)</parameter>")
    yield Written(name, {key: _line(value) for key, value in arguments.items()}, bare=True)


def _invoked(match: re.Match[str]) -> Iterator[Written]:
    pair = r"<(?:\w+:)?parameter\s+name=\"([^\"]+)\"[^>]*>(.*?)</(?:\w+:)?parameter>"
    yield Written(match[1], _pairs(match[2], pair), bare=True)


def _named(match: re.Match[str]) -> Iterator[Written]:
    """A name and a JSON object, in whatever marks."""
    data = _whole_json(match[2].strip().removesuffix("```"))
    if not isinstance(data, dict):
        raise UnreadableError("a call whose arguments are no JSON object")
    yield Written(match[1].removeprefix("functions."), data)


def _mistral(text: str) -> Iterator[Written]:
    """``[TOOL_CALLS]`` and a list, or names with ``[ARGS]``, each with its mark or one for all."""
    _, *parts = text.split("[TOOL_CALLS]")
    for part in parts:
        body = part.strip()
        if body.startswith(("[{", "{", "[ {")):
            yield from _from_json(body)
            continue
        found = re.match(rf"({_NAME})(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(\{{.*)", body, re.DOTALL)
        if found is None:
            raise UnreadableError("a call in a form that is not known")
        yield from _named(found)


def _gemma(match: re.Match[str]) -> Iterator[Written]:
    """``call:name{key:<|"|>text<|"|>,...}``: JSON with other quotation marks and bare keys."""
    texts: list[str] = []

    def keep(quoted: re.Match[str]) -> str:
        texts.append(json.dumps(quoted[1]))
        return f"\0{len(texts) - 1}\0"

    body = re.sub(r'<\|"\|>(.*?)<\|"\|>', keep, match[2], flags=re.DOTALL)
    body = re.sub(r"([{,]\s*)([\w.-]+)\s*:", lambda key: f"{key[1]}{json.dumps(key[2])}:", body)
    body = re.sub("\0(\\d+)\0", lambda place: texts[int(place[1])], body)
    data = _whole_json(body)
    if not isinstance(data, dict):
        raise UnreadableError("broken arguments")
    yield Written(match[1], data)


def _listed(match: re.Match[str]) -> Iterator[Written]:
    yield from _from_json(match[1].strip())


def _python_or_json(match: re.Match[str]) -> Iterator[Written]:
    body = match[1].strip()
    yield from _from_json(body) if body.startswith(("{", "[{")) else _from_python(body)


_FUNCTIONS = _form(r"</?function\b", r"<function=([^>\n]+)>(.*?)</function>", _function)
FORMS = (
    _form(r"</?tool_call>", r"<tool_call>(.*?)(?:</tool_call>|\Z)", _tagged),
    Form(re.compile(r"\[TOOL_CALLS\]|\[ARGS\]"), _mistral),
    _form(r"<\|tool_call_start\|>", r"<\|tool_call_start\|>(.*?)<\|tool_call_end\|>", _python_or_json),
    _form(r"<\|python_tag\|>", r"<\|python_tag\|>(.*)\Z", _python_or_json),
    _form(r"<\|tool_call>|<tool_call\|>", rf"<\|tool_call>\s*call:({_NAME})(\{{.*?)<tool_call\|>", _gemma),
    _form(r"<\|(?:START|END)_ACTION\|>", r"<\|START_ACTION\|>(.*?)<\|END_ACTION\|>", _listed),
    _form(r"<\|/?tool_call\|>", r"<\|tool_call\|>(.*?)(?:<\|/tool_call\|>|\Z)", _listed),
    _form(r"</?TOOLCALL>", r"<TOOLCALL>(.*?)</TOOLCALL>", _listed),
    _form(
        r"<\uff5ctool▁call▁(?:begin|end)\uff5c>",
        rf"<\uff5ctool▁call▁begin\uff5c>(?:function<\uff5ctool▁sep\uff5c>)?({_NAME})(?:<\uff5ctool▁sep\uff5c>|\s*```json)\s*"
        r"(\{.*?)<\uff5ctool▁call▁end\uff5c>",
        _named,
    ),
    _form(
        r"<\|tool_call_(?:begin|argument_begin)\|>",
        r"<\|tool_call_begin\|>\s*([\w.-]+)(?::\d+)?\s*<\|tool_call_argument_begin\|>(.*?)<\|tool_call_end\|>",
        _named,
    ),
    _form(
        r"\bto=functions\.",
        rf"to=functions\.({_NAME})(?:(?!to=functions\.)[^{{])*<\|message\|>(.*?)(?:<\|call\|>|\Z)",
        _named,
    ),
    _form(r"</?(?:\w+:)?invoke\b", r"<(?:\w+:)?invoke\s+name=\"([^\"]+)\"\s*>(.*?)</(?:\w+:)?invoke>", _invoked),
)
#: Control tokens that belong to calls and thoughts: readers need them.
CALL_MARKS = frozenset(
    """
    <think> </think> [THINK] [/THINK] <|START_THINKING|> <|END_THINKING|> <|channel> <channel|>
    <tool_call> </tool_call> <arg_key> </arg_key> <arg_value> </arg_value> <|python_tag|>
    [TOOL_CALLS] [ARGS] [CALL_ID] <|tool_call_start|> <|tool_call_end|> <|tool_call> <tool_call|> <|"|>
    <|channel|> <|message|> <|constrain|> <|start|> <|end|> <|call|> <|tool_call|> <|/tool_call|>
    <|START_ACTION|> <|END_ACTION|> <|tool_call_begin|> <|tool_call_argument_begin|>
    <\uff5ctool▁calls▁begin\uff5c> <\uff5ctool▁call▁begin\uff5c> <\uff5ctool▁sep\uff5c>
    <\uff5ctool▁call▁end\uff5c> <\uff5ctool▁calls▁end\uff5c>
    """.split()  # noqa: SIM905 - a table of marks, not a list of words
)


# No marks


def _unmarked(text: str, names: Collection[str]) -> list[Written]:
    fence = re.fullmatch(r"```\w*\n(.*?)```", text, re.DOTALL)
    text = fence[1].strip() if fence else text
    if text.startswith(("{", "[{", "[ {", "[\n")):
        whole = _whole_calls(text)
        if whole is not None:
            return whole
    called = re.match(rf"\[?\s*({_NAME})\(", text)
    if called and called[1] in names:
        return list(_from_python(text))
    return _among_words(text, names)


def _whole_calls(text: str) -> list[Written] | None:
    """The calls of a text that is JSON and nothing else; None if words follow it."""
    try:
        return list(_from_json(text))
    except UnreadableError:
        _, end = _json_at(text, 0)  # not even the first of them is whole
        if not text[end:].strip():
            raise
        return None


def _among_words(text: str, names: Collection[str]) -> list[Written]:
    """The one JSON call in the middle of words; raises ``UnreadableError`` if another tool is named beside it."""
    found: list[tuple[list[Written], int, int]] = []
    place = text.find("{")
    while place >= 0:
        try:
            data, end = _json_at(text, place)
            calls = [call_from_object(data)]
        except UnreadableError:
            place = text.find("{", place + 1)
            continue
        found.append((calls, place, end))
        place = text.find("{", end)
    found = [each for each in found if each[0][0].name in names]
    if not found:
        return []
    calls, begin, end = found[0]
    around = f"{text[:begin]} {text[end:]}"
    mentioned = set(re.findall(r"[\w-]+", around)) & set(names)
    if len(found) > 1 or "{" in around or mentioned - {calls[0].name}:
        raise UnreadableError("a call among words that may mean another one")
    return calls
