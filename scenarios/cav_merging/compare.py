"""The same demand in both backends: figures of each episode, and the time headways behind the acceleration lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from scenarios.cav_merging.baselines import BASELINES
from scenarios.cav_merging.config import DECISION_S, CavConfig
from scenarios.cav_merging.traffic import R
from scenarios.cav_merging.world import CavMerging

#: Metres behind the end of the acceleration lane at which cars are timed.
DETECTOR_M = 50.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """metrics: name -> float64 ``[seeds]``. headways: seconds between cars that follow one another, an array a seed."""

    metrics: dict[str, Floats]
    headways: list[Floats]


class Detector:
    """Times the front bumpers that cross x = ``merge_end`` + 50 m, by lane; between two decisions speed is constant."""

    def __init__(self, env: CavMerging):
        self._env = env
        self._times: list[dict[int, list[float]]] = [{} for _ in range(env.copies)]
        self._remember()

    def _remember(self) -> None:
        t = self._env.traffic
        self._x, self._number, self._present = t.x.clone(), t.number.clone(), t.present.clone()

    def look(self) -> None:
        """Call after each step but the one that ends the episode."""
        t = self._env.traffic
        line = t.road[:, R.MERGE_END, None] + DETECTOR_M
        same = t.present & self._present & (t.number == self._number)
        for b, i in (same & (self._x < line) & (t.x >= line)).nonzero().tolist():
            share = float((line[b, 0] - self._x[b, i]) / (t.x[b, i] - self._x[b, i]))
            time_s = (int(t.step[b]) - 1 + share) * DECISION_S
            self._times[b].setdefault(int(t.lane[b, i]), []).append(time_s)
        self._remember()

    def headways(self) -> list[Floats]:
        """Of each copy, all lanes together, s."""
        return [
            np.concatenate([np.diff(np.sort(times)) for times in lanes.values()] or [np.zeros(0)])
            for lanes in self._times
        ]


def play(config: CavConfig, policy: str, seeds: Sequence[int], batch: int = 20) -> Sample:
    """One episode of each seed."""
    metrics: dict[str, list[Floats]] = {}
    headways: list[Floats] = []
    for first in range(0, len(seeds), batch):
        chunk = torch.tensor(seeds[first : first + batch])
        env = CavMerging(config, len(chunk))
        try:
            driver = BASELINES[policy](env)
            timestep = env.reset(chunk)
            detector = Detector(env)
            for step in range(config.horizon):
                timestep = env.step(driver.act(timestep))
                if step < config.horizon - 1:
                    detector.look()
            headways += detector.headways()
            for name, values in timestep.metrics.items():
                metrics.setdefault(name, []).append(values.double().numpy())
        finally:
            env.close()
    return Sample({name: np.concatenate(parts) for name, parts in metrics.items()}, headways)
