"""Losses of a critic, per element, and the running normalisation of what it regresses on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: (value, target) -> per-element loss, all of one shape.
ValueLoss = Callable[[Tensor, Tensor], Tensor]


def squared(value: Tensor, target: Tensor) -> Tensor:
    """``e**2 / 2`` of the error e."""
    return 0.5 * (value - target).square()


def huber(delta: float) -> ValueLoss:
    """``e**2 / 2`` for errors up to ``delta`` (in units of the value), ``delta * (|e| - delta / 2)`` beyond."""

    def loss(value: Tensor, target: Tensor) -> Tensor:
        return nn.functional.huber_loss(value, target, reduction="none", delta=delta)

    return loss


def clipped(loss: ValueLoss, clip: float, value: Tensor, old_value: Tensor, target: Tensor) -> Tensor:
    """The worse of ``loss`` at the value and at the value kept within ``clip`` of ``old_value`` (units of the value).

    The counterpart of ``ppo_clip``: a critic that moved far from its old estimate gains nothing by moving on. Where the
    critic learns normalised targets, all three tensors have to be normalised.
    """
    kept = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(loss(value, target), loss(kept, target))


class ValueNorm(nn.Module):
    """Running mean and variance of returns, so that the critic regresses on numbers of order one.

    Exponential averages with the bias of their start removed (MAPPO, Yu et al., arXiv 2103.01955, section 5.1). The
    statistics are float64 buffers: they follow ``.to(device)`` and are in the ``state_dict``. Until the first update
    both directions are the identity.
    """

    mean: Tensor
    mean_square: Tensor
    weight: Tensor

    def __init__(self, beta: float = 0.99999, min_variance: float = 1e-2):
        super().__init__()
        self.beta, self.min_variance = beta, min_variance
        for name in ("mean", "mean_square", "weight"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, returns: Tensor, mask: Tensor | None = None) -> None:
        """Take in the returns ``[*]`` of a batch, those where ``mask`` (bool ``[*]``); once, before normalising."""
        values = returns.to(torch.float64)
        mask = torch.ones_like(returns, dtype=torch.bool) if mask is None else mask
        count = mask.sum()
        values = torch.where(mask, values, 0.0)
        rate = (count > 0).to(torch.float64) * (1.0 - self.beta)
        count = count.clamp(min=1)
        self.mean.lerp_(values.sum() / count, rate)
        self.mean_square.lerp_(values.square().sum() / count, rate)
        self.weight.lerp_(torch.ones_like(self.weight), rate)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, float64 scalars; 0 and 1 before the first update."""
        weight = torch.where(self.weight > 0, self.weight, 1.0)
        mean = self.mean / weight
        variance = (self.mean_square / weight - mean.square()).clamp(min=self.min_variance)
        return mean, torch.where(self.weight > 0, variance, 1.0).sqrt()

    def normalize(self, value: Tensor) -> Tensor:
        """Raw units to normalised ones, in the dtype of ``value``."""
        mean, deviation = self.statistics()
        return (value - mean.to(value.dtype)) / deviation.to(value.dtype)

    def denormalize(self, value: Tensor) -> Tensor:
        """Normalised units, as the critic puts them out, to raw ones, in the dtype of ``value``."""
        mean, deviation = self.statistics()
        return value * deviation.to(value.dtype) + mean.to(value.dtype)
