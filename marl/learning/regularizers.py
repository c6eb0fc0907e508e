"""The mean that all terms of a loss are taken with."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``values`` where ``mask`` (bool, same shape), a scalar; 0 if the mask is empty.

    Entries outside the mask get a gradient of exactly 0 and may hold anything, NaN included.
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
