"""Evolution strategies: ``Cma``, a search that needs only scores.

N. Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772; the implementation is the authors' package
``cma``. Its random numbers come from a generator of its own here, so that the same scores give the same search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Cma:
    """Maximises a function of a point in the unit cube by covariance matrix adaptation.

    Alternate ``ask`` and ``tell``. A search is a function of its arguments and of the scores told: who tells the scores
    of an earlier search again continues it.

    start: ``[D]``, D at least 2. step: standard deviation at the beginning. population: points a generation.
    """

    def __init__(self, start: Sequence[float], step: float = 0.2, population: int = 12, seed: int = 0):
        import cma  # here: its import takes a second and brings matplotlib along

        generator = np.random.default_rng(seed)

        def normal(*shape: int) -> Array:
            return generator.standard_normal(shape)

        options: dict[str, Any] = {
            "bounds": [0.0, 1.0],
            "popsize": population,
            "randn": normal,
            "seed": float("nan"),  # leaves numpy's shared generator alone
            "verbose": -9,
        }
        self._search = cma.CMAEvolutionStrategy(list(start), step, options)

    def ask(self) -> Array:
        """The points of the next generation, ``[population, D]``."""
        return np.array(self._search.ask())

    def tell(self, points: Array, scores: Array) -> None:
        """Take in the scores ``[population]`` of the points last asked for; higher is better."""
        self._search.tell(list(points), list(-scores))

    @property
    def mean(self) -> Array:
        """The centre of the search, ``[D]``: better than its points where scores are noisy."""
        return np.asarray(self._search.result.xfavorite, np.float64)
