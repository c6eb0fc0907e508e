"""How far the world that is trained in is from the world that judges: the same instances in both, metric by metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marl.errors import UserError
from marl.evaluation.runner import PolicyBuilder, evaluate
from marl.evaluation.statistics import Estimate, paired_difference
from marl.scenario import Counterparts, Scenario, find_baseline

#: Instances that a training plays before it begins.
WARNING_SEEDS = range(8)


@dataclass(frozen=True)
class Gap:
    """One metric: its means in the fast world and in the judge, and the paired difference.

    allowed: how far the means may be apart; None: as far as they like.
    """

    metric: str
    fast: float
    judge: float
    difference: Estimate
    allowed: float | None

    @property
    def too_far(self) -> bool:
        """The means are further apart than is allowed."""
        return self.allowed is not None and abs(self.fast - self.judge) > self.allowed


@dataclass(frozen=True)
class Comparison:
    """All metrics of two worlds; names: the fast world's and the judge's."""

    names: tuple[str, str]
    gaps: Sequence[Gap]
    mend: str

    @property
    def far(self) -> list[Gap]:
        """Those that are too far apart."""
        return [gap for gap in self.gaps if gap.too_far]

    def table(self) -> list[str]:
        """A line for each metric."""
        fast, judge = self.names
        width = max(len(gap.metric) for gap in self.gaps)
        lines = [f"{'':{width}} {fast:>10} {judge:>10} {'difference':>11}  95 %"]
        for gap in self.gaps:
            change = gap.difference
            lines.append(
                f"{gap.metric:{width}} {gap.fast:10.3f} {gap.judge:10.3f} {change.value:+11.3f}  "
                f"[{change.low:.3f}, {change.high:.3f}]{'  too far' if gap.too_far else ''}"
            )
        return lines

    def verdict(self) -> str:
        """One sentence."""
        fast, judge = self.names
        if not self.far:
            bounds = ", ".join(f"{gap.metric} within {gap.allowed:.3g}" for gap in self.gaps if gap.allowed is not None)
            return f"{fast} is near {judge}: {bounds}"
        told = ", ".join(f"{gap.metric} {gap.fast:.3g} against {gap.judge:.3g}" for gap in self.far)
        return f"{fast} is not {judge} here ({told}): {self.mend}"


def compare(scenario: Scenario, pair: Counterparts, policy: PolicyBuilder, seeds: Sequence[int]) -> Comparison:
    """Play the same instances in both worlds with one policy. Raises ``UserError``."""
    names = list(pair.worlds)
    worlds: list[tuple[dict[str, Any], Any]] = [({"world": name}, config) for name, config in pair.worlds.items()]
    results = evaluate(scenario, {"policy": policy}, worlds, seeds)
    fast, judge = (results.raw[index, "policy"] for index in range(2))
    gaps = []
    for metric in fast:
        if metric not in judge:
            continue
        one, other = float(np.nanmean(fast[metric])), float(np.nanmean(judge[metric]))
        allowed = pair.absolute.get(metric)
        if metric in pair.relative:
            allowed = pair.relative[metric] * abs(other)
        gaps.append(Gap(metric, one, other, paired_difference(fast[metric], judge[metric]), allowed))
    return Comparison((names[0], names[1]), gaps, pair.mend)


def warn_if_apart(scenario: Scenario, config: Any) -> list[str]:
    """What a training in the fast world should know: the verdict, where the judge is far; else nothing.

    Silent where there is nothing to compare, and where the judge is not installed.
    """
    if scenario.counterparts is None:
        return []
    try:
        pair = scenario.counterparts(config)
        if not pair.doubtful:
            return []
        rule = find_baseline(scenario, pair.rule)
        assert rule is not None
        found = compare(scenario, pair, rule, WARNING_SEEDS)
    except UserError:
        return []
    return [f"warning: {found.verdict()}"] if found.far else []
