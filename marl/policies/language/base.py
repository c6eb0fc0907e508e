"""What the platform asks of anything that talks: a tiny model, a real one, a server, a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from marl.envs.chat import Turn


class Span(NamedTuple):
    """One turn's own tokens in a transcript: from ``start`` to ``end``, exclusive; the end mark is among them."""

    start: int
    end: int


@dataclass
class Transcript:
    """A conversation as a policy has read and written it: token ids are stored when sampled, never made anew.

    ids: of everything so far; each prompt extends those before it. log_probs: of the policy's own tokens when they were
    sampled, 0 for all others. spans: the policy's own turns. read: messages of the conversation that are in ``ids``.
    cache: whatever a policy keeps to go on quickly; ``cached`` tokens are in it.
    """

    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    read: int = 0
    cache: Any = None
    cached: int = 0

    def hear(self, ids: Sequence[int]) -> None:
        """Append what others said."""
        self.ids += ids
        self.log_probs += [0.0] * len(ids)

    def say(self, ids: Sequence[int], log_probs: Sequence[float]) -> None:
        """Append a turn of the policy's own."""
        self.spans.append(Span(len(self.ids), len(self.ids) + len(ids)))
        self.ids += ids
        self.log_probs += log_probs


class Request(NamedTuple):
    """A turn that waits for a text. key: decides all sampling in it."""

    turn: Turn
    transcript: Transcript
    key: int


class LanguagePolicy(Protocol):
    """Says something in many conversations at once."""

    #: Whether its transcripts hold token ids and log-probabilities that it can learn from.
    trainable: bool

    def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
        """The text of each turn; transcripts are brought up to date. None where no answer came: the episode is lost."""

    def forget(self) -> None:
        """The weights have changed: nothing that was cached holds any longer."""


@runtime_checkable
class Speller(Protocol):
    """Puts into ids what somebody else has said, so that a model can be shown how to speak."""

    def hear(self, request: Request) -> None:
        """Bring the transcript of a request up to date with its messages."""

    def said(self, text: str) -> list[int]:
        """The ids of a turn that says ``text``, its end mark included."""


@runtime_checkable
class TokenModel(Protocol):
    """A model that can score given tokens, for learning."""

    @property
    def packs(self) -> bool:
        """Whether it scores trees of sequences; else one sequence a row, with padding behind it."""

    @property
    def pretrained(self) -> bool:
        """Whether its weights come from elsewhere."""

    def parameters_of(self, role: str) -> list[torch.nn.Parameter]:
        """The parameters that learn from the role's tokens."""

    def state_of(self, role: str) -> dict[str, Tensor]:
        """Those parameters by name."""

    def load_state_of(self, role: str, state: Mapping[str, Tensor]) -> None:
        """Put ``state`` back."""

    def logits_at(self, role: str, token: Tensor, position: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        """Next-token logits ``[M, vocabulary]`` at the flat places ``at`` (int64 ``[M]``) of ``[B, L]`` tokens.

        Args:
            token, position: int64 ``[B, L]``.
            mask: bool ``[B, L, L]``, what each token sees.
        """
