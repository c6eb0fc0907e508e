"""Heads: distributions over one agent's actions, made from a network's output.

A head draws from uniforms that the caller supplies (``marl.seeding``), never from a global generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from marl.seeding import standard_normal

LOG_STD_RANGE = (-5.0, 2.0)


class Head(Protocol):
    """A distribution for every entry of ``[*]``. ``log_prob`` and ``entropy`` are float ``[*]``, in nats.

    noise_shape: shape ``S`` of the uniforms that one action takes, ``[*, S]`` in all.
    """

    @property
    def noise_shape(self) -> tuple[int, ...]: ...

    def sample(self, uniform: Tensor) -> Tensor:
        """Actions from uniforms in [0, 1), float32 ``[*, S]`` on the grid of 2**-24 that ``seeding.uniform`` gives."""

    def mode(self) -> Tensor:
        """The likeliest actions."""

    def log_prob(self, action: Tensor) -> Tensor: ...

    def entropy(self) -> Tensor: ...


class Categorical:
    """One of A actions: int64 ``[*]``.

    logits: float ``[*, A]``. mask: bool ``[*, A]``, True where legal; None if all are. An illegal action has exactly
    probability 0. A row without any legal action belongs to an agent that does not act; it is uniform, so it is finite.
    log_probs: ``[*, A]``, the scores of all actions; hugely negative, but finite, where illegal.
    """

    noise_shape: tuple[int, ...] = ()

    def __init__(self, logits: Tensor, mask: Tensor | None = None):
        if mask is not None:
            # Half the least number: the log-softmax subtracts from it, and -inf would make the entropy 0 * inf.
            logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min / 2)
        self.log_probs = torch.log_softmax(logits, dim=-1)

    def sample(self, uniform: Tensor) -> Tensor:
        """Inverts the distribution function: the first action whose cumulated probability exceeds ``uniform`` ``[*]``.

        An action of probability 0 does not raise the cumulated sum and so is never the first.
        """
        cumulated = self.log_probs.detach().exp().cumsum(dim=-1)
        # Rounding may leave the last sum short of 1; relative to it, every uniform below 1 finds an action.
        threshold = uniform.unsqueeze(-1) * cumulated[..., -1:]
        return (cumulated <= threshold).sum(dim=-1)

    def mode(self) -> Tensor:
        return self.log_probs.argmax(dim=-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(dim=-1)


class MultiCategorical:
    """K independent choices, of A_1, ..., A_K actions: int64 ``[*, K]``.

    logits, mask: ``[*, A_1 + ... + A_K]``, else as for ``Categorical``. sizes: A_1, ..., A_K.
    """

    def __init__(self, logits: Tensor, sizes: Sequence[int], mask: Tensor | None = None):
        masks = [None] * len(sizes) if mask is None else torch.split(mask, list(sizes), dim=-1)
        parts = zip(torch.split(logits, list(sizes), dim=-1), masks, strict=True)
        self.choices = [Categorical(part, legal) for part, legal in parts]

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (len(self.choices),)

    def sample(self, uniform: Tensor) -> Tensor:
        return torch.stack([choice.sample(uniform[..., k]) for k, choice in enumerate(self.choices)], dim=-1)

    def mode(self) -> Tensor:
        return torch.stack([choice.mode() for choice in self.choices], dim=-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return torch.stack([choice.log_prob(action[..., k]) for k, choice in enumerate(self.choices)]).sum(dim=0)

    def entropy(self) -> Tensor:
        return torch.stack([choice.entropy() for choice in self.choices]).sum(dim=0)


class Gaussian:
    """D independent normal numbers: float ``[*, D]``, unbounded; a world with bounds clips what it executes.

    mean: float ``[*, D]``, in the units of the action. log_std: float ``[D]``, or one for each of ``[*]``, kept in
    ``LOG_STD_RANGE``.
    scale: what a standard deviation of 1 is in those units, a number or ``[D]``.
    """

    def __init__(self, mean: Tensor, log_std: Tensor, scale: Tensor | float = 1.0):
        self.mean = mean
        self.std = (log_std.clamp(*LOG_STD_RANGE).exp() * scale).expand_as(mean)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.mean.shape[-1],)

    def sample(self, uniform: Tensor) -> Tensor:
        """Inverts the distribution function at the middle of the uniforms' grid cells: at most 5.3 deviations."""
        return (self.mean + self.std * standard_normal(uniform)).detach()

    def mode(self) -> Tensor:
        return self.mean.detach()

    def log_prob(self, action: Tensor) -> Tensor:
        error = (action - self.mean) / self.std
        return (-0.5 * error.square() - self.std.log() - 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)

    def entropy(self) -> Tensor:
        return (self.std.log() + 0.5 * math.log(2.0 * math.pi * math.e)).sum(dim=-1)
