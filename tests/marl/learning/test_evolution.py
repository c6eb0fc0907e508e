"""Ranks and gradients of evolution strategies, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from marl.errors import UserError
from marl.learning.evolution import Cma, centred_ranks, evolution_gradient, mirrored


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_none_are_refused(wrong: float) -> None:
    """A rank of one among others would be a guess, and a covariance made of one is none."""
    with pytest.raises(UserError, match=r"the score of member 1 is (NaN|infinite): mend the metric"):
        centred_ranks(torch.tensor([1.0, wrong, 2.0]))
    search = Cma([0.5, 0.5], population=4, seed=3)
    points = search.ask()
    with pytest.raises(UserError, match="the score of candidate 3 is"):
        search.tell(points, np.array([1.0, 0.0, 2.0, wrong]))


def test_a_search_says_nothing_and_draws_from_nobody_else(capfd: pytest.CaptureFixture[str]) -> None:
    """The package prints its progress and seeds numpy's shared generator, unless told otherwise."""
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    search = Cma([0.5, 0.5], population=4, seed=3)
    for _ in range(3):
        points = search.ask()
        search.tell(points, -np.square(points).sum(1))
    assert capfd.readouterr() == ("", "")
    assert np.random.random() == expected


def test_equal_scores_leave_the_search_where_it_is() -> None:
    """By itself the search would drift: its mean moves with whichever points happen to come first."""
    search, drifting = (Cma([0.5, 0.5], population=4, seed=3) for _ in range(2))
    for _ in range(30):
        search.tell(search.ask(), np.zeros(4))
        drifting._search.tell(list(drifting.ask()), [0.0] * 4)
    assert search.mean.tolist() == pytest.approx([0.5, 0.5])
    assert np.abs(drifting.mean - 0.5).max() > 0.05
    points = search.ask()
    search.tell(points, -np.square(points).sum(1))
    assert search.mean.sum() < 1.0


@pytest.mark.parametrize(
    ("fitness", "ranks"),
    [
        ([3.0, 1.0, 2.0], [0.5, -0.5, 0.0]),
        ([10.0, 11.0, -1e9, 1e9, 12.0], [-0.25, 0.0, -0.5, 0.5, 0.25]),
        ([1.0, 1.0, 3.0], [-0.25, -0.25, 0.5]),
        ([2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]),
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


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_points_stay_in_the_unit_cube(corner: float) -> None:
    """However far beyond it the best point would be."""
    search = Cma([corner, corner, 0.5], step=0.5, population=8, seed=0)
    seen = []
    for _ in range(8):
        points = search.ask()
        seen.append(points)
        search.tell(points, points.sum(1) * (2.0 * corner - 1.0))
    assert 0.0 <= np.min(seen) < 0.1 and 0.9 < np.max(seen) <= 1.0
