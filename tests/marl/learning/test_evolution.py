"""Ranks and gradients of evolution strategies, by hand."""

from __future__ import annotations

import pytest
import torch

from marl.learning.evolution import centred_ranks, evolution_gradient, mirrored

NAN = float("nan")


@pytest.mark.parametrize(
    ("fitness", "ranks"),
    [
        ([3.0, 1.0, 2.0], [0.5, -0.5, 0.0]),
        ([10.0, 11.0, -1e9, 1e9, 12.0], [-0.25, 0.0, -0.5, 0.5, 0.25]),
        ([1.0, 1.0, 3.0], [-0.25, -0.25, 0.5]),
        ([2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]),
        ([1.0, NAN, 2.0], [0.0, -0.5, 0.5]),
    ],
)
def test_scores_become_ranks_around_zero(fitness: list[float], ranks: list[float]) -> None:
    assert centred_ranks(torch.tensor(fitness, dtype=torch.float64)).tolist() == pytest.approx(ranks)


def test_the_gradient_of_a_quadratic_is_exact() -> None:
    """Mirrored pairs cancel the even part, and the axes, as long as normal vectors are on average, make up the rest."""
    weights, best, sigma = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0]), 0.3
    noise = 2**0.5 * torch.eye(2)
    points = weights + sigma * mirrored(noise)
    scores = 7.0 - 0.5 * (points - best).square().sum(1)
    torch.testing.assert_close(evolution_gradient(scores, noise, sigma), best - weights)


def test_one_pair_by_hand() -> None:
    gradient = evolution_gradient(torch.tensor([0.5, -0.5]), torch.tensor([[2.0, 0.0, -4.0]]), 0.25)
    assert gradient.tolist() == [4.0, 0.0, -8.0]
