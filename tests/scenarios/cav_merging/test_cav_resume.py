"""Training on the road with every module on, learned predictor, late messages and schedules, continues bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import dying_after

from marl.api import configure
from marl.training.checkpoint import CheckpointStore
from marl.training.run import resume, train
from marl.training.tracking import read_metrics
from scenarios.cav_merging.scenario import SCENARIO

OVERRIDES = [
    "copies=8",
    "total_steps=1536",
    "checkpoint.every_iterations=1",
    "coordination.guidance.enabled=true",
    "coordination.intent.enabled=true",
    "coordination.intent.predictor=learned",
    "coordination.intent.delay=2",
    "coordination.intent.loss=0.2",
    "coordination.intent.noise=0.05",
    "coordination.safety.enabled=true",
    "coordination.safety.early_margin=3.0",
    "coordination.safety.early_penalty=0.5",
]


def leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree, key=str) for leaf in leaves(tree[key])]
    return [tree]


@pytest.mark.parametrize(
    ("system", "own"),
    [
        ("mappo", ["algorithm.rollout=8", "algorithm.minibatches=2"]),
        ("es", ["algorithm.population=2", "world.horizon=8"]),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(system: str, own: list[str], tmp_path: Path) -> None:
    preset = (SCENARIO.presets / "hard.yaml").read_text()
    file = tmp_path / "run.yaml"
    file.write_text(f"system: {system}\n" + (preset if system == "mappo" else preset.partition("algorithm:")[0]))
    config = configure("cav_merging", config=file, overrides=[*OVERRIDES, *own])
    whole = train(config, tmp_path / "whole", live=False)
    with dying_after(2):
        train(config, tmp_path / "broken", live=False)
    resume(tmp_path / "broken", live=False)
    first, second = (CheckpointStore(tmp_path / name).latest(lambda _: None)[0] for name in ("whole", "broken"))
    for tree in (first, second):
        tree["counters"].pop("cpu_seconds")
    assert "predictor" in first["modules"]
    for one, other in zip(leaves(first), leaves(second), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    errors = [row["learn/intent_error"] for row in read_metrics(whole / "metrics.csv")]
    assert len(errors) == 4
    assert all(error > 0.0 for error in errors)
