"""Terms that shape a loss besides the surrogate, and the mean that all of them are taken with."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``values`` where ``mask`` (bool, same shape), a scalar; 0 if the mask is empty.

    Entries outside the mask get a gradient of exactly 0 and may hold anything, NaN included.
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def entropy_bonus(entropy: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """What is added to a loss (to be minimised) so that the policy stays random: ``-coefficient * mean entropy``.

    entropy: ``[*]`` in nats, as a head's ``entropy()`` gives it. mask: bool ``[*]``, the agents that act.
    """
    return -coefficient * masked_mean(entropy, mask)
