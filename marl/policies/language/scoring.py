"""Next-token logits of given tokens, by a model's own forward and its own head.

Layers that only attend take trees of sequences, whose shared beginnings are computed once: all that a tree needs is a
mask, and a layer with a window or with chunks gets its own. Layers that carry a state from token to token, such as
convolutions and state spaces, cannot, so a model that has any scores its sequences one by one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

#: Kinds of layers (``layer_types`` of a configuration) that look at other tokens by a mask alone.
_ATTENDING = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
#: Settings about windows and chunks whose meaning for a mask is known, or that concern no mask.
_KNOWN = frozenset(
    {"sliding_window", "use_sliding_window", "max_window_layers", "sliding_window_pattern", "attention_chunk_size"}
    | {"chunk_size_feed_forward"}
)


class Scorer:
    """Scores tokens by a causal language model of ``transformers``, in evaluation mode and with gradients.

    packs: whether it takes trees of sequences; may be set to False, which costs time and is always right.
    """

    def __init__(self, model: Any):
        self._model = model
        self._config = model.config.get_text_config()
        kinds = getattr(self._config, "layer_types", None)
        self._kinds: frozenset[str] = frozenset(kinds) if kinds else frozenset({self._only_kind()})
        self.packs = self._packable()

    @property
    def architecture(self) -> str:
        """The name of the model's class."""
        return type(self._model).__name__

    @property
    def window(self) -> int:
        """How far the layers with the widest window or chunk see; 0 if all see everything."""
        return max((self._reach(kind) for kind in self._kinds), default=0)

    @property
    def positions(self) -> int:
        """How many tokens a conversation may have."""
        return int(getattr(self._config, "max_position_embeddings", None) or sys.maxsize)

    def _only_kind(self) -> str:
        """The kind of all layers where the configuration names none (as ``create_masks_for_generate`` decides it)."""
        if getattr(self._config, "sliding_window", None) is not None:
            return "sliding_attention"
        chunked = getattr(self._config, "attention_chunk_size", None) is not None
        return "chunked_attention" if chunked else "full_attention"

    def _reach(self, kind: str) -> int:
        name = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}.get(kind, "")
        return int(getattr(self._config, name, None) or 0)

    def _packable(self) -> bool:
        settings = [name.lstrip("_") for name, value in self._config.to_dict().items() if value]
        unknown = [name for name in settings if ("window" in name or "chunk" in name) and name not in _KNOWN]
        return self._kinds <= _ATTENDING and not getattr(self._model, "_is_stateful", False) and not unknown

    def logits(self, token: Tensor, position: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        """Logits ``[M, vocabulary]`` at the flat places ``at`` (batch * L + place) of ``[B, L]`` tokens.

        Args:
            token: int64 ``[B, L]``.
            position: int64 ``[B, L]``, of each token in its sequence.
            mask: bool ``[B, L, L]``, the tokens that each one sees by its sequence alone, itself included.
            at: int64 ``[M]``.

        Raises:
            ValueError: several sequences in a row, of a model that takes one.
        """
        if self.packs:
            with self.head_at(at) as shaped:
                masks = self._masks(position, mask)
                out = self._model(input_ids=token, position_ids=position, attention_mask=masks, use_cache=False)
                logits: Tensor = shaped(out.logits)
                return logits
        order = torch.arange(token.shape[1], device=token.device)
        if bool(((position != order) & (position != 0)).any()):
            raise ValueError(f"{self.architecture} scores one sequence a row: its layers carry a state along")
        # Padding stands behind the tokens, where a causal model does not see it.
        with self.head_at(at) as shaped:
            alone: Tensor = shaped(self._model(input_ids=token, use_cache=False).logits)
            return alone

    @contextmanager
    def head_at(self, at: Tensor) -> Iterator[Any]:
        """Let the model's head see the flat places ``at`` alone, so that no logits of others take memory.

        What the model does to logits afterwards (soft caps, scales) stays as it is. Gives a function that brings its
        logits into the shape ``[M, vocabulary]``.
        """
        head = self._model.get_output_embeddings()
        picked: list[bool] = []

        def pick(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
            picked.append(True)
            return (given[0].reshape(-1, given[0].shape[-1])[at].unsqueeze(0), *given[1:])

        def shaped(logits: Tensor) -> Tensor:
            # A model that does not call its head as a module gives the logits of all places.
            return logits.squeeze(0) if picked else logits.reshape(-1, logits.shape[-1])[at]

        hook = None if head is None else head.register_forward_pre_hook(pick)
        try:
            yield shaped
        finally:
            if hook is not None:
                hook.remove()

    def _masks(self, position: Tensor, mask: Tensor) -> Tensor | dict[str, Tensor]:
        """What each kind of layer sees, additive ``[B, 1, L, L]``; one mask if all see the same."""
        dtype = self._model.get_input_embeddings().weight.dtype
        longest = int(position.max()) + 1
        near = {kind: reach for kind in self._kinds if 0 < (reach := self._reach(kind)) < longest}
        if not near:
            return _additive(mask, dtype)
        masks = {kind: _additive(mask & self._seen(kind, position), dtype) for kind in near}
        if len(self._kinds) == 1:
            return next(iter(masks.values()))
        rest = self._kinds - near.keys()
        return masks | dict.fromkeys(rest, _additive(mask, dtype)) if rest else masks

    def _seen(self, kind: str, position: Tensor) -> Tensor:
        """Which positions a kind of layer with a window or chunks looks at, bool ``[B, L, L]``."""
        here, there = position.unsqueeze(2), position.unsqueeze(1)
        reach = self._reach(kind)
        return here - there < reach if kind == "sliding_attention" else here // reach == there // reach


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    empty = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return empty.masked_fill_(~mask, torch.finfo(dtype).min).unsqueeze(1)
