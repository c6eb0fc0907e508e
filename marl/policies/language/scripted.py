"""A policy that follows a script, such as a world's demonstrator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from marl.envs.chat import Turn
from marl.policies.language.base import Request
from marl.policies.language.tokenizer import ChatTokenizer


class ScriptedPolicy:
    """Says what ``speak(turn, key)`` says.

    tokenizer: if given, transcripts hold the ids of everything said, as demonstrations for a model.
    """

    trainable = False

    def __init__(self, speak: Callable[[Turn, int], str], tokenizer: ChatTokenizer | None = None):
        self._speak, self._tokenizer = speak, tokenizer

    def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
        return [self._say(request) for request in requests]

    def forget(self) -> None:
        """Nothing is cached."""

    def _say(self, request: Request) -> str:
        text = self._speak(request.turn, request.key)
        if self._tokenizer is not None:
            transcript, messages = request.transcript, request.turn.messages
            transcript.hear(self._tokenizer.prompt(messages[transcript.read :]))
            said = self._tokenizer.said(text)
            transcript.say(said, [0.0] * len(said))
            # The world repeats what was said as a message: it is in the ids already.
            transcript.read = len(messages) + 1
        return text
