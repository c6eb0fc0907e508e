"""Statistics against figures worked out by hand, and the coverage of their intervals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.evaluation.statistics import (
    Estimate,
    _indices,
    estimate,
    interquartile_mean,
    mean,
    over_seeds,
    paired_difference,
    wilson,
)


def test_interquartile_mean_drops_a_quarter_at_each_end():
    values = np.array([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -100.0])
    assert interquartile_mean(values) == (2 + 3 + 4 + 5) / 4


def test_interquartile_mean_of_five_drops_one_at_each_end():
    assert interquartile_mean(np.array([9.0, 1.0, 2.0, 6.0, 4.0])) == 4.0


def test_interquartile_mean_of_three_is_the_mean():
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0


def test_statistics_reduce_the_last_axis():
    values = np.arange(24.0).reshape(2, 3, 4)
    assert mean(values).shape == interquartile_mean(values).shape == (2, 3)


def test_interval_of_two_values_is_known():
    """Means of resamples of (0, 1) are 0, .5 and 1 with probabilities 1/4, 1/2, 1/4."""
    assert estimate([0.0, 1.0]) == Estimate(0.5, 0.0, 1.0, 2)
    assert estimate([0.0, 1.0], confidence=0.4) == Estimate(0.5, 0.5, 0.5, 2)


def test_interval_agrees_with_the_normal_one_where_that_is_right():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = estimate(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.half_width == pytest.approx(half, rel=0.08)


def test_undefined_values_are_left_out():
    assert estimate([1.0, np.nan, 3.0]).n == 2
    assert estimate([1.0, np.nan, 3.0]).value == 2.0
    nothing = estimate([np.nan])
    assert nothing.n == 0
    assert all(math.isnan(figure) for figure in nothing[:3])


def test_a_single_value_has_an_interval_without_width():
    assert estimate([4.0]) == Estimate(4.0, 4.0, 4.0, 1)


def test_paired_difference_knows_that_pairs_belong_together():
    """A constant lead has no spread, however much the instances differ."""
    b = np.random.default_rng(1).normal(0, 100, 64).round()
    assert paired_difference(b + 1, b) == Estimate(1.0, 1.0, 1.0, 64)


def test_paired_difference_is_antisymmetric_and_drops_incomplete_pairs():
    a, b = np.array([1.0, 5.0, np.nan, 2.0]), np.array([0.0, 1.0, 3.0, 2.0])
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.n == 3
    assert there.value == pytest.approx(5 / 3)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_paired_difference_of_interquartile_means():
    a, b = [0.0, 2.0, 4.0, 100.0], [0.0, 1.0, 1.0, 1.0]
    assert paired_difference(a, b, interquartile_mean).value == 3.0 - 1.0


def test_pairs_need_equal_shapes():
    with pytest.raises(ValueError):
        paired_difference([1.0], [1.0, 2.0])


def test_intervals_are_reproducible_and_keyed_by_seed():
    values = np.random.default_rng(2).normal(size=20)
    assert estimate(values) == estimate(values.copy())
    assert estimate(values) != estimate(values, seed=1)


def test_blocks_do_not_change_the_resamples():
    whole = _indices(0, 10, 7, 0)
    assert np.array_equal(whole, np.concatenate([_indices(0, 4, 7, 0), _indices(4, 10, 7, 0)]))
    assert whole.min() >= 0
    assert whole.max() < 7


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """300 samples of 40 from a skewed law with mean 1: the percentile bootstrap covers it in 88 to 97 %."""
    samples = np.random.default_rng(3).gamma(2.0, 0.5, (300, 40))
    found = [estimate(sample, resamples=500) for sample in samples]
    covered = np.mean([one.low <= 1.0 <= one.high for one in found])
    assert 0.88 <= covered <= 0.97


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.sampled_from([mean, interquartile_mean]))
def test_interval_lies_within_the_values(values, statistic):
    found = estimate(values, statistic, resamples=100)
    slack = 1e-9 * max(1.0, *(abs(value) for value in values))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack


def test_intervals_of_many_runs_and_of_shares() -> None:
    # R: qt(.975, 11) = 2.200985, qt(.975, 29) = 2.045230; binom::binom.confint(0, 1008, methods = "wilson").
    for n, quantile in ((12, 2.200985), (30, 2.045230)):
        values = np.arange(n, dtype=float)
        _, half = over_seeds(values)
        assert half == pytest.approx(quantile * values.std(ddof=1) / np.sqrt(n), rel=2e-3)
    low, high = wilson(0.0, 1008)
    assert low == 0.0
    assert high == pytest.approx(0.003796, abs=2e-6)
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_runs_without_a_figure_make_neither_a_mean_nor_an_interval():
    assert over_seeds([1.0, math.nan, 3.0]) == over_seeds([1.0, 3.0])
    assert all(math.isnan(figure) for values in ([], [math.nan]) for figure in over_seeds(values))
    mean, half = over_seeds([math.nan, 4.0])
    assert mean == 4.0 and math.isnan(half)
