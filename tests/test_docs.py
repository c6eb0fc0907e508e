"""The pages show what works: code blocks of the documentation are written to files and run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from marl.cli import main

REPO = Path(__file__).parent.parent
BLOCK = re.compile(r"```(?:python|yaml)\n# file: (\S+)\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```console\n(.*?)```", re.DOTALL)


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}:{REPO}"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(folder: Path, page: str) -> dict[str, str]:
    """The files of a page, after writing them to the folder."""
    files = dict(BLOCK.findall((REPO / "docs" / page).read_text(encoding="utf-8")))
    for name, code in files.items():
        (folder / name).write_text(code, encoding="utf-8")
    return files


def met_shares(folder: Path, page: str) -> list[float]:
    """What the last command of a page says of its runs, after all of its commands."""
    last = ""
    for block in COMMANDS.findall((REPO / "docs" / page).read_text(encoding="utf-8")):
        for line in block.strip().replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            assert words[0] == "marl"
            last = run(folder, "-m", *words)
    return [float(share) for share in re.findall(r"^runs/\S+ +(0\.\d+)", last, re.MULTILINE)]


def test_your_own_world_and_algorithm(tmp_path: Path) -> None:
    files = written(tmp_path, "your_own.md")
    worlds = {"rendezvous.py", "rendezvous.yaml", "check_rendezvous.py", "orchard.py", "check_orchard.py"}
    assert set(files) == worlds | {"a2c.py", "gated.py"}
    lengths = {name: sum(bool(line.strip()) for line in code.splitlines()) for name, code in files.items()}
    assert lengths["rendezvous.py"] <= 60 and lengths["orchard.py"] <= 60
    run(tmp_path, "check_rendezvous.py")
    run(tmp_path, "check_orchard.py")
    # Two agents that walk at random meet in one step of twelve; all algorithms do several times better.
    shares = met_shares(tmp_path, "your_own.md")
    assert len(shares) == 3 and min(shares) > 0.25


def test_two_algorithms(tmp_path: Path) -> None:
    written(tmp_path, "your_own.md")
    assert set(written(tmp_path, "two_algorithms.md")) == {"happo.py", "qmix.py"}
    shares = met_shares(tmp_path, "two_algorithms.md")
    assert len(shares) == 2 and min(shares) > 0.6


def test_readme_python(tmp_path: Path) -> None:
    """The README's ten lines, on a small run in the place of the one it names."""
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "marl.load" in block]
    small = ["total_steps=6144", "copies=8", "algorithm.rollout=16", "world.map_pool=3"]
    sets = [word for key in small for word in ("--set", key)]
    run(tmp_path, "-m", "marl", "train", "lifelong_mapf", "--preset", "demo", "--out", "runs/demo", *sets)
    (tmp_path / "lines.py").write_text(code, encoding="utf-8")
    assert "throughput" in run(tmp_path, "lines.py")


def test_your_own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An own language recipe, safety rule and coordination module, each as short as the page says."""
    page = (REPO / "docs" / "your_own_modules.md").read_text(encoding="utf-8")
    files = dict(BLOCK.findall(page))
    assert set(files) == {"rloo.py", "patient.py", "habit.py"}
    for name, code in files.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    lengths = {name: sum(bool(line.strip()) for line in code.splitlines()) for name, code in files.items()}
    assert lengths["rloo.py"] <= 20 and lengths["patient.py"] <= 30
    monkeypatch.chdir(tmp_path)
    shown = {}
    for block in COMMANDS.findall(page):
        for line in block.strip().replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            assert words[0] == "marl" and main(words[1:]) == 0, capsys.readouterr().err
            shown[line] = capsys.readouterr().out
    assert "interventions_per_step" in next(text for line, text in shown.items() if "runs/patient-safety" in line)
    # What a run depends on is saved with it, and a file may not have code run unasked.
    command = [sys.executable, "-m", "marl", "evaluate", "lifelong_mapf", "--policies", "runs/habit"]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2 and "--trust habit" in done.stderr
