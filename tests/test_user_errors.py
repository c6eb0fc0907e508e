"""What a user can get wrong in lifelong path finding: one sentence with the place and the mend, exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from marl.cli import main

EVALUATE = ["evaluate", "lifelong_mapf", "--policies", "pibt", "--seeds", "0:1", "--horizon", "4"]


def fail(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    captured = capsys.readouterr().err.strip()
    assert captured.startswith("marl: error: ") and "\n" not in captured and "Traceback" not in captured
    return captured


def write(path: Path, *rows: str) -> str:
    head = ["type octile", f"height {len(rows)}", f"width {len(rows[0])}", "map"]
    path.write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")
    return str(path)


def test_no_such_map(capsys: pytest.CaptureFixture[str]) -> None:
    assert "warehouse" in fail(capsys, *EVALUATE, "--map", "warehose")
    assert "nowhere.map" in fail(capsys, *EVALUATE, "--map", "nowhere.map")


def test_ragged_map(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = fail(capsys, *EVALUATE, "--map", write(tmp_path / "ragged.map", "....", "...", "...."))
    assert "ragged.map" in message and "6" in message  # the line of the file


def test_more_agents_than_cells(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = fail(capsys, *EVALUATE, "--map", write(tmp_path / "small.map", "...", "..."), "--agents", "7")
    assert "6" in message and "7" in message


def test_goal_inside_a_wall(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    grid = write(tmp_path / "wall.map", "...", ".@.", "...")
    tasks = tmp_path / "tasks.json"
    body = {"schema_version": 1, "map": grid, "agents": [{"start": [0, 0], "goals": [[2, 2], [1, 1]]}]}
    tasks.write_text(json.dumps(body), encoding="utf-8")
    assert "1, 1" in fail(capsys, *EVALUATE, "--tasks", str(tasks))


def test_unknown_key_and_value_out_of_range(capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", "lifelong_mapf", "--dry-run"]
    assert "'world.agents'" in fail(capsys, *train, "--set", "world.agentz=3")
    assert "algorithm.epochs" in fail(capsys, *train, "--set", "algorithm.epochs=0")
    assert "--agents" in fail(capsys, *train, "--agent", "3")
    assert "lifelong_mapf" in fail(capsys, "train", "lifelong_mpaf")


def test_options_of_modules_that_a_world_cannot_serve(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # Were it no error, the run would be over after one update.
    words = ["train", "lifelong_mapf", "--out", str(tmp_path / "run"), "--set", "total_steps=1"]
    words += ["--set", "coordination.safety.enabled=true", "--set", "coordination.safety.margin=1"]
    assert "coordination.safety.margin" in fail(capsys, *words)
    assert not (tmp_path / "run").exists()
