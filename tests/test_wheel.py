"""The wheel works away from the repository: scenarios, presets and maps travel as package data."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent


def test_wheel_works_elsewhere(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(REPO)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    if built.returncode and "hatchling" in built.stderr and not os.environ.get("CI"):
        pytest.skip("the build tool cannot be fetched here")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("marl_platform-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = archive.namelist()
    assert not [name for name in names if name.startswith("tests")]
    command = ["evaluate", "lifelong_mapf", "--map", "warehouse", "--agents", "8", "--policies", "pibt"]
    command += ["--seeds", "0:2", "--horizon", "16"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "marl", *command],
        cwd=tmp_path,
        # The wheel goes before the editable installation of the repository.
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "pibt" in done.stdout
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import marl, scenarios; print(marl.__file__, scenarios.__file__)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert where.stdout.count(str(site)) == 2
