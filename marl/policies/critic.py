"""The central critic: the state of one copy, or every agent's share of it, to values."""

from __future__ import annotations

from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from marl.envs.batched import Tree
from marl.errors import UserError
from marl.policies.config import NetworkConfig
from marl.policies.encoders import make_encoder
from marl.policies.layers import Memory, linear, mlp

Mixer = Literal["none", "attention", "deep_sets"]
HEADS = 4


class Critic(nn.Module):
    """Encoder, optional mixing over agents, optional memory, one value.

    space: of one copy's state, or of one agent's share if ``per_agent``. Initial weights depend on ``generator`` only.
    mixer: how an agent's value comes to depend on the others' shares; 'none': not at all. Only with ``per_agent``.

    A state ``[*, ...]`` of the copy gives values ``[*]``, shares ``[*, N, ...]`` give ``[*, N]``. Permuted agents get
    the permuted values. What agents that are not alive show changes nobody else's value.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        config: NetworkConfig,
        generator: torch.Generator,
        per_agent: bool = True,
        mixer: Mixer = "none",
    ):
        super().__init__()
        if mixer != "none" and not per_agent:
            raise UserError(
                f"mixer '{mixer}' needs a state per agent, and this world has one per copy; set it to 'none'"
            )
        if config.relabel is not None:
            raise UserError("relabel says what an actor's outputs stand for; a critic has none: leave it out")
        self.encoder = make_encoder(space, config, generator)
        if self.encoder.choices:
            raise UserError("encoder 'choices' scores actions; a critic needs another one")
        features = self.encoder.features
        self.mixer: DeepSets | Attention | None = None
        if mixer == "deep_sets":
            self.mixer = DeepSets(features, config, generator)
        elif mixer == "attention":
            self.mixer = Attention(features, generator)
        self.memory: Memory | None = None
        if config.recurrent == "gru":
            self.memory = Memory(features, config.gru_size, config.layer_norm, generator)
            features = self.memory.size
        self.output = linear(features, 1, 1.0, generator)

    @property
    def hidden_size(self) -> int:
        """H of the hidden state ``[*, H]``; 0 without memory."""
        return 0 if self.memory is None else self.memory.size

    def forward(
        self, state: Tree, hidden: Tensor | None = None, alive: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """One step: values as the class describes, and the next hidden state (of their shape, with H behind).

        Args:
            hidden: None: zeros; without memory it is handed back.
            alive: bool ``[*, N]``, for the mixer; None: all are.
        """
        features = self._mixed(state, alive)
        if self.memory is not None:
            features, hidden = self.memory(features, hidden)
        return self._value(features), hidden

    def unroll(
        self, state: Tree, hidden: Tensor | None, start: Tensor, alive: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """T steps at once: all but ``hidden`` have T in front; ``start`` and the rest as in ``Actor.unroll``."""
        features = self._mixed(state, alive)
        if self.memory is not None:
            features, hidden = self.memory.unroll(features, hidden, start)
        return self._value(features), hidden

    def _mixed(self, state: Tree, alive: Tensor | None) -> Tensor:
        features = self.encoder(state)
        if self.mixer is None:
            return features
        if alive is None:
            alive = torch.ones(features.shape[:-1], dtype=torch.bool, device=features.device)
        mixed: Tensor = self.mixer(features, alive)
        return mixed

    def _value(self, features: Tensor) -> Tensor:
        value: Tensor = self.output(features)
        return value.squeeze(-1)


class DeepSets(nn.Module):
    """The mean over living agents beside one's own features, through one layer (Zaheer et al., arXiv 1703.06114)."""

    def __init__(self, features: int, config: NetworkConfig, generator: torch.Generator):
        super().__init__()
        self.layer = mlp(2 * features, (features,), config.activation, config.layer_norm, generator)

    def forward(self, features: Tensor, alive: Tensor) -> Tensor:
        """features: ``[*, N, F]``, alive: bool ``[*, N]`` -> ``[*, N, F]``."""
        present = alive.unsqueeze(-1)
        total = features.masked_fill(~present, 0.0).sum(dim=-2, keepdim=True)
        mean = total / present.sum(dim=-2, keepdim=True).clamp(min=1)
        mixed: Tensor = self.layer(torch.cat((features, mean.expand_as(features)), dim=-1))
        return mixed


class Attention(nn.Module):
    """One block of multi-head self-attention over living agents, with a residual (Vaswani et al., arXiv 1706.03762)."""

    def __init__(self, features: int, generator: torch.Generator):
        super().__init__()
        if features % HEADS:
            raise UserError(f"mixer 'attention' needs a last hidden width that {HEADS} divides, not {features}")
        self.norm = nn.LayerNorm(features)
        self.project = linear(features, 3 * features, 1.0, generator)
        self.combine = linear(features, features, 1.0, generator)

    def forward(self, features: Tensor, alive: Tensor) -> Tensor:
        """features: ``[*, N, F]``, alive: bool ``[*, N]`` -> ``[*, N, F]``."""
        shape = features.shape
        agents, width = shape[-2:]
        projected = self.project(self.norm(features)).view(-1, agents, 3, HEADS, width // HEADS)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        # Everybody sees the living and itself, so that a copy without any living agent has no empty softmax.
        itself = torch.eye(agents, dtype=torch.bool, device=features.device)
        visible = alive.reshape(-1, 1, 1, agents) | itself
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        mixed: Tensor = self.combine(attended.transpose(1, 2).reshape(shape))
        return features + mixed
