"""A policy that follows a script, such as a world's demonstrator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from marl.envs.chat import Turn
from marl.policies.language.base import Request, Speller


class ScriptedPolicy:
    """Says what ``speak(turn, key)`` says.

    speller: if given, transcripts hold the ids of everything said, as demonstrations for a model that spells so.
    """

    trainable = False

    def __init__(self, speak: Callable[[Turn, int], str], speller: Speller | None = None):
        self._speak, self._speller = speak, speller

    def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
        return [self._say(request) for request in requests]

    def forget(self) -> None:
        """Nothing is cached."""

    def _say(self, request: Request) -> str:
        text = self._speak(request.turn, request.key)
        if self._speller is not None:
            self._speller.hear(request)
            said = self._speller.said(text)
            request.transcript.say(said, [0.0] * len(said))
        return text
