"""The examples run as they stand, are short, and say what they promise."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
#: What the output of each must hold.
PROMISES = {
    "check_a_plan": "faults: none",
    "drive_in_sumo": "100 % of the ramp cars merged",
    "how_many_robots_fit_my_hall": " 32 robots:",
    "parts_in_my_own_loop": "gradient norm",
    "train_and_judge": "first actions:",
    "which_policy_is_better": "guided_pibt is ahead by",
}


def test_all_are_tried_and_short() -> None:
    files = {file.stem: file.read_text(encoding="utf-8") for file in EXAMPLES.glob("*.py")}
    assert set(files) == set(PROMISES)
    for name, text in files.items():
        assert text.startswith('"""') and len(text.splitlines()) <= 40, name


@pytest.mark.parametrize("name", sorted(PROMISES))
def test_an_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert PROMISES[name] in capsys.readouterr().out
