"""A reference policy in the loss or the reward, and clips of two sides: recipes take them, runs resume exactly."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from test_language_trainer import equal, final_state, small

from marl.systems.registry import SYSTEMS
from marl.training import checkpoint
from marl.training.run import resume, train
from marl.training.run_folder import METRICS
from marl.training.tracking import read_metrics

CRITIC_FREE = [name for name, s in SYSTEMS.items() if s.kind == "language" and name not in ("poad", "mappo_text")]


SHORT = {"algorithm.warm_start.steps": 5, "total_steps": 1200, "world.max_turns": 5}
OPTIONS: list[dict[str, Any]] = [
    {"algorithm.kl": "{weight: 0.1, place: loss, estimator: k3}", "algorithm.epochs": 2},
    {"algorithm.kl": "{weight: 0.05, place: reward, estimator: k1}"},
]


@pytest.mark.parametrize("system", CRITIC_FREE)
@pytest.mark.parametrize("options", OPTIONS, ids=["loss", "reward"])
def test_every_critic_free_recipe_takes_them(system: str, options: dict[str, Any], tmp_path: Path) -> None:
    clips = {"algorithm.clip_low": 0.1, "algorithm.clip_high": 0.3, "algorithm.rate": 3e-3, "algorithm.warmup": 0}
    # GDPO learns nothing from answers that are all wrong and texts that are all no calls.
    own: dict[str, Any] = {"gdpo": {"algorithm.warm_start.steps": 80}, "at_grpo": {"total_steps": 6000}}.get(system, {})
    config = small(system, **{**SHORT, **clips, **options, **own})  # a tree of AT-GRPO takes many tokens an update
    rows = read_metrics(train(config, tmp_path / "run", live=False) / METRICS)
    drifts = [row["learn/kl_level_0"] for row in rows if "learn/kl_level_0" in row]
    assert len(drifts) > 1 and abs(drifts[0]) < 1e-4 < max(map(abs, drifts))


@pytest.mark.parametrize("options", OPTIONS, ids=["loss", "reward"])
def test_a_run_with_a_reference_resumes_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    config = small(**{**SHORT, "algorithm.rate": 3e-3, **options})
    whole = train(config, tmp_path / "whole", live=False)
    steps = checkpoint.CheckpointStore(whole).steps()
    assert len(steps) > 3
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    for later in steps[3:]:
        shutil.rmtree(checkpoint.CheckpointStore(part).path(later))
    resume(part, live=False)
    assert equal(final_state(whole), final_state(part))
    reference = final_state(whole)["algorithm"]["reference"]
    assert reference and not equal(reference, final_state(whole)["algorithm"]["policy"])
