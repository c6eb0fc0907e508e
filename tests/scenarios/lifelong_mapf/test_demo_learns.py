"""The demo keeps its promise: better than guidance alone, and 90 % of PIBT, on maps that training never met."""

from __future__ import annotations

from pathlib import Path

import pytest

from marl.training.demo import LEARNED, demo


@pytest.mark.learning
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_demo(tmp_path: Path, seed: int) -> None:
    done = demo(tmp_path / "run", [f"seed={seed}"], live=False)
    rows = {row.policy: row for row in done.results.rows if row.metric == "throughput"}
    pair = next(
        pair for pair in done.results.paired if (pair.a, pair.b, pair.metric) == (LEARNED, "follow_path", "throughput")
    )
    assert pair.ci_low > 0
    assert rows[LEARNED].mean >= 0.9 * rows["pibt"].mean
    assert done.report.exists()
