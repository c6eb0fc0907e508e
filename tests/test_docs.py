"""The pages show what works: code blocks of the documentation are written to files and run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

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


def test_your_own_world_and_algorithm(tmp_path: Path) -> None:
    page = (REPO / "docs" / "your_own.md").read_text(encoding="utf-8")
    files = dict(BLOCK.findall(page))
    assert set(files) == {"rendezvous.py", "rendezvous.yaml", "check_rendezvous.py", "a2c.py", "gated.py"}
    for name, code in files.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    run(tmp_path, "check_rendezvous.py")
    last = ""
    for block in COMMANDS.findall(page):
        for line in block.strip().replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            assert words[0] == "marl"
            last = run(tmp_path, "-m", *words)
    # Two agents that walk at random meet in one step of twelve; all algorithms do several times better.
    shares = [float(share) for share in re.findall(r"^runs/\S+ +(0\.\d+)", last, re.MULTILINE)]
    assert len(shares) == 3 and min(shares) > 0.25


def test_readme_python(tmp_path: Path) -> None:
    """The README's ten lines, on a small run in the place of the one it names."""
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "marl.load" in block]
    small = ["total_steps=6144", "copies=8", "algorithm.rollout=16", "world.map_pool=3"]
    sets = [word for key in small for word in ("--set", key)]
    run(tmp_path, "-m", "marl", "train", "lifelong_mapf", "--preset", "demo", "--out", "runs/demo", *sets)
    (tmp_path / "lines.py").write_text(code, encoding="utf-8")
    assert "throughput" in run(tmp_path, "lines.py")
