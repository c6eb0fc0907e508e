"""Layers whose initial weights come from a given generator only, never from the global one.

They are created on the meta device, where torch's own initialisation draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["relu", "tanh"]


def activation_gain(activation: Activation) -> float:
    return nn.init.calculate_gain(activation)


def activation_layer(activation: Activation) -> nn.Module:
    return nn.ReLU(inplace=True) if activation == "relu" else nn.Tanh()


def linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with orthogonal weights (Saxe et al., arXiv 1312.6120) of that gain and zero bias."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def convolution(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Conv2d:
    """A 3x3 convolution of stride 2, initialised as ``linear``; a side of n cells becomes one of ceil(n / 2)."""
    layer = nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1, device="meta").to_empty(device="cpu")
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def mlp(
    inputs: int, hidden: Sequence[int], activation: Activation, layer_norm: bool, generator: torch.Generator
) -> nn.Sequential:
    """Fully connected layers, each followed by the activation and, if asked for, LayerNorm."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [
            linear(inputs, width, activation_gain(activation), generator),
            *after_linear(width, activation, layer_norm),
        ]
        inputs = width
    return nn.Sequential(*layers)


def after_linear(width: int, activation: Activation, layer_norm: bool) -> list[nn.Module]:
    """What follows a hidden linear layer of that width."""
    return [activation_layer(activation), *([nn.LayerNorm(width)] if layer_norm else [])]


class Memory(nn.Module):
    """A gated recurrent unit (Cho et al., arXiv 1406.1078) over features ``[*, F]`` with hidden state ``[*, H]``."""

    def __init__(self, inputs: int, size: int, layer_norm: bool, generator: torch.Generator):
        super().__init__()
        self.size = size
        self.cell = nn.GRUCell(inputs, size, device="meta").to_empty(device="cpu")
        for weight in (self.cell.weight_ih, self.cell.weight_hh):
            for gate in weight.detach().chunk(3):
                nn.init.orthogonal_(gate, generator=generator)
        nn.init.zeros_(self.cell.bias_ih)
        nn.init.zeros_(self.cell.bias_hh)
        self.norm = nn.LayerNorm(size) if layer_norm else nn.Identity()

    def forward(self, features: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """One step: features ``[*, F]``, hidden ``[*, H]`` (None: zeros) -> output and next hidden, ``[*, H]`` each."""
        hidden = self._advance(features, hidden)
        return self.norm(hidden), hidden

    def unroll(self, features: Tensor, hidden: Tensor | None, start: Tensor) -> tuple[Tensor, Tensor]:
        """T steps: features ``[T, *, F]``, hidden ``[*, H]`` (None: zeros) -> outputs ``[T, *, H]``, hidden ``[*, H]``.

        Args:
            start: bool ``[T, *]``, step t is the first of an episode or an agent: what was remembered before is
                dropped.
        """
        steps = []
        for t in range(features.shape[0]):
            if hidden is not None:
                hidden = hidden.masked_fill(start[t].unsqueeze(-1), 0.0)
            hidden = self._advance(features[t], hidden)
            steps.append(hidden)
        assert hidden is not None
        return self.norm(torch.stack(steps)), hidden

    def _advance(self, features: Tensor, hidden: Tensor | None) -> Tensor:
        rows = features.reshape(-1, features.shape[-1])
        before = None if hidden is None else hidden.reshape(-1, self.size)
        after: Tensor = self.cell(rows, before)
        return after.view(*features.shape[:-1], self.size)
