"""A token critic: the value of a conversation after each of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marl.policies.language.transformer import Transformer, TransformerConfig


class TokenCritic(nn.Module):
    """Value before each token of padded rows, from the tokens before it."""

    def __init__(self, config: TransformerConfig, vocabulary: int, generator: torch.Generator):
        super().__init__()
        self.body = Transformer(config, vocabulary, generator)
        self.head = nn.Linear(config.width, 1)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()

    def forward(self, token: Tensor) -> Tensor:
        """Values ``[B, L]`` of the states that each token of ``[B, L]`` leads to; padding follows a row's tokens."""
        batch, length = token.shape
        position = torch.arange(length, device=token.device).expand(batch, length)
        mask = torch.ones((1, length, length), dtype=torch.bool, device=token.device).tril().expand(batch, -1, -1)
        values: Tensor = self.head(self.body(token, position, mask)).squeeze(-1)
        return values
