"""The trainer on the tiny world: it learns, resumes bit for bit, and its batches mean what they say."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import dying_after
from tiny_scenario import tiny_config

from marl.errors import UserError
from marl.training import checkpoint
from marl.training.checkpoint import CheckpointStore
from marl.training.run import resume, train
from marl.training.tracking import read_metrics


def final_tree(folder: Path) -> dict[str, Any]:
    tree, _, _ = CheckpointStore(folder).latest(lambda _: None)
    tree["counters"].pop("cpu_seconds")
    return tree


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {name: leaf for key, branch in tree.items() for name, leaf in flat(branch, f"{path}/{key}").items()}
    return {path: tree}


def assert_equal(a: Any, b: Any) -> None:
    first, second = flat(a), flat(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        assert same, name


VARIANTS: dict[str, dict[str, Any]] = {
    "feed-forward": {},
    "recurrent": {"algorithm": {"actor": {"recurrent": "gru"}, "critic": {"recurrent": "gru"}, "stretch": 8}},
    "two groups": {"world": {"unlike": True, "agents": 3}},
    "agents die and are replaced": {"world": {"mortal": True, "refill": 3, "slip": 0.2}},
    "masks": {"world": {"masks": True}},
    "continuous": {"world": {"continuous": True}},
    "one network each": {"algorithm": {"sharing": "none"}},
    "attention": {"algorithm": {"critic_mixer": "attention"}},
    "deep sets, no state": {"world": {"state": "none", "observation": "dict"}},
    "shared state": {"world": {"state": "shared"}, "algorithm": {"agent_index": True}},
    "value clip and squared loss": {"algorithm": {"value_clip": 0.2, "value_loss": "squared", "value_norm": False}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_resume_is_exact(tmp_path: Path, name: str) -> None:
    """Stopped after 3 of 6 iterations, in mid-episode or not, and continued: every tensor as if never stopped."""
    config = tiny_config(**VARIANTS[name])
    whole = train(config, tmp_path / "whole", live=False)
    broken = tmp_path / "broken"
    with dying_after(3):
        train(config, broken, live=False)
    resume(broken, live=False)
    assert_equal(final_tree(whole), final_tree(broken))
    first, second = read_metrics(whole / "metrics.csv"), read_metrics(broken / "metrics.csv")
    for row in (*first, *second):
        row.pop("cpu_seconds")
    assert first == second
    assert [row["iteration"] for row in second] == list(range(1, len(second) + 1))


@pytest.mark.parametrize("system", ["mappo", "ippo"])
@pytest.mark.parametrize("name", VARIANTS)
def test_first_ratio_is_one(tmp_path: Path, name: str, system: str) -> None:
    """What the policy did and what the learner re-evaluates are the same, memory and masks included."""
    if system == "ippo" and name == "shared state":
        pytest.skip("local critics see no state")
    folder = train(tiny_config(system, **VARIANTS[name]), tmp_path / "run", live=False)
    for row in read_metrics(folder / "metrics.csv"):
        assert row["learn/first_log_ratio"] < 1e-5


def test_two_fresh_runs_are_equal_and_seeds_differ(tmp_path: Path) -> None:
    runs = [train(tiny_config(seed=seed), tmp_path / str(i), live=False) for i, seed in enumerate((0, 0, 1))]
    a, b, c = (final_tree(run) for run in runs)
    assert_equal(a, b)
    with pytest.raises(AssertionError):
        assert_equal(a, c)


def test_mappo_learns_the_tiny_world(tmp_path: Path) -> None:
    config = tiny_config(
        total_steps=2 * 16 * 32 * 60,
        copies=32,
        algorithm={"epochs": 4, "actor_rate": 3e-3, "critic_rate": 3e-3, "gamma": 0.9},
        checkpoint={"every_iterations": 100},
    )
    rows = read_metrics(train(config, tmp_path / "run", live=False) / "metrics.csv")
    reached = [row["episode/reached_share"] for row in rows if "episode/reached_share" in row]
    assert sum(reached[-5:]) / 5 > 0.9 > 0.6 > reached[0]


def test_a_broken_checkpoint_is_named_and_the_previous_one_used(tmp_path: Path) -> None:
    config = tiny_config()
    folder = train(config, tmp_path / "run", live=False)
    newest = max((folder / "checkpoints").iterdir())
    data = (newest / "tensors.safetensors").read_bytes()
    (newest / "tensors.safetensors").write_bytes(data[:-7])
    said: list[str] = []
    resume(folder, said.append, live=False)
    assert any(newest.name in line for line in said)
    assert_equal(final_tree(folder), final_tree(train(config, tmp_path / "again", live=False)))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_failing_disk_ends_a_run_that_then_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The third checkpoint cannot be written; when there is room again the run goes on to the same end."""
    config = tiny_config()
    whole, broken = train(config, tmp_path / "whole", live=False), tmp_path / "broken"
    write, calls = checkpoint._write, []

    def failing(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) > 4:  # two files each
            raise OSError(code, os.strerror(code))
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", failing)
        with pytest.raises(UserError, match=f"00000004 cannot be written: {os.strerror(code)}"):
            train(config, broken, live=False)
    assert CheckpointStore(broken).steps() == [0, 2]
    resume(broken, live=False)
    assert_equal(final_tree(whole), final_tree(broken))


def test_no_gpu_is_one_sentence(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="device=cuda"):
        train(tiny_config(device="cuda"), tmp_path / "run", live=False)


def test_the_kl_stop_ends_an_update_early(tmp_path: Path) -> None:
    options = {"epochs": 4, "minibatches": 2, "actor_rate": 1e-2}
    free = train(tiny_config(algorithm=options), tmp_path / "free", live=False)
    held = train(tiny_config(algorithm=options | {"target_kl": 1e-6}), tmp_path / "held", live=False)
    assert {row["learn/minibatch_steps"] for row in read_metrics(free / "metrics.csv")} == {8}
    assert max(row["learn/minibatch_steps"] for row in read_metrics(held / "metrics.csv")) < 8
