"""The demo keeps its promise: its policy is better than the rule it is made after, on maps that training never met."""

from __future__ import annotations

from pathlib import Path

import pytest

from marl.training.demo import LEARNED, demo


@pytest.mark.learning
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_demo(tmp_path: Path, seed: int) -> None:
    done = demo(tmp_path / "run", [f"seed={seed}"], live=False)
    (instances, _, _), *_ = done.results.by_instances()
    assert done.results.difference(LEARNED, "guided_pibt", "throughput", instances).ci_low > 0
    assert done.results.difference(LEARNED, "pibt", "throughput", instances).ci_low > 0.2
    assert done.report.exists()
