"""``kill -9`` at random moments of a real ``marl train``, resumed in new processes: the same end, bit for bit."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL_RUNS

from marl.testing.kills import differences, survive_kills
from marl.training.checkpoint import CheckpointStore, save


@pytest.mark.parametrize(("world", "kills"), [("tensors", 2), ("sumo", 1), ("language", 1)])
def test_killed_and_resumed_equals_never_stopped(world: str, kills: int, tmp_path: Path) -> None:
    if world == "sumo" and importlib.util.find_spec("libsumo") is None and os.environ.get("CI") != "true":
        pytest.skip("SUMO is not installed")
    survival = survive_kills(SMALL_RUNS[world], tmp_path, kills, seed=1)
    assert not survival.faults, survival
    assert (survival.kills, survival.broken) == (kills, 0)
    assert survival.most_lost <= survival.interval
    if world == "sumo":  # the checkpoint's worlds are in the middle of an episode, told by what was said to SUMO so far
        state = CheckpointStore(tmp_path / "whole").latest(pytest.fail)[0]["world"]
        assert bool((state["sumo/length"] > 1).all())


def test_differences_are_seen(tmp_path: Path) -> None:
    """The comparison itself: a changed bit of a moment deep in a list, a missing tensor, a row too many."""

    def run(name: str, moment: float, rows: str, **more: Any) -> Path:
        tree = {"algorithm": {"adam": [{"step": 3, "moment": torch.tensor([moment])}]}, **more}
        save(tmp_path / name / "checkpoints" / "00000002", {**tree, "counters": {"cpu_seconds": moment}}, {"step": 2})
        (tmp_path / name / "metrics.csv").write_text("iteration,reward,cpu_seconds\n" + rows)
        return tmp_path / name

    whole = run("whole", 1.0, "1,0.5,1\n2,0.5,1\n")
    assert list(differences(whole, run("same", 1.0, "1,0.5,9\n2,0.5,9\n"))) == []
    assert list(differences(whole, run("bit", 1.0000001, "1,0.5,1\n2,0.5,1\n"))) == [
        "/tree/algorithm/adam/0/moment differs"
    ]
    assert list(differences(whole, run("more", 1.0, "1,0.5,1\n2,0.5,1\n", world=7))) == ["/tree/world differs"]
    assert list(differences(whole, run("twice", 1.0, "1,0.5,1\n2,0.5,1\n2,0.5,1\n"))) == [
        "the log has gaps or repeats",
        "the figures differ",
    ]
