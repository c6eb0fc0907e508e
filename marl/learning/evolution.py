"""Evolution strategies, which need only scores: ``Cma`` for some dozen numbers, a gradient of ranks for networks.

N. Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772; the implementation is the authors' package
``cma``. Its random numbers come from a generator of its own here, so that the same scores give the same search.

T. Salimans et al., "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", arXiv 1703.03864:
mirrored Gaussian perturbations of all weights, scores shaped by rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.errors import NotFiniteError

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
        """Take in the scores ``[population]`` of the points last asked for; higher is better.

        Equal scores tell nothing, and the search stays where it is: by itself it would drift with the noise. Raises
        ``NotFiniteError``.
        """
        check_scores(torch.from_numpy(scores), "candidate")
        if scores.min() < scores.max():
            self._search.tell(list(points), list(-scores))

    @property
    def mean(self) -> Array:
        """The centre of the search, ``[D]``: better than its points where scores are noisy."""
        return np.asarray(self._search.result.xfavorite, np.float64)


def centred_ranks(fitness: Tensor) -> Tensor:
    """Scores ``[P]`` by rank, from -.5 for the worst to .5 for the best; P at least 2.

    Equal scores share the mean of their ranks, so that where all are equal nothing is learned. Raises
    ``NotFiniteError`` for scores that are none.
    """
    check_scores(fitness, "member")
    worse = (fitness.unsqueeze(0) < fitness.unsqueeze(1)).sum(1)
    equal = (fitness.unsqueeze(0) == fitness.unsqueeze(1)).sum(1)
    return (worse + (equal - 1) / 2) / (len(fitness) - 1) - 0.5


def check_scores(scores: Tensor, what: str) -> None:
    """Raise ``NotFiniteError`` for the first of some scores ``[P]`` that is NaN or infinite; ``what`` they are of."""
    wrong = (~scores.isfinite()).nonzero()
    if len(wrong):
        index = int(wrong[0])
        value = "NaN" if bool(scores[index].isnan()) else "infinite"
        raise NotFiniteError(f"the score of {what} {index} is {value}", "mend the metric that it is made of")


def mirrored(noise: Tensor) -> Tensor:
    """Directions ``[P / 2, D]`` and then their opposites: ``[P, D]``."""
    return torch.cat((noise, -noise))


def evolution_gradient(scores: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Estimate ``[D]`` of the gradient of the score's mean over perturbations, which points uphill.

    Args:
        scores: ``[P]``, of the weights plus ``sigma * mirrored(noise)``.
        noise: standard normal ``[P / 2, D]``.
    """
    plus, minus = scores.to(noise.dtype).chunk(2)
    return (plus - minus) @ noise / (len(scores) * sigma)
