"""Both backends of the road pass the conformance kit."""

from __future__ import annotations

import os
from typing import Any

import pytest

from marl.testing import check_batched
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.world import CavMerging

CARS_COME = {
    "geometry": {"main_lanes": (1, 2)},
    "drivers": "mixed",
    "flow_veh_per_h": 2400,
    "max_cavs": 6,
    "max_humans": 6,
}


@pytest.mark.parametrize("options", [{}, CARS_COME])
def test_the_twin_conforms(options: dict[str, Any]) -> None:
    config = CavConfig(horizon=10, **options)
    report = check_batched(lambda copies: CavMerging(config, copies), steps=24, batches=(1, 2, 5))
    assert not report.findings, str(report)


def test_sumo_conforms() -> None:
    if os.environ.get("CI") != "true":
        pytest.importorskip("libsumo")
    config = CavConfig(horizon=4, backend="sumo")
    report = check_batched(lambda copies: CavMerging(config, copies), steps=9, batches=(1, 2))
    assert not report.findings, str(report)
