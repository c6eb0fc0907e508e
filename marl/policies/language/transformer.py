"""A small decoder-only transformer: Qwen2's architecture and parameter names, without the weight of a model library.

Pre-norm blocks with RMSNorm, rotary positions, grouped-query attention and SwiGLU (Qwen2 Technical Report, arXiv
2407.10671), embeddings tied. ``state_dict`` and ``hf_config`` are those of ``transformers.Qwen2ForCausalLM``, whose
logits it reproduces. Own code because it decodes about twice as fast at this size, and because training runs over
trees of sequences (``forward`` with a mask of one's own), where a shared beginning is computed once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from marl.config import Frozen

#: Places that attend together in a large tree, and the places from which on a tree is large.
_TILE, _LARGE = 32, 192


class TransformerConfig(Frozen):
    """Sizes of a transformer."""

    width: int = Field(default=128, ge=8, le=8192, description="of the residual stream")
    layers: int = Field(default=2, ge=1, le=64, description="blocks, one after the other")
    heads: int = Field(default=4, ge=1, le=128, description="heads of queries")
    kv_heads: int = Field(default=2, ge=1, le=128, description="heads of keys and values")
    hidden: int = Field(default=384, ge=8, description="of the feed-forward blocks")
    rope_theta: float = Field(default=10_000.0, gt=0.0, description="base of the rotary positions")

    @model_validator(mode="after")
    def _divisible(self) -> TransformerConfig:
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(f"width={self.width} must divide by 2*heads={2 * self.heads}, heads by kv_heads")
        return self


class Cache(NamedTuple):
    """Keys and values ``[layers, 2, B, kv_heads, capacity, head]`` of which ``length[b]`` positions are filled."""

    keys_values: Tensor
    length: Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys ``[*, D]`` turned to their positions, whose cosines and sines ``Transformer.rotation`` gives."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin


def weight_of(layer: nn.Module) -> Tensor:
    """The weight that a linear layer works by, that of its active adapter (``peft``) included."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    for name in getattr(layer, "active_adapters", ()):
        weight = weight + layer.get_delta_weight(name)  # type: ignore[operator]  # of peft's layers
    return weight


class _Attention(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.size = config.width // config.heads
        self.q_proj = nn.Linear(config.width, config.heads * self.size)
        self.k_proj = nn.Linear(config.width, config.kv_heads * self.size)
        self.v_proj = nn.Linear(config.width, config.kv_heads * self.size)
        self.o_proj = nn.Linear(config.heads * self.size, config.width, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[B, H, L, D]``, keys and values ``[B, KV, L, D]``, rotated to their positions."""
        batch, length, _ = x.shape
        # Each matrix product of this size costs mostly its call: one instead of three.
        weight = torch.cat([weight_of(self.q_proj), weight_of(self.k_proj), weight_of(self.v_proj)])
        bias = torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias])
        joint = F.linear(x, weight, bias).view(batch, length, self.heads + 2 * self.kv_heads, self.size).transpose(1, 2)
        rotated = joint[:, : self.heads + self.kv_heads]
        rotated = rotate(rotated, cos, sin)
        return rotated[:, : self.heads], rotated[:, self.heads :], joint[:, self.heads + self.kv_heads :]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """``[B, L, width]``; mask: additive float ``[B, 1, L, S]``."""
        projected: Tensor = self.o_proj(self.mixed(q, k, v, mask))
        return projected

    def mixed(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """What ``attend`` projects, ``[B, L, heads * D]``."""
        batch, heads, length, size = q.shape
        if length == 1:
            # One query: the heads of a group share keys, so they take the place of the sequence.
            q = q.view(batch, self.kv_heads, heads // self.kv_heads, size)
            mixed = F.scaled_dot_product_attention(q, k, v, mask)
            return mixed.reshape(batch, 1, heads * size)
        repeat = heads // self.kv_heads
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, mask)
        return mixed.transpose(1, 2).reshape(batch, length, heads * size)


class _Tiles:
    """Attention of large trees of sequences, tile by tile: a tile is some places one after the other.

    Most places of a tree are in branches that do not see each other, so a tile needs few of the others' keys. Made
    once for a mask (bool ``[B, L, L]``) and used by all blocks.
    """

    def __init__(self, mask: Tensor):
        batch, length, _ = mask.shape
        self._count = -(-length // _TILE)
        self._padding = self._count * _TILE - length
        padded = F.pad(mask, (0, 0, 0, self._padding))
        tiles = padded.view(batch * self._count, _TILE, length)
        seen = tiles.any(dim=1)
        self.size = int(seen.sum(dim=1).max())
        # The keys that a tile needs, in order; those that fill it up are seen by none.
        chosen = seen.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : self.size]
        visible = tiles.gather(2, chosen.unsqueeze(1).expand(-1, _TILE, -1))
        # Places beyond the tree look somewhere, so that no softmax is over nothing.
        visible[:, :, 0] |= ~visible.any(dim=2)
        self._mask = torch.zeros(visible.shape, device=mask.device).masked_fill_(~visible, float("-inf")).unsqueeze(1)
        first = torch.arange(batch, device=mask.device).repeat_interleave(self._count) * length
        self._index = (chosen + first.unsqueeze(1)).flatten()

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``[B, L, heads * D]`` of queries ``[B, H, L, D]``, keys and values ``[B, KV, L, D]``."""
        batch, heads, length, size = q.shape
        tiles = batch * self._count
        q = F.pad(q.transpose(1, 2), (0, 0, 0, 0, 0, self._padding))
        q = q.reshape(tiles, _TILE, heads, size).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, self._of(k, heads), self._of(v, heads), self._mask)
        return mixed.transpose(1, 2).reshape(batch, length + self._padding, heads * size)[:, :length]

    def _of(self, x: Tensor, heads: int) -> Tensor:
        """The keys or values that each tile needs, ``[tiles, H, size, D]``."""
        batch, kv_heads, length, size = x.shape
        rows = x.transpose(1, 2).reshape(batch * length, kv_heads * size).index_select(0, self._index)
        parts = rows.view(-1, self.size, kv_heads, size).transpose(1, 2)
        return parts.repeat_interleave(heads // kv_heads, dim=1)


class _FeedForward(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return projected


class Block(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.width, eps=1e-6)
        self.post_attention_layernorm = nn.RMSNorm(config.width, eps=1e-6)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | _Tiles, at: Tensor | None = None) -> Tensor:
        """``[B, L, width]``; or ``[M, width]`` at the flat places ``at`` alone. mask: additive ``[B, 1, L, L]``."""
        attention = self.self_attn
        q, k, v = attention.project(self.input_layernorm(x), cos, sin)
        mixed = mask.mixed(q, k, v) if isinstance(mask, _Tiles) else attention.mixed(q, k, v, mask)
        if at is not None:
            x, mixed = x.flatten(0, 1).index_select(0, at), mixed.flatten(0, 1).index_select(0, at)
        x = x + attention.o_proj(mixed)
        added: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + added


class _Model(nn.Module):
    def __init__(self, config: TransformerConfig, vocabulary: int):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-6)


class Transformer(nn.Module):
    """Token ids to hidden states ``[B, L, width]``; ``logits`` makes ``[*, vocabulary]`` of them."""

    _frequency: Tensor

    def __init__(self, config: TransformerConfig, vocabulary: int, generator: torch.Generator):
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.model = _Model(config, vocabulary)
        size = config.width // config.heads
        frequency = config.rope_theta ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
        self.register_buffer("_frequency", torch.cat([frequency, frequency]), persistent=False)
        self._reset(generator)

    def _reset(self, generator: torch.Generator) -> None:
        # Nguyen & Salazar's small initialisation (arXiv 1910.05895). The .02 of large models is too little at this
        # width: it costs a hundred steps of imitation, and some seeds never learn to tell a question's steps apart.
        deviation = math.sqrt(2.0 / (5.0 * self.config.width))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif "norm" not in name:
                    parameter.normal_(0.0, deviation, generator=generator)

    def rotation(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[B, 1, L, D]`` of the rotary angles at positions ``[B, L]``."""
        angle = position.unsqueeze(-1).to(torch.float32) * self._frequency
        return angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)

    def forward(self, token: Tensor, position: Tensor, mask: Tensor, at: Tensor | None = None) -> Tensor:
        """Hidden states of all tokens at once; with ``at`` those at these flat places alone, ``[M, width]``.

        Args:
            token, position: int64 ``[B, L]``.
            mask: bool ``[B, L, L]``, which tokens (last) each one sees, itself included.
            at: int64 ``[M]``, batch * L + place.
        """
        cos, sin = self.rotation(position)
        tiles = _Tiles(mask) if mask.shape[2] >= _LARGE else None
        seen: Tensor | _Tiles
        if tiles is not None and tiles.size <= mask.shape[2] // 2:
            seen = tiles
        else:
            seen = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf")).unsqueeze(1)
        x = self.model.embed_tokens(token)
        for number, block in enumerate(self.model.layers, start=1):
            # What the last block makes of places that nobody asks for is not needed.
            x = block(x, cos, sin, seen, at if number == len(self.model.layers) else None)
        normed: Tensor = self.model.norm(x)
        return normed

    @property
    def blocks(self) -> list[Block]:
        return [block for block in self.model.layers if isinstance(block, Block)]

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight)

    def empty_cache(self, batch: int, capacity: int) -> Cache:
        """A cache for B sequences of at most ``capacity`` tokens."""
        config = self.config
        shape = (config.layers, 2, batch, config.kv_heads, capacity, config.width // config.heads)
        device = self.model.embed_tokens.weight.device
        return Cache(torch.zeros(shape, device=device), torch.zeros(batch, dtype=torch.int64, device=device))

    def extend(self, token: Tensor, count: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Hidden states of each sequence's last new token ``[B, width]``, and the cache with the new tokens in it.

        Args:
            token: int64 ``[B, L]``, left-aligned, ``count[b]`` of them real (at least one). The cache is written in
                place, and must have room for L more tokens in every sequence.
        """
        batch, new = token.shape
        offset = torch.arange(new, device=token.device)
        position = cache.length.unsqueeze(1) + offset
        filled = int((cache.length + count).max())
        seen = torch.arange(filled, device=token.device)
        mask = torch.zeros((batch, 1, new, filled), device=token.device)
        mask.masked_fill_((seen > position.unsqueeze(-1)).unsqueeze(1), float("-inf"))
        # What is beyond a sequence's own new tokens is written too, and overwritten by what comes later.
        cos, sin = self.rotation(position)
        rows = torch.arange(batch, device=token.device).unsqueeze(1)
        x = self.model.embed_tokens(token)
        for number, block in enumerate(self.model.layers):
            assert isinstance(block, Block)
            attention = block.self_attn
            q, k, v = attention.project(block.input_layernorm(x), cos, sin)
            keys, values = cache.keys_values[number]
            keys[rows, :, position] = k.transpose(1, 2)
            values[rows, :, position] = v.transpose(1, 2)
            x = x + attention.attend(q, keys[:, :, :filled], values[:, :, :filled], mask)
            x = x + block.mlp(block.post_attention_layernorm(x))
        last = x[torch.arange(batch, device=token.device), count - 1]
        return self.model.norm(last), Cache(cache.keys_values, cache.length + count)

    def hf_config(self, context: int) -> dict[str, Any]:
        """The ``config.json`` of the same model in ``transformers``."""
        config = self.config
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": self.vocabulary,
            "hidden_size": config.width,
            "intermediate_size": config.hidden,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "max_position_embeddings": context,
            "rope_theta": config.rope_theta,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        }
