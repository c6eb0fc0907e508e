"""Texts as ids of a real tokenizer; what is said can never become a control token.

The tokenizers of ``transformers`` read ``<|im_end|>`` in any text as the mark that ends a turn. A tool's result that
holds it, or a question, would end the turn and begin another. So the marks in what is said are hidden before a template
sees it, and spelt letter by letter afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

#: Characters of a plane that is for private use, one for each mark, stand for marks in what is said.
_HIDDEN = 0xF0000


class Spelling:
    """Spells for one tokenizer.

    Args:
        tokenizer: of ``transformers``, a fast one.
        template: a chat template; tokens that were added for it are marks too, such as ``<tool_call>``.
    """

    def __init__(self, tokenizer: Any, template: str):
        self._tokenizer = tokenizer
        added = {number: str(token.content) for number, token in tokenizer.added_tokens_decoder.items()}
        special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        #: id -> text of all control tokens.
        self.marks = {
            number: text
            for number, text in added.items()
            if text.strip() and (number in special or text.strip() in template)
        }
        known = sorted(set(self.marks.values()), key=len, reverse=True)
        self._known = known
        self._place = {text: number for number, text in enumerate(known)}
        self._mark = re.compile("|".join(map(re.escape, known)) or r"(?!)")
        self._cover = re.compile(f"([{chr(_HIDDEN)}-{chr(_HIDDEN + max(len(known) - 1, 0))}])")
        self.ids = lru_cache(maxsize=16_384)(self._ids)

    def hidden(self, said: Any) -> Any:
        """The same text, list or dictionary, with marks in its texts hidden."""
        if isinstance(said, str):
            return self._mark.sub(lambda match: chr(_HIDDEN + self._place[match[0]]), said)
        if isinstance(said, dict):
            return {self.hidden(key): self.hidden(value) for key, value in said.items()}
        return [self.hidden(value) for value in said] if isinstance(said, list | tuple) else said

    def _ids(self, text: str) -> tuple[int, ...]:
        """The ids of a text: its marks become control tokens, hidden ones do not."""
        ids: list[int] = []
        for part in self._cover.split(text):
            place = ord(part) - _HIDDEN if len(part) == 1 else -1
            ids += self._letters(self._known[place]) if 0 <= place < len(self._known) else self._plain(part)
        return tuple(ids)

    def _letters(self, text: str) -> list[int]:
        """A mark as the ids of its parts, none of which is one."""
        return [number for letter in text for number in self._plain(letter) if number not in self.marks]

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def text(self, ids: Sequence[int], kept: frozenset[str]) -> str:
        """What ids say; of the marks only those in ``kept`` are left in."""
        said = [number for number in ids if self.marks.get(number) is None or self.marks[number] in kept]
        return str(self._tokenizer.decode(said, skip_special_tokens=False)).strip()
