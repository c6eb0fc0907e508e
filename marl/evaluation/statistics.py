"""Means, interquartile means, bootstrap intervals and paired differences of per-episode figures.

Definitions as in "Deep Reinforcement Learning at the Edge of the Statistical Precipice", Agarwal et al., NeurIPS 2021,
arXiv 2108.13264 (the rliable library): the interquartile mean drops a quarter of the values at each end, intervals are
percentile bootstrap intervals. Resampling is keyed by counter (``marl.seeding``): equal figures give equal intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from marl.seeding import Stream, below, fold, fold_int

Array = NDArray[np.float64]

#: Reduces the last axis.
Statistic = Callable[[Array], Array]

CONFIDENCE = 0.95
RESAMPLES = 2000

#: Indices drawn at once; bounds the memory of a bootstrap at 8 MB a block.
_BLOCK = 1 << 20


class Estimate(NamedTuple):
    """A figure and its interval; all NaN for no values, an interval without width for a single one.

    n: how many values, or pairs of values, it rests on.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval: the ± of tables."""
        return (self.high - self.low) / 2


def mean(values: Array) -> Array:
    """Arithmetic mean over the last axis."""
    return np.asarray(values.mean(-1))


def interquartile_mean(values: Array) -> Array:
    """Mean of the middle half over the last axis: ``floor(n / 4)`` values are dropped at each end."""
    n = values.shape[-1]
    cut = n // 4
    return np.asarray(np.sort(values, -1)[..., cut : n - cut].mean(-1))


def estimate(
    values: ArrayLike,
    statistic: Statistic = mean,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """``statistic`` of ``values`` ``[n]`` with a percentile bootstrap interval; NaN (undefined) are left out."""
    given = np.asarray(values, np.float64)
    return _bootstrap(given[~np.isnan(given)][None], lambda rows: statistic(rows)[0], confidence, resamples, seed)


#: Student's t, 97.5 %, by number of values.
_NORMAL_QUANTILE = 1.959964
_T_QUANTILE = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval by Student's t, for a few independent runs; NaN for a single one.

    Values that are NaN (undefined) are left out; both are NaN if none is left.
    """
    given = np.asarray(values, np.float64)
    given = given[~np.isnan(given)]
    if not len(given):
        return math.nan, math.nan
    if len(given) < 2:
        return float(given.mean()), math.nan
    return float(given.mean()), float(_t_quantile(len(given)) * given.std(ddof=1) / math.sqrt(len(given)))


def _t_quantile(n: int) -> float:
    """Student's t, 97.5 %, of n values; above 10 by Fisher's expansion in 1 / (n - 1), exact to three digits there."""
    if n in _T_QUANTILE:
        return _T_QUANTILE[n]
    z, freedom = _NORMAL_QUANTILE, n - 1
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, JASA 1927).

    Args:
        share: the share that was seen, in [0, 1].
        count: of how many; at least 1.
    """
    z = _NORMAL_QUANTILE
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    statistic: Statistic = mean,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """``statistic(a) - statistic(b)`` of paired values ``[n]``; both sides of a pair are resampled together.

    Pairs with a NaN are left out. Raises ``ValueError`` if the shapes differ.
    """
    pairs = np.stack([np.asarray(a, np.float64), np.asarray(b, np.float64)])
    pairs = pairs[:, ~np.isnan(pairs).any(0)]
    return _bootstrap(
        pairs, lambda rows: np.asarray(statistic(rows[0]) - statistic(rows[1])), confidence, resamples, seed
    )


def _bootstrap(
    rows: Array, statistic: Callable[[Array], Array], confidence: float, resamples: int, seed: int
) -> Estimate:
    """rows: ``[K, n]``, resampled in columns; statistic: ``[K, *, n]`` -> ``[*]``."""
    n = rows.shape[1]
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    block = max(1, _BLOCK // n)
    drawn = [
        statistic(rows[:, _indices(first, min(first + block, resamples), n, seed)])
        for first in range(0, resamples, block)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return Estimate(float(statistic(rows)), float(low), float(high), n)


@lru_cache(maxsize=4)
def _indices(first: int, last: int, n: int, seed: int) -> NDArray[np.int64]:
    """Columns of the resamples ``first`` to ``last - 1``: int64 ``[last - first, n]`` in [0, n).

    Cached, because all metrics of a table resample the same number of episodes.
    """
    key = torch.tensor(fold_int(seed, Stream.EVALUATE))
    keys = fold(fold(key, torch.arange(first, last)).unsqueeze(1), torch.arange(n))
    drawn: NDArray[np.int64] = below(keys, n).numpy()
    return drawn
