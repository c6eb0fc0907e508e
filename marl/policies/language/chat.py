"""Conversations as ids of a real model's tokenizer, in the form of its chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marl.policies.language.base import Request
from marl.policies.language.call_formats import CALL_MARKS, json_call
from marl.policies.language.chat_form import ChatForm
from marl.policies.language.spelling import Spelling
from marl.policies.language.tokenizer import CHAT_TEMPLATE


class ChatSpeller:
    """Spells conversations so that ids only ever grow; what is said never becomes a control token.

    Args:
        tokenizer: of ``transformers``, with a chat template.
        source: of the tokenizer, for messages.
        options: further variables of the template.

    Raises:
        UserError: the template loses what is said.
    """

    def __init__(self, tokenizer: Any, source: Path, options: Mapping[str, Any] | None = None):
        self._tokenizer, self._options = tokenizer, dict(options or {})
        self._spelling = Spelling(tokenizer, tokenizer.chat_template)
        self._id = {text: number for number, text in self._spelling.marks.items()}
        # What this package saves speaks the world's own words, which name no tools.
        own = tokenizer.chat_template == CHAT_TEMPLATE
        #: How the template takes conversations.
        self.form = ChatForm(self._render, self._id, str(source), writes_tools=not own)
        written = self.form.call_text("call", {"of": "one"}) or ""
        self._kept = frozenset(mark for mark in self._id if mark in CALL_MARKS or mark in written)
        #: Ids of the marks by which the template ends a turn of words and a call.
        self.ends = [self._id[end] for end in (self.form.end, self.form.call_end) if end in self._id]

    def text(self, ids: Sequence[int]) -> str:
        """What ids say; of the marks those are left in that belong to thoughts and calls."""
        return self._spelling.text(ids, self._kept)

    def said(self, text: str) -> tuple[list[int], int | None]:
        """The ids of a turn that somebody has written, and the mark that ends it, if the template has one.

        A call in JSON is written as the template writes calls.
        """
        call = json_call(text)
        written = None if call is None else self.form.call_text(call[0], self._spelling.hidden(call[1]))
        ids = self._spelling.ids(self._spelling.hidden(text) if written is None else written)
        return list(ids), self._id.get(self.form.end if written is None else self.form.call_end)

    def hear(self, request: Request) -> None:
        """Bring a transcript up to date: what is new is spelt as the chat template spells it, nothing is made anew."""
        transcript, messages = request.transcript, request.turn.messages
        new = [self._spelling.hidden(message) for message in messages[transcript.read :]]
        if transcript.read == 0:
            text = self.form.opening(new, self._spelling.hidden(list(request.turn.tools)))
        else:
            following = self.form.following(new)
            mark = self._spelling.marks.get(transcript.ids[-1]) if transcript.ids else None
            ended = mark is not None and following.text[: following.marked].strip() == mark
            text = following.text[following.marked if ended else 0 :]
        transcript.hear(self._spelling.ids(text))
        transcript.read = len(messages) + 1

    def _render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], prompt: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            messages, tools=tools or None, add_generation_prompt=prompt, tokenize=False, **self._options
        )
        return text
