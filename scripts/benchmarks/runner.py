"""What tables share: where things are, runs that start or go on, rows that are made once.

Worker processes import the scripts that use this; it is to stay free of torch until something is done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
PAGES = REPO / "docs" / "benchmarks"
CONFIG, REPORT, METRICS = "config.yaml", "report.html", "metrics.csv"


def prepare() -> None:
    """One thread for this process and for those that it starts."""
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def marl(words: Sequence[str], log: Path | None = None) -> None:
    """Run the ``marl`` command of this checkout in its own process.

    Args:
        words: what follows ``marl``.
        log: file that its output is added to; None leaves the output where it is.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), *filter(None, [os.getenv("PYTHONPATH")])])}
    command = [sys.executable, "-m", "marl", *words]
    if log is None:
        subprocess.run(command, check=True, env=environment)
        return
    with log.open("a", encoding="utf-8") as file:
        subprocess.run(command, check=True, stdout=file, stderr=file, env=environment)


def finished(folder: Path) -> bool:
    """True if a training run has been made to its end."""
    return (folder / REPORT).exists()


def train(folder: Path, words: Sequence[str], init: Path | str | None = None, log: bool = True) -> None:
    """Start a training run, or go on with it; a finished one is left alone.

    Args:
        folder: the run's folder.
        words: what follows ``marl train`` for a new run, without ``--out``.
        init: the policy whose weights a new run begins with.
        log: write the output into ``FOLDER.log`` beside the folder.
    """
    if finished(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    if (folder / CONFIG).exists():
        command = ["train", "--resume", str(folder)]
    else:
        command = ["train", *words, "--out", str(folder), *(["--init", str(init)] if init is not None else [])]
    marl(command, folder.with_name(folder.name + ".log") if log else None)


def overrides(texts: Iterable[str]) -> list[str]:
    """``--set`` before each text."""
    return [word for text in texts for word in ("--set", text)]


def side_by_side(calls: Iterable[Callable[[], object]], jobs: int) -> None:
    """Make the calls, ``jobs`` at a time; the first error is raised when all are through."""
    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none if there is no file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def add_row(file: Path, row: dict[str, Any], shown: object = None) -> None:
    """Append a row to a file of JSON lines, and print its name and what is shown of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")
    print(row["name"], "" if shown is None else shown, flush=True)


def read_figures(file: Path, empty: dict[str, Any] | None = None) -> dict[str, Any]:
    """A file of figures; ``empty``, or no rows, if it does not exist yet."""
    if file.exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    return {"rows": []} if empty is None else empty


def write_figures(file: Path, command: str, figures: dict[str, Any], indent: int = 1) -> None:
    """Write figures as JSON, with the command that makes them and the version of the form."""
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema_version": 1, "command": f"scripts/reproduce {command}", **figures}
    file.write_text(json.dumps(document, indent=indent) + "\n", encoding="utf-8")
