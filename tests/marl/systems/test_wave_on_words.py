"""The recipes on a tiny world: they run, log what their papers show, and resume bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from marl import api
from marl.training import checkpoint
from marl.training.run import resume, train
from marl.training.run_folder import METRICS
from marl.training.tracking import read_metrics
from scenarios.miniatures.scenario import SCENARIO

NAME = "scenarios.miniatures.scenario:SCENARIO"
#: System -> figures that its paper shows.
LOGS = {
    "remax": ["baseline", "advantage"],
    "mathforge": ["zero_variance_groups", "largest_question_weight"],
    "riskpo": ["lower_quantile", "upper_quantile"],
    "p3o": ["pairs_level_0"],
    "trpa": ["pairs_level_0", "kl_level_0"],
    "r2vpo": ["price_level_0", "ratio_moment_level_0", "would_clip_level_0"],
    "infopo": ["information", "gate"],
    "adacot": ["call_rate", "missed", "overdone"],
}
SMALL = (
    "total_steps=700",
    "copies=32",
    "world.words.look=0.5",
    "algorithm.warm_start.steps=20",
    "algorithm.warm_start.batch=8",
    "algorithm.policy.transformer={width: 16, layers: 1, heads: 2, kv_heads: 1, hidden: 32}",
    "checkpoint.every_iterations=1",
    "checkpoint.keep=100",
    "evaluation.every_iterations=0",
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


@pytest.mark.parametrize("name", LOGS)
def test_it_logs_and_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    assert "words" in SCENARIO.preset_names()  # loaded, so that a run may name it
    config = api.configure(NAME, preset="words", system=name, overrides=SMALL)
    whole = train(config, tmp_path / "whole", live=False)
    rows = read_metrics(whole / METRICS)
    assert all(f"learn/{figure}" in rows[-1] for figure in [*LOGS[name], "entropy_level_0"])
    assert 0.0 <= rows[-1]["episode/success"] <= rows[-1]["episode/solved_groups"] <= 1.0
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    steps = checkpoint.CheckpointStore(part).steps()
    assert len(steps) > 3
    for later in steps[-2:]:
        shutil.rmtree(checkpoint.CheckpointStore(part).path(later))
    resume(part, live=False)
    ends = [checkpoint.load(s.path(steps[-1]))[0] for s in map(checkpoint.CheckpointStore, (whole, part))]
    assert same(ends[0]["algorithm"], ends[1]["algorithm"])
    if name in ("riskpo", "r2vpo"):
        assert any(memory for memory in ends[0]["algorithm"]["memory"].values())
