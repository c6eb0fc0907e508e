"""Packing shares computation and changes nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from marl.learning.language.token_losses import clipped_surrogate, tokens_of
from marl.learning.language.token_trees import TokenRow, TokenTrees, pack
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


def scored(model: Transformer, packed: list[TokenRow], capacity: int = 12) -> torch.Tensor:
    """Log-probabilities of all learned tokens, one row's after the other's."""
    found = torch.zeros(sum(int(row.learned.sum()) for row in packed))
    for trees in pack(packed, capacity, 20):
        found[trees.entry] = log_probs(model, trees)[trees.learned].detach()
    return found


def loss(model: Transformer, packed: list[TokenRow], capacity: int) -> torch.Tensor:
    """The weighted sum whose gradient is that of the clipped surrogate."""
    tokens = tokens_of(packed)
    leaf = scored(model, packed).requires_grad_()
    weight = torch.autograd.grad(clipped_surrogate(tokens._replace(log_prob=leaf), 0.2, 0.3), leaf)[0]
    losses = [(log_probs(model, trees) * trees.summed(weight)).sum() for trees in pack(packed, capacity, 20)]
    return torch.stack(losses).sum()


@pytest.mark.parametrize("capacity", [1, 8, 12, 1000])
def test_loss_and_gradient_are_those_of_separate_sequences(model: Transformer, capacity: int) -> None:
    alone = torch.stack([loss(model, [row], 100) for row in rows()]).sum()
    packed = loss(model, rows(), capacity)
    assert torch.allclose(alone, packed, atol=1e-5)
    expected = torch.autograd.grad(alone, list(model.parameters()))
    found = torch.autograd.grad(packed, list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))


def test_shared_tokens_are_stored_once() -> None:
    (trees,) = pack(rows(), 1000, 1000)
    assert trees.token.shape == (1, 5 + 2 + 6 + 3)
    assert trees.entry.sort()[0].tolist() == list(range(sum(row.learned.sum() for row in rows())))
    assert float(trees.summed(tokens_of(rows()).weight).sum()) == pytest.approx(
        sum(float(row.weight[row.learned].sum()) for row in rows()), abs=1e-5
    )


def test_rows_of_different_versions_keep_their_own_ratios(model: Transformer) -> None:
    """Equal texts sampled by other weights: the loss and its gradient one by one, packed, and in any order."""
    ids = [1, 2, 3, 4, 5]
    learned = np.arange(5) >= 2
    several = [
        TokenRow(ids, learned, weight * learned, np.where(learned, old, 0.0))
        for weight, old in ((1.0, -2.0), (-1.0, -2.6), (0.5, -1.2), (2.0, -4.0))
    ]

    def surrogate(packed: list[TokenRow]) -> float:
        tokens = tokens_of(packed)
        return float(clipped_surrogate(tokens._replace(log_prob=scored(model, packed)), 0.2, 0.2))

    one_by_one = sum(surrogate([row]) for row in several)
    expected = torch.autograd.grad(
        torch.stack([loss(model, [row], 100) for row in several]).sum(), list(model.parameters())
    )
    for order in itertools.permutations(several):
        assert surrogate(list(order)) == pytest.approx(one_by_one, abs=1e-5)
        found = torch.autograd.grad(loss(model, list(order), 100), list(model.parameters()))
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))


def test_batches_are_filled_up_to_their_places_and_no_further() -> None:
    """Three trees of five tokens: two fill ten places, and the third does not fit into fourteen."""
    apart = [TokenRow([first, 2, 3, 4, 5], np.arange(5) > 0, np.ones(5), np.zeros(5)) for first in (1, 6, 7)]
    for places, sizes in ((9, [1, 1, 1]), (10, [2, 1]), (14, [2, 1]), (15, [3])):
        assert [len(trees.token) for trees in pack(apart, 5, places)] == sizes
