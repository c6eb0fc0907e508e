"""Packing shares computation and changes nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from marl.learning.language.token_trees import TokenRow, TokenTrees, pack
from marl.learning.surrogates import ppo_clip
from marl.policies.language.transformer import Transformer, TransformerConfig


def rows() -> list[TokenRow]:
    draw = np.random.default_rng(0)
    ids = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6, 7], [1, 2, 3, 4, 5], [8, 2, 3], [1, 9, 9, 9, 9, 9, 9]]
    result = []
    for sequence in ids:
        learned = np.arange(len(sequence)) >= 2
        weight = draw.normal() * np.ones(len(sequence))
        result.append(TokenRow(sequence, learned, weight, np.full(len(sequence), -2.0)))
    return result


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = TransformerConfig(width=16, heads=2, kv_heads=1, hidden=24)
    return Transformer(config, 10, torch.Generator().manual_seed(0))


def log_probs(model: Transformer, trees: TokenTrees) -> torch.Tensor:
    hidden = model(trees.token, trees.position, trees.mask).reshape(-1, model.config.width)
    return torch.log_softmax(model.logits(hidden[trees.at]), -1).gather(1, trees.target[:, None])[:, 0]


def loss(model: Transformer, trees: TokenTrees) -> torch.Tensor:
    log_ratio = log_probs(model, trees) - trees.old
    return (ppo_clip(log_ratio, trees.positive, 0.2) + ppo_clip(log_ratio, trees.negative, 0.2)).sum()


@pytest.mark.parametrize("capacity", [1, 8, 12, 1000])
def test_loss_and_gradient_are_those_of_separate_sequences(model: Transformer, capacity: int) -> None:
    alone = sum(loss(model, trees) for row in rows() for trees in pack([row], 100, 100))
    packed = sum(loss(model, trees) for trees in pack(rows(), capacity, 20))
    assert isinstance(alone, torch.Tensor) and isinstance(packed, torch.Tensor)
    assert torch.allclose(alone, packed, atol=1e-5)
    expected = torch.autograd.grad(alone, list(model.parameters()))
    found = torch.autograd.grad(packed, list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))


def test_shared_tokens_are_stored_once() -> None:
    (trees,) = pack(rows(), 1000, 1000)
    assert trees.token.shape == (1, 5 + 2 + 6 + 3)
    assert float(trees.count.sum()) == sum(row.learned.sum() for row in rows())
    assert float((trees.positive + trees.negative).sum()) == pytest.approx(
        sum(float(row.weight[row.learned].sum()) for row in rows()), abs=1e-5
    )
