"""Learning from whom an iteration of the search should start: what it will gain, and what it will cost.

Both are counted while the search plays: the delay that an iteration takes away, in steps, and the states that it
expands. Each is fitted by a Poisson regression with a logarithmic link, so that the logarithm of their ratio, gain per
work, is linear in the features: its weights are the score (``neighbourhoods.Choice``). While it records, half of the
iterations start from the agent of the highest score so far, the others from any that is delayed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from marl.seeding import below_numba, fold_numba
from scenarios.lifelong_mapf.guidance.base import NONE, GuidanceConfig
from scenarios.lifelong_mapf.search.neighbourhoods import FEATURES, Ground, Plans, choose, improve, write_features
from scenarios.lifelong_mapf.search.windowed import Windowed, WindowedConfig, WindowedWorld

#: Work of an iteration besides its states, in states.
OVERHEAD = 10

_COIN, _ANYBODY = 101, 102

Array = NDArray[np.float64]


class Recording(Windowed):
    """The search, and what each of its iterations was like: rows of features, gain (steps) and work (states)."""

    def __init__(
        self,
        world: WindowedWorld,
        options: WindowedConfig,
        guidance: GuidanceConfig,
        choice: tuple[int, Sequence[float]],
    ):
        super().__init__(world, options, guidance, choice)
        self.rows: list[Array] = []

    def _improve(self, key: np.int64, ground: Ground, plans: Plans) -> None:
        fresh = int(plans.fresh[0])
        improve(key, 0, fresh, ground, plans, self._choice, self._party, self._search)
        row = np.empty(len(FEATURES) + 2, np.float64)
        for iteration in range(fresh, self._options.iterations):
            drawn = fold_numba(key, np.int64(iteration))
            agent = choose(drawn, ground, plans, self._choice)
            delayed = np.flatnonzero(plans.delay)
            if agent == NONE or not delayed.size:
                continue
            if below_numba(fold_numba(drawn, np.int64(_COIN)), np.int64(2)):
                agent = delayed[below_numba(fold_numba(drawn, np.int64(_ANYBODY)), np.int64(delayed.size))]
            write_features(agent, ground, plans, row[: len(FEATURES)])
            plans.fresh[:3] = 1, 0, agent
            delay, states = plans.delay.sum(), self._search.tally[1]
            improve(key, iteration, 1, ground, plans, self._choice, self._party, self._search)
            row[-2] = (delay - plans.delay.sum()) / ground.units
            row[-1] = self._search.tally[1] - states + OVERHEAD
            self.rows.append(row.copy())


def poisson_regression(inputs: Array, counts: Array, ridge: float = 1e-3, rounds: int = 40) -> Array:
    """Weights ``[F]`` of ``inputs`` ``[K, F]`` for which ``counts`` ``[K]`` are likeliest, by Newton's method."""
    weights = np.zeros(inputs.shape[1])
    penalty = np.full(weights.size, ridge)
    for _ in range(rounds):
        expected = np.exp(np.clip(inputs @ weights, -30, 30))
        slope = inputs.T @ (counts - expected) / len(counts) - penalty * weights
        curvature = (inputs.T * expected) @ inputs / len(counts) + np.diag(penalty)
        # Far from the top a full step may overshoot.
        weights = weights + np.clip(np.linalg.solve(curvature, slope), -1.0, 1.0)
    fitted: Array = weights
    return fitted


def score_weights(cases: Sequence[Array]) -> Array:
    """Weights of ``FEATURES`` for the logarithm of gain per work.

    cases: for each kind of world rows ``[K, FEATURES + 2]`` of ``Recording``. How much there is to gain in a world is
    not for the score to say: each has a constant of its own, and together they count alike.
    """
    least = min(map(len, cases))
    rows = np.concatenate([case[np.random.default_rng(0).permutation(len(case))[:least]] for case in cases])
    constants = np.repeat(np.eye(len(cases)), least, axis=0)
    inputs = np.column_stack([rows[:, :-2], constants])
    difference: Array = poisson_regression(inputs, rows[:, -2]) - poisson_regression(inputs, rows[:, -1])
    return difference[: len(FEATURES)]


def gain_per_work(rows: Array, score: Array, draws: int, seed: int = 0) -> float:
    """Steps gained per 1,000 states if each iteration started from the best of ``draws`` rows by ``score`` ``[K]``."""
    drawn = np.random.default_rng(seed).integers(0, len(rows), (20_000, draws))
    best = drawn[np.arange(len(drawn)), np.argmax(score[drawn], axis=1)]
    return float(1000 * rows[best, -2].sum() / rows[best, -1].sum())
