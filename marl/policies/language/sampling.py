"""Sampling of tokens by counter."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from marl.seeding import uniform


def draw(log_prob: Tensor, keys: Tensor) -> Tensor:
    """A token per row, int64 ``[B]``, by inversion: each takes one random number of its own key.

    Args:
        log_prob: float ``[B, vocabulary]``.
        keys: int64 ``[B]``.
    """
    return invert(log_prob, uniform(keys))


def invert(log_prob: Tensor, drawn: Tensor) -> Tensor:
    """The token of each row that a number in [0, 1), float ``[B]``, falls on; int64 ``[B]``."""
    cumulative = log_prob.exp().cumsum(dim=-1)
    place = torch.searchsorted(cumulative, drawn.unsqueeze(1) * cumulative[:, -1:], right=True)
    return place.squeeze(1).clamp_(max=log_prob.shape[1] - 1)


def up_to(ids: list[int], ends: Collection[int]) -> int:
    """How many ids there are up to the first end mark, inclusive; all of them if there is none."""
    return next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
