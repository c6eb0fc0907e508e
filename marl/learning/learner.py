"""The mechanics of gradient learning that every system shares: minibatches, accumulation, clipped steps, schedules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class ClippedAdam:
    """Adam (eps 1e-5) with a clipped gradient norm and a learning rate that can fall linearly to zero."""

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, max_norm: float, anneal: bool = False):
        self._parameters = list(parameters)
        self._rate, self._max_norm, self._anneal = learning_rate, max_norm, anneal
        self.adam = torch.optim.Adam(self._parameters, lr=learning_rate, eps=1e-5)

    def schedule(self, fraction: float) -> None:
        """Set the rate for a run of which ``fraction`` in [0, 1] is done."""
        for group in self.adam.param_groups:
            group["lr"] = self._rate * (1.0 - fraction) if self._anneal else self._rate

    def zero(self) -> None:
        self.adam.zero_grad(set_to_none=True)

    def step(self) -> Tensor:
        """Apply the accumulated gradient; returns its norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        self.adam.step()
        return norm

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Moments and counts by parameter number, as tensors."""
        return {
            str(i): dict(self.adam.state[parameter].items())
            for i, parameter in enumerate(self._parameters)
            if parameter in self.adam.state
        }

    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        for i, parameter in enumerate(self._parameters):
            if str(i) in state:
                self.adam.state[parameter] = {
                    name: value.clone() if name == "step" else value.to(parameter.device).clone()
                    for name, value in state[str(i)].items()
                }


class OptimisedNetwork:
    """A network that learns by itself, with its optimiser: what a checkpoint holds of both. Subclasses make the two."""

    _network: nn.Module
    _adam: ClippedAdam

    def parameters(self) -> list[Tensor]:
        """Of the network."""
        return list(self._network.parameters())

    def state(self) -> dict[str, Any]:
        """Weights and moments, as a tree of tensors."""
        return {"network": dict(self._network.state_dict()), "adam": self._adam.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._network.load_state_dict(state["network"])
        self._adam.load_state(state["adam"])


def minibatches(rows: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """A random partition of ``rows`` row numbers into ``count`` parts of nearly equal size; none of them is empty."""
    order = torch.randperm(rows, generator=generator)
    yield from torch.tensor_split(order, max(1, min(count, rows)))


def micro_batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Consecutive pieces of at most ``size`` rows, for gradients that are accumulated: the same sum, less memory."""
    yield from torch.split(rows, max(size, 1))
