"""The page of others' instances: what is found in a folder, and what its rows say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_lorr import problem

from scripts.benchmarks.lifelong_mapf import instances


def folder_of(path: Path) -> Path:
    """A folder with one problem of the league under an official name, and a scenario."""
    league = path / "lorr2023"
    problem(league / "hall.domain", [0, 4, 10], [4, 0, 2, 12, 14, 1, 3])
    (league / "hall.domain" / "p.json").rename(league / "hall.domain" / "MR23-I-04.json")
    (league / "simulation_time.json").write_text(json.dumps({"I-04": 40}))
    return path


def test_what_is_there_is_found_and_the_rest_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path)
    found = list(instances.league(folder, "2023", False))
    assert [(one.name, one.motion, one.steps) for one in found] == [
        ("MR23-I-04", "turning", 40),
        ("MR23-I-04", "moves", 40),
    ]
    assert found[0].published == 1741 / 40 and found[1].published is None
    assert not [
        *instances.league(folder, "2024", True),
        *instances.sillm(folder, tmp_path),
        *instances.one_shot(folder),
    ]
    monkeypatch.setattr("sys.argv", ["instances", "--instances", str(tmp_path / "none")])
    instances.main()
    assert "is not there: nothing to play" in capsys.readouterr().out


@pytest.mark.parametrize("motion", ["turning", "moves"])
def test_a_row_is_valid_if_the_plan_holds_what_was_counted(tmp_path: Path, motion: str) -> None:
    instance = next(one for one in instances.league(folder_of(tmp_path), "2023", False) if one.motion == motion)
    row = instances.play(instance, "pibt")
    assert instances.valid(row) and row["tasks"] > 10 and row["mib"] > 50
    assert (row["forward_share"] is None) == (motion == "moves")
    lines = instances.lines_of([row])
    rate = f"{row['tasks'] / 40:.2f}"
    assert any(f"| 40 | pibt | {row['tasks']:.0f} | {rate} |" in line and "| yes |" in line for line in lines)
    assert not instances.valid(row | {"tasks": row["tasks"] + 1})
    assert not instances.valid(row | {"faults": ["step 1: robots 0 and 1: vertex conflict at [0, 0]"]})
    assert any("**no**" in line for line in instances.lines_of([row | {"faults": ["x"]}]))
