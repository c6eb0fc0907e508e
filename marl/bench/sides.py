"""Two programs side by side: each measured in a process of its own, in turns, and the ratio of their medians."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marl.errors import UserError

#: One measurement: a figure, higher is faster, and what the program said about it.
Measured = tuple[float, Mapping[str, Any]]


@dataclass(frozen=True)
class Side:
    """A program that prints one JSON object in the last line of its output.

    read: that object -> the figure to compare.
    """

    command: Sequence[str]
    read: Callable[[Mapping[str, Any]], float]
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def measure(self) -> Measured:
        """Run it once. Raises ``UserError`` if it fails or prints something else."""
        named = " ".join(map(str, self.command))[:200]
        variables = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | dict(self.environment)
        try:
            done = subprocess.run(
                list(map(str, self.command)), cwd=self.folder, env=variables, capture_output=True, text=True
            )
        except OSError as error:
            raise UserError(f"'{named}' cannot be run: {error}") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"'{named}' failed: {last[:300]}")
        try:
            said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
            return float(self.read(said)), said
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"'{named}' did not print the figures asked for: {error!r}") from None


def compare(
    ours: Side, theirs: Side, rounds: int, progress: Callable[[str], None] = lambda _: None
) -> tuple[list[float], list[float], Mapping[str, Any], Mapping[str, Any]]:
    """Both figures of each round, theirs measured first in every other one; and what either said last."""
    figures: dict[str, list[float]] = {"ours": [], "theirs": []}
    said: dict[str, Mapping[str, Any]] = {}
    for number in range(rounds):
        order = [("theirs", theirs), ("ours", ours)]
        for name, side in order if number % 2 else order[::-1]:
            figure, said[name] = side.measure()
            figures[name].append(figure)
            progress(f"round {number + 1} of {rounds}: {name} {figure:.4g}")
    return figures["ours"], figures["theirs"], said["ours"], said["theirs"]


def ratio_row(
    name: str,
    unit: str,
    device: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    **more: Any,
) -> dict[str, Any]:
    """A row of ``docs/benchmarks/*.json``: medians of both sides, their ratio, and that of each round."""
    return {
        "name": name,
        "unit": unit,
        "value": statistics.median(ours),
        "anchor_value": statistics.median(theirs),
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "ratios": [mine / other for mine, other in zip(ours, theirs, strict=True)],
        "device": device,
        "threads": 1,
        **more,
    }


def environment(folder: Path, requirements: Path, progress: Callable[[str], None] = lambda _: None) -> Path:
    """The interpreter of a virtual environment with these requirements; made if it is not there yet.

    Raises ``UserError`` if packages cannot be installed.
    """
    python = folder / "bin" / "python"
    mark = folder / ".marl-complete"
    if python.exists() and (mark.exists() or not requirements.exists()):
        return python
    if not requirements.exists():
        raise UserError(f"{requirements} does not exist: name the folder that holds it with --anchors")
    progress(f"making {folder}")
    commands: list[list[str]] = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"'{' '.join(command)}' failed: {last[:300]}")
    mark.touch()
    return python
