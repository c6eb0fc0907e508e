"""What ``marl status`` says of a run: running, stopped, finished, its rates, losses and workers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from marl.cli import main
from marl.envs.pool_base import WorkerState
from marl.errors import UserError
from marl.training.run_folder import locked
from marl.training.status import note_workers, status_lines

TINY = {"scenario": "pettingzoo", "system": "mappo", "seed": 3, "total_steps": 400, "preset": None}


def folder_of(path: Path, steps: list[int]) -> Path:
    """A run folder with a row of figures for each of these numbers of agent-steps."""
    (path / "config.yaml").write_text(yaml.safe_dump(TINY), "utf-8")
    columns = ["iteration", "agent_steps", "cpu_seconds", "reward", "episode/return", "episode/lost"]
    with (path / "metrics.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows([k + 1, n, 2.0 * (k + 1), 0.5, 7.25, k / 10] for k, n in enumerate(steps))
    return path


def test_a_run_that_stopped(tmp_path: Path) -> None:
    lines = list(status_lines(folder_of(tmp_path, [100, 200, 300])))
    assert lines == [
        "pettingzoo, mappo, seed 3: stopped",
        "300 of 400 agent-steps in 3 iterations",
        "50 agent-steps per CPU-second of the learner",
        "reward 0.5, episode/return 7.25",
        "10 % of the episodes lost with a worker, in 3 iterations",
    ]


def test_a_run_that_runs_and_one_that_has_ended(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [100, 400])
    assert next(iter(status_lines(folder))).endswith("finished")
    with locked(folder) as lock:
        assert next(iter(status_lines(folder))).endswith(f"runs in process {(folder / '.lock').read_text()}")
        assert not lock.closed
    assert list(status_lines(folder_of(tmp_path, [])))[1:] == ["0 of 400 agent-steps in 0 iterations"]


def test_workers_and_their_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note_workers(folder_of(tmp_path, [100]), [WorkerState("a, process 7", 4, 0), WorkerState("b, process 9", 3, 2)], 2)
    assert main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-3].startswith("2 workers, 2 replaced; noted 0 s ago")
    assert said[-2:] == ["  a, process 7: 4 copies, replaced 0 times", "  b, process 9: 3 copies, replaced 2 times"]


def test_what_is_no_run(tmp_path: Path) -> None:
    assert main(["status", str(tmp_path)]) == 2
    (folder_of(tmp_path, [1]) / "workers.json").write_text(json.dumps({"workers": 3}), "utf-8")
    with pytest.raises(UserError, match="is no record of workers"):
        list(status_lines(tmp_path))


def test_a_run_notes_its_workers(tmp_path: Path) -> None:
    small = ["copies=2", "algorithm.rollout=4", "algorithm.minibatches=1", "total_steps=1", "world.worker_count=1"]
    env = ["--env", "mpe2.simple_spread_v3:parallel_env", "--env-arg", "max_cycles=4"]
    words = [word for text in small for word in ("--set", text)]
    assert main(["train", "pettingzoo", *env, *words, "--out", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / "workers.json").read_text())
    assert [row["copies"] for row in record["workers"]] == [2] and record["restarts"] == 0
