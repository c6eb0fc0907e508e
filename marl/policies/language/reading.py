"""What a model said, read by its own declaration or by somebody's own parser, where there is one.

Both know a form better than any detection. What they find is written in the one form that every world reads; a text in
which they find nothing stays as it is, to be read by its marks (``call_formats``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from marl.errors import UserError
from marl.plugins import load_reference
from marl.policies.language.call_formats import UnreadableError, call_from_object


class Reader:
    """Reads turns of one model.

    Args:
        parser: ``module:function`` that takes a text and returns its calls, each an object with a name and arguments;
            an empty list where there are none. None: nobody's own.
        tokenizer: whose ``response_template`` declares the form of answers (``transformers`` 5.13); None: no such one.

    Raises:
        UserError: the parser cannot be loaded, or the declaration is broken.
    """

    def __init__(self, parser: str | None, tokenizer: Any = None):
        self._own: Any = None if parser is None else load_reference(parser, object)
        if parser is not None and not callable(self._own):
            raise UserError(f"parser '{parser}' is not a function")
        declared = getattr(tokenizer, "response_template", None) is not None and hasattr(tokenizer, "parse_response")
        self._tokenizer: Any = tokenizer if declared else None
        if declared:
            try:
                tokenizer.get_response_parser(prefix="")
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"the tokenizer declares the form of its answers by a response_template "
                    f"that cannot be read: {error}"
                ) from None

    def read(
        self, text: str, ids: Sequence[int] = (), prompt: Sequence[int] = (), tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """The same turn, its calls as ``<tool_call>`` with JSON and its thoughts as ``<think>``.

        Args:
            text: what was said.
            ids: of the same, for a declaration that names control tokens.
            prompt: ids before it.
            tools: JSON schemas of the calls that could be made.

        Raises:
            UserError: somebody's own parser raises, or returns no calls.
        """
        if self._own is not None:
            return self._by_own(text)
        return text if self._tokenizer is None else self._by_declaration(text, ids, prompt, tools)

    def _by_own(self, text: str) -> str:
        name = getattr(self._own, "__name__", "parser")
        try:
            found = [call_from_object(call) for call in self._own(text)]
        except UnreadableError as fault:
            raise UserError(f"parser '{name}' returns {fault}") from None
        except Exception as error:
            raise UserError(f"parser '{name}' raised {type(error).__name__} for {text[:60]!r}: {error}") from None
        return "\n".join(spelt_call(call.name, call.arguments) for call in found) if found else text

    def _by_declaration(
        self, text: str, ids: Sequence[int], prompt: Sequence[int], tools: Sequence[Mapping[str, Any]]
    ) -> str:
        try:
            message = self._tokenizer.parse_response(list(ids), prefix=list(prompt), tools=list(tools))
            calls = [call_from_object(call) for call in message.get("tool_calls") or []]
        except Exception:  # of a text that is not as declared, or of a declaration that is broken
            return text
        if not calls:
            return text
        thought = message.get("reasoning_content") or message.get("thinking") or message.get("reasoning") or ""
        thought = f"<think>{thought}</think>" if thought else ""
        return thought + "\n".join(spelt_call(call.name, call.arguments) for call in calls)


def spelt_call(name: str, arguments: Any) -> str:
    """A call in the form that every world reads."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}</tool_call>"
