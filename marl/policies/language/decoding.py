"""Decoding: one token more for many sequences at once, with everything that all steps share made beforehand.

The numbers are those of ``Transformer.extend`` with one new token per sequence, up to rounding; what is saved are the
calls. At this size a step of 64 sequences is a few milliseconds, half of which went into joining weights, building
masks, rotating positions and writing single places of the cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from marl.policies.language.transformer import Block, Cache, Transformer, rotate, weight_of


class _Weights(NamedTuple):
    """Of one block, the projections of queries, keys and values joined, and those of the two branches of the MLP."""

    before: Tensor
    joint: Tensor
    bias: Tensor
    out: Tensor
    after: Tensor
    branches: Tensor
    down: Tensor


class Decoder:
    """Continues the sequences of a cache, at most ``steps`` tokens each. Only to be used without gradients.

    The cache is written in place and must have room for the new tokens; ``keep`` drops sequences.
    """

    def __init__(self, model: Transformer, cache: Cache, steps: int):
        self._model, self._keys_values, self._length = model, cache.keys_values, cache.length
        config = model.config
        self._heads, self._kv_heads, self._size = config.heads, config.kv_heads, config.width // config.heads
        self._blocks = [_joined(block) for block in model.blocks]
        self._norm = model.model.norm.weight
        self._step = 0
        first = int(cache.length[0])
        # Sequences of one length need no mask, and their new places are a slice of the cache.
        self._level = first if bool((cache.length == first).all()) else None
        positions = cache.length[:1] if self._level is not None else cache.length
        table = positions.unsqueeze(1) + torch.arange(steps, device=positions.device)
        self._cos, self._sin = model.rotation(table)  # [B or 1, 1, steps, D]
        capacity = cache.keys_values.shape[4]
        seen = torch.arange(capacity, device=positions.device)
        self._mask = torch.zeros((len(positions), 1, 1, capacity), device=positions.device)
        self._mask.masked_fill_((seen >= positions.unsqueeze(1))[:, None, None], float("-inf"))

    @property
    def cache(self) -> Cache:
        """The sequences that are left."""
        return Cache(self._keys_values, self._length)

    def keep(self, rows: Tensor) -> None:
        """Go on with some sequences only. rows: bool or int64, of those that are left."""
        self._keys_values, self._length = self._keys_values[:, :, rows], self._length[rows]
        if self._level is None:
            self._cos, self._sin, self._mask = self._cos[rows], self._sin[rows], self._mask[rows]

    def step(self, token: Tensor) -> Tensor:
        """Hidden states ``[B, width]`` after one more token (int64 ``[B]``) of each sequence."""
        batch = len(token)
        cos, sin = self._cos[:, :, self._step : self._step + 1], self._sin[:, :, self._step : self._step + 1]
        mask: Tensor | None = None
        if self._level is None:
            rows = torch.arange(batch, device=token.device)
            filled = int(self._length.max()) + 1
            self._mask[rows, 0, 0, self._length] = 0.0
            mask = self._mask[:, :, :, :filled]
        else:
            filled = self._level + self._step + 1
        x = self._model.model.embed_tokens.weight[token]
        width = x.shape[1]
        for number, block in enumerate(self._blocks):
            joint = F.linear(F.rms_norm(x, (width,), block.before, 1e-6), block.joint, block.bias)
            joint = joint.view(batch, -1, 1, self._size)
            turned = rotate(joint[:, : self._heads + self._kv_heads], cos, sin)
            keys, values = self._keys_values[number]
            new_keys, new_values = turned[:, self._heads :], joint[:, self._heads + self._kv_heads :]
            if mask is None:
                keys[:, :, filled - 1 : filled] = new_keys
                values[:, :, filled - 1 : filled] = new_values
            else:
                keys[rows, :, self._length] = new_keys.squeeze(2)
                values[rows, :, self._length] = new_values.squeeze(2)
            # The heads of a group share keys, so they take the place of the sequence.
            q = turned[:, : self._heads].reshape(batch, self._kv_heads, -1, self._size)
            mixed = F.scaled_dot_product_attention(q, keys[:, :, :filled], values[:, :, :filled], mask)
            x = x + F.linear(mixed.reshape(batch, -1), block.out)
            gate, up = F.linear(F.rms_norm(x, (width,), block.after, 1e-6), block.branches).chunk(2, dim=1)
            x = x + F.linear(F.silu(gate) * up, block.down)
        self._step += 1
        self._length = self._length + 1
        return F.rms_norm(x, (width,), self._norm, 1e-6)


def _joined(block: Block) -> _Weights:
    attention, mlp = block.self_attn, block.mlp
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    return _Weights(
        block.input_layernorm.weight,
        torch.cat([weight_of(part) for part in parts]),
        torch.cat([part.bias for part in parts]),
        weight_of(attention.o_proj),
        block.post_attention_layernorm.weight,
        torch.cat([weight_of(mlp.gate_proj), weight_of(mlp.up_proj)]),
        weight_of(mlp.down_proj),
    )
