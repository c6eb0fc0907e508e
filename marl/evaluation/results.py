"""``Results``: the rows and paired differences of an evaluation, in memory and as JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from marl.envs.batched import Metric
from marl.evaluation.statistics import Array

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One metric of one policy on one set of instances.

    mean: over the ``n`` episodes in which the metric is defined (its interquartile mean where the metric's name ends
        in ``_iqm``). ci_low, ci_high: 95 % bootstrap interval. NaN if it is defined in none.
    ms_per_step: milliseconds to decide for all agents of one copy for one world step.
    """

    policy: str
    instances: Mapping[str, Any]
    metric: str
    mean: float
    ci_low: float
    ci_high: float
    n: int
    ms_per_step: float


@dataclass(frozen=True)
class Pair:
    """``a`` minus ``b`` in one metric over the same ``n`` episodes, with its 95 % bootstrap interval."""

    a: str
    b: str
    instances: Mapping[str, Any]
    metric: str
    difference: float
    ci_low: float
    ci_high: float
    n: int

    def reversed(self) -> Pair:
        """``b`` minus ``a``."""
        return Pair(self.b, self.a, self.instances, self.metric, -self.difference, -self.ci_high, -self.ci_low, self.n)


@dataclass(frozen=True)
class Results:
    """What an evaluation found.

    primary_metric, metrics: of the worlds' ``EnvSpec``.
    paired: every pair of policies, the one named first as ``a``.
    raw: (index of the set of instances, policy) -> metric -> float64 ``[seeds * episodes]``; not part of the JSON.
    sets, seeds: what distinguishes the sets of instances, in order, and the seeds of each.
    """

    scenario: str
    primary_metric: str
    metrics: Mapping[str, Metric]
    rows: tuple[Row, ...]
    paired: tuple[Pair, ...]
    raw: Mapping[tuple[int, str], Mapping[str, Array]] = field(default_factory=dict, repr=False)
    sets: Sequence[Mapping[str, Any]] = ()
    seeds: Sequence[int] = ()

    @property
    def policies(self) -> list[str]:
        return list(dict.fromkeys(row.policy for row in self.rows))

    def by_instances(self) -> Iterator[tuple[Mapping[str, Any], list[Row], list[Pair]]]:
        """Each set of instances with its rows and pairs, in order."""
        sets: list[Mapping[str, Any]] = []
        for row in self.rows:
            if row.instances not in sets:
                sets.append(row.instances)
        for instances in sets:
            rows = [row for row in self.rows if row.instances == instances]
            yield instances, rows, [pair for pair in self.paired if pair.instances == instances]

    def difference(self, a: str, b: str, metric: str, instances: Mapping[str, Any]) -> Pair:
        """``a`` minus ``b``, whichever of them was named first. Raises ``KeyError`` if they were not compared."""
        for pair in self.paired:
            if pair.metric == metric and pair.instances == instances:
                if (pair.a, pair.b) == (a, b):
                    return pair
                if (pair.a, pair.b) == (b, a):
                    return pair.reversed()
        raise KeyError(f"{a} and {b} were not compared in {metric} on {dict(instances)}")

    def to_json(self) -> dict[str, Any]:
        """The form of ``marl evaluate --json``; NaN (a metric defined in no episode) is null."""
        return {
            "schema_version": SCHEMA_VERSION,
            "scenario": self.scenario,
            "rows": [_plain(asdict(row)) for row in self.rows],
            "paired": [_plain(asdict(pair)) for pair in self.paired],
        }

    def write_json(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def write_csv(self, path: Path) -> None:
        """A row for each episode: policy, instance, seed, number of the episode on that seed, and its metrics.

        A metric that is not defined in an episode is left empty.
        """
        metrics = list(dict.fromkeys(name for figures in self.raw.values() for name in figures))
        words = list(dict.fromkeys(word for instances in self.sets for word in instances))
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["policy", *words, "seed", "episode", *metrics])
            for (index, policy), figures in self.raw.items():
                count = len(next(iter(figures.values())))
                each = count // len(self.seeds)
                about = [self.sets[index].get(word, "") for word in words]
                for k in range(count):
                    values = [figures[name][k] if name in figures else math.nan for name in metrics]
                    told = ["" if math.isnan(value) else repr(float(value)) for value in values]
                    rows.writerow([policy, *about, self.seeds[k // each], k % each, *told])


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
