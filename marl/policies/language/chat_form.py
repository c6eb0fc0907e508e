"""How a chat template spells a conversation, found out by trying, so that ids only ever grow.

Templates differ in what they have a place for: a system role, tools, calls as structures, results. What one has no
place for is written into the prompt, or comes as a user's turn. Of a conversation that goes on only what follows the
model's own turn is spelt, after a turn of the same kind that stands for it: whatever a template does to earlier turns,
what was said stays as it was. Every choice is checked by what comes out: nothing gets lost on the way to a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

from marl.envs.chat import Message
from marl.errors import UserError

#: (messages, JSON schemas of tools, whether the model speaks next) -> text, or whatever a template raises.
Render = Callable[[list[dict[str, Any]], list[dict[str, Any]], bool], str]

#: What stands for a text while a template is tried: words that no template holds.
_SYSTEM, _USER, _SAID, _HEARD, _MORE = (f"qz{word}qz" for word in ("system", "user", "said", "heard", "more"))
_TOOL, _PARAMETER = "qztool", "qzparameter"
_SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": _TOOL,
        "description": "Try.",
        "parameters": {
            "type": "object",
            "properties": {_PARAMETER: {"type": "string", "description": "what"}},
            "required": [_PARAMETER],
        },
    },
}
_HOW = 'To call one, say one JSON object and nothing else: {"name": NAME, "arguments": {PARAMETER: VALUE, ...}}'
#: What is to be done about a template that cannot be used.
_MEND = "name another one by algorithm.policy.template=FILE.jinja, or 'plain'"


class Style(NamedTuple):
    """What a template has a place for. parts: contents are lists of parts. system, tools: as such. calls: a call is a
    structure whose arguments are an object or a text, or it is the text that was said. results: as turns of a tool."""

    parts: bool
    system: bool
    tools: bool
    calls: Literal["object", "string", "text"] = "text"
    results: bool = False


class Following(NamedTuple):
    """What follows a model's own turn. text: from the mark on that ends it. marked: the length of that mark in it, with
    blanks before it."""

    text: str
    marked: int


class ChatForm:
    """The form in which one template takes conversations.

    Args:
        render: the template.
        marks: texts of the tokenizer's control tokens.
        source: of the template, for messages.
        writes_tools: tools that the template does not show are written into the prompt.

    Raises:
        UserError: not even a user's question and its answer can be spelt by it.
    """

    def __init__(self, render: Render, marks: Iterable[str], source: str, writes_tools: bool = True):
        self._render, self._writes_tools = render, writes_tools
        known = sorted(filter(None, marks), key=len, reverse=True)
        self._mark = re.compile("|".join(map(re.escape, known)) or r"(?!)")
        self.style = self._opening_style(source)
        #: The mark that ends a turn of words, and the one that ends a call; empty: the template puts none.
        self.end = self.call_end = self._end_of_text(source)
        self._choose_calls(source)
        #: What the template has no place for, and where it goes instead: to be said once.
        self.notes = tuple(self._said_once())

    # Spelling

    def opening(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str:
        """A conversation up to the model's next turn."""
        shown = list(tools) if self.style.tools else []
        written = () if self.style.tools or not self._writes_tools else tools
        return self._render(self._mapped(messages, written), shown, True)

    def following(self, messages: Sequence[Message]) -> Following:
        """What follows the model's own turn: new messages, and what comes before its next turn."""
        answered = [message for message in messages if "tool_call_id" in message] if self._structures else []
        if not answered:
            return self._after([_assistant(_SAID)], messages, self.end)
        calls = [_call(message["name"], _SAID, message["tool_call_id"]) for message in answered]
        try:
            return self._after([{"role": "assistant", "content": "", "tool_calls": calls}], messages, self.call_end)
        except UserError:
            # Many templates know one call a turn only.
            return self._after([{"role": "assistant", "content": "", "tool_calls": calls[:1]}], messages, self.call_end)

    def call_text(self, name: str, arguments: dict[str, Any]) -> str | None:
        """A call as the template writes it in the model's turn, without the end mark; None if it writes none."""
        if not (self._structures and self.style.tools):
            return None
        asked: Message = _user(_USER)
        said: Message = {"role": "assistant", "content": "", "tool_calls": [_call(name, arguments, "1")]}
        begun = self._tried([asked], True)
        whole = self._tried([asked, said], False)
        if begun is None or whole is None:
            return None
        common = next((n for n, (a, b) in enumerate(zip(begun, whole, strict=False)) if a != b), len(begun))
        if begun[common:].strip():
            return None
        text = whole[common:]
        return (text.rpartition(self.call_end)[0] if self.call_end in text else text).rstrip()

    @property
    def _structures(self) -> bool:
        return self.style.calls != "text"

    def _after(self, own: list[Message], messages: Sequence[Message], end: str) -> Following:
        text = self._tried([_user(_USER), *own, *messages], True)
        rest = "" if text is None else text[text.rfind(_SAID) + len(_SAID) :]
        place = rest.find(end) if self._calls_in(own) else 0
        if text is None or _SAID not in text or place < 0:
            raise UserError(f"the model's chat template does not spell {messages[-1]['role']} turns: {_MEND}")
        rest = rest[place:]
        blank = len(rest) - len(rest.lstrip())
        return Following(rest, blank + len(end) if end and rest[blank:].startswith(end) else 0)

    def _calls_in(self, own: list[Message]) -> bool:
        return any("tool_calls" in message for message in own)

    # Messages as the template takes them

    def _mapped(self, messages: Sequence[Message], written: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """Messages in the style of the template. written: tools that go into the prompt as text."""
        style, system = self.style, [listed(written)] if written else []
        result: list[dict[str, Any]] = []
        for message in messages:
            role, content = message["role"], message["content"]
            if role == "system":
                system.insert(0, content)
            elif role == "assistant" and "tool_calls" in message and self._structures:
                calls = [self._spelt(call) for call in message["tool_calls"]]
                result.append({"role": role, "content": self._content(""), "tool_calls": calls})
            elif role == "tool" and style.results and ("tool_call_id" in message or not self._structures):
                turn = {"role": role, "content": self._content(content)}
                if "tool_call_id" in message:
                    turn |= {"tool_call_id": _identity(message["tool_call_id"]), "name": message["name"]}
                result.append(turn)
            elif role == "assistant":
                result.append({"role": role, "content": self._content(content)})
            else:
                told = f"Result of {message['name']}: {content}" if "tool_call_id" in message else content
                if result and result[-1]["role"] == "user":  # users and models must take turns in many templates
                    told = f"{self._text(result.pop())}\n{told}"
                result.append({"role": "user", "content": self._content(told)})
        if system and style.system:
            return [{"role": "system", "content": self._content("\n\n".join(system))}, *result]
        if system:
            first = next((m for m in result if m["role"] == "user"), None)
            if first is None:
                return [{"role": "user", "content": self._content("\n\n".join(system))}, *result]
            first["content"] = self._content("\n\n".join([*system, self._text(first)]))
        return result

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self.style.parts else text

    def _text(self, message: dict[str, Any]) -> str:
        content = message["content"]
        return str(content[0]["text"]) if self.style.parts else str(content)

    def _spelt(self, call: dict[str, Any]) -> dict[str, Any]:
        arguments = call["function"]["arguments"]
        if self.style.calls == "string":
            arguments = json.dumps(arguments)
        function = {"name": call["function"]["name"], "arguments": arguments}
        return {"id": _identity(call["id"]), "type": "function", "function": function}

    # Finding out

    def _tried(self, messages: Sequence[Message], speaks: bool, tools: Sequence[dict[str, Any]] = ()) -> str | None:
        """What the template makes of messages, or None if it refuses them."""
        try:
            return self._render(self._mapped(messages), list(tools), speaks)
        except Exception:  # a template is somebody else's program: it raises whatever it likes
            return None

    def _opening_style(self, source: str) -> Style:
        asked: list[Message] = [{"role": "system", "content": _SYSTEM}, _user(_USER)]
        for tools, system, parts in product((True, False), (True, False), (False, True)):
            self.style = Style(parts, system, tools)
            text = self._tried(asked, True, [_SCHEMA] if tools else [])
            if text is not None and _in_order(text, _SYSTEM, _USER) and (not tools or _shows_tool(text)):
                return self.style
        raise UserError(f"the chat template of {source} loses what a user says: {_MEND}")

    def _end_of_text(self, source: str) -> str:
        text = self._tried([_user(_USER), _assistant(_SAID), _user(_MORE)], True)
        if text is None or not _in_order(text, _USER, _SAID, _MORE):
            raise UserError(f"the chat template of {source} loses what is said after a model's first turn: {_MEND}")
        mark = self._mark.match(text[text.rfind(_SAID) + len(_SAID) :].lstrip())
        return mark[0] if mark else ""

    def _choose_calls(self, source: str) -> None:
        """How calls and their results are spelt: as structures, as turns of a tool, or as turns of the user."""
        plain = self.style
        tried: tuple[tuple[Literal["object", "string", "text"], bool], ...]
        tried = (("object", True), ("string", True), ("text", True), ("text", False))
        for calls, results in tried:
            self.style = plain._replace(calls=calls, results=results)
            heard = [_heard(_HEARD, "1")]
            if self._structures:
                found = self._end_of_call(heard)
                if found is None:
                    continue
                self.call_end = found
            elif results and not (self._loses_nothing(heard) and self._knows_tools()):
                continue
            if self._loses_nothing([*heard, _heard(_MORE, "2")]) and self._loses_nothing([_user(_HEARD)]):
                return
        raise UserError(f"the chat template of {source} loses the results of tools: {_MEND}")

    def _knows_tools(self) -> bool:
        """Whether turns of a tool have a form of their own, rather than that of any role somebody makes up."""
        texts = []
        for role in ("tool", _MORE):
            turn = {"role": role, "content": self._content(_HEARD)}
            try:
                texts.append(self._render([*self._mapped([_user(_USER), _assistant(_SAID)]), turn], [], True))
            except Exception:  # as in _tried
                texts.append("")
        known, made_up = texts
        made_up = re.sub(_MORE, "tool", made_up, flags=re.IGNORECASE)
        return made_up.lower() != known.lower() or any("tool" in mark for mark in self._mark.findall(known))

    def _loses_nothing(self, messages: list[Message]) -> bool:
        try:
            found = self.following(messages)
        except UserError:
            return False
        return _in_order(found.text, *(message["content"] for message in messages))

    def _end_of_call(self, heard: list[Message]) -> str | None:
        """The mark that ends a turn with a call, or None if calls and their results do not come out whole."""
        one: Message = {"role": "assistant", "content": "", "tool_calls": [_call(_TOOL, _SAID, "1")]}
        text = self._tried([_user(_USER), one, *heard], True)
        if text is None or not _in_order(text, _USER, _TOOL, _SAID, _HEARD):
            return None
        own = text[text.rfind(_SAID) + len(_SAID) : text.rfind(_HEARD)]
        if self.end and self.end in own:
            return self.end
        two = self._tried([_user(_USER), {**one, "tool_calls": [*one["tool_calls"], _call(_TOOL, _MORE, "2")]}], False)
        closing = "" if two is None or not _in_order(two, _SAID, _MORE) else two[two.find(_SAID) + len(_SAID) :]
        units, others = self._units(own), self._units(closing)
        common = next((n for n, (a, b) in enumerate(zip(units, others, strict=False)) if a != b), 0)
        return next((unit for unit in units[common:] if self._mark.fullmatch(unit)), None)

    def _units(self, text: str) -> list[str]:
        """A text as marks and single characters."""
        return re.findall(f"{self._mark.pattern}|.", text, re.DOTALL)

    def _said_once(self) -> Iterable[str]:
        style = self.style
        if not style.system:
            yield "it has no system role: instructions stand at the top of the first question"
        if not style.tools and self._writes_tools:
            yield "it shows no tools: they are written into the prompt, to be called as JSON"
        if not style.results:
            yield "it has no turns of tools: their results come as turns of the user"
        if self._rewrites():
            yield "it rewrites earlier turns: here they stay as they were said"

    def _rewrites(self) -> bool:
        """Whether the template spells a conversation otherwise once it has gone on."""
        said = self.call_text(_TOOL, {_PARAMETER: _SAID})
        own: Message = _assistant(_SAID)
        heard = _user(_HEARD)
        if said is not None:
            own["tool_calls"], heard = [_call(_TOOL, _SAID, "1")], _heard(_HEARD, "1")
        begun = self._tried([_user(_USER)], True)
        whole = self._tried([_user(_USER), own, heard], True)
        if begun is None or whole is None:
            return True
        rest = self.following([heard]).text
        between = whole[len(begun) : len(whole) - len(rest)]
        return whole != begun + between + rest or between.strip() != (said or _SAID).strip()


def _call(name: str, argument: Any, identity: str) -> dict[str, Any]:
    arguments = argument if isinstance(argument, dict) else {_PARAMETER: argument}
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def _heard(text: str, identity: str) -> Message:
    return {"role": "tool", "content": text, "tool_call_id": identity, "name": _TOOL}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _identity(name: Any) -> str:
    """Nine letters and digits: some templates take no other names of calls."""
    return f"call{re.sub('[^0-9a-zA-Z]', '', str(name))[-5:]:0>5}"


def _in_order(text: str, *words: str) -> bool:
    place = 0
    for word in words:
        place = text.find(word, place)
        if place < 0:
            return False
    return True


def _shows_tool(text: str) -> bool:
    return _TOOL in text and _PARAMETER in text


def listed(tools: Sequence[dict[str, Any]]) -> str:
    """Tools as a text of the prompt."""
    lines = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    return "\n".join(["You may call these tools:", *lines, _HOW])
