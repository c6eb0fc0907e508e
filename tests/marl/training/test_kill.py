"""``kill -9`` at random moments of a real ``marl train``, resumed in new processes: the same end, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from marl.training.checkpoint import CheckpointStore
from marl.training.tracking import read_metrics

REPO = Path(__file__).resolve().parents[3]
KILLS = 3
WORDS = ["train", "lifelong_mapf", "--agents", "6", "--horizon", "48"]
SETTINGS = {
    "total_steps": 6 * 8 * 16 * 40,
    "copies": 8,
    "world.map_pool": 2,
    "world.generator": "{kind: random, size: 10}",
    "algorithm.rollout": 16,
    "algorithm.minibatches": 1,
    "algorithm.epochs": 1,
    "checkpoint.every_iterations": 3,
}


def marl(*words: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "marl", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def tensors(tree: object, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(tree, dict):
        return {name: leaf for key, branch in tree.items() for name, leaf in tensors(branch, f"{path}/{key}").items()}
    return {path: tree} if isinstance(tree, torch.Tensor) else {}


def checkpoints(folder: Path) -> int:
    return len(list((folder / "checkpoints").glob("[0-9]*"))) if folder.exists() else 0


def test_killed_and_resumed_equals_never_stopped(tmp_path: Path) -> None:
    words = WORDS + [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert marl(*words, "--out", str(whole)).wait(timeout=240) == 0
    dice = random.Random(0)
    process = marl(*words, "--out", str(broken))
    for _ in range(KILLS):
        deadline = time.monotonic() + 120
        while not checkpoints(broken) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(dice.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = marl("train", "--resume", str(broken))
        # Wait until it is at work again, so that the next kill does not only hit imports.
        before = (broken / "provenance.json").stat().st_mtime_ns
        while (broken / "provenance.json").stat().st_mtime_ns == before and process.poll() is None:
            time.sleep(0.02)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said.decode()

    trees = [CheckpointStore(folder).latest(lambda _: None)[0] for folder in (whole, broken)]
    first, second = map(tensors, trees)
    assert first.keys() == second.keys() and len(first) > 40
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [read_metrics(folder / "metrics.csv") for folder in (whole, broken)]
    for row in (*logs[0], *logs[1]):
        row.pop("cpu_seconds")
    assert logs[0] == logs[1]
