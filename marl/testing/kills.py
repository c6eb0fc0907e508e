"""``kill -9`` at random moments of a training run, resumed in new processes: does it end as if never stopped?

The strictest test of exact resumption that is possible from outside: real processes of the ``marl`` command, killed
while they start, restore, roll out, learn, log and save.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from marl.errors import UserError
from marl.training.checkpoint import CheckpointStore, load
from marl.training.run_folder import METRICS, read_config
from marl.training.tracking import read_metrics

#: Of the kills a share meets the process while it starts, another while it writes a checkpoint, the rest anywhere.
_EARLY, _SAVING = 0.2, 0.3
_SAVE_S = 0.01
_POLL_S = 0.001


@dataclass
class Survival:
    """What became of runs that were killed.

    kills: processes killed, of them ``while_saving`` with a half-written checkpoint beside the others and
        ``while_starting`` before an iteration was made. runs: runs that were brought to their end.
    most_lost: iterations, at most, between a kill and the checkpoint that was there to go on from, and ``interval``,
        the number of iterations between two checkpoints.
    broken: checkpoints that did not load after a kill. faults: what went wrong, in sentences.
    """

    kills: int = 0
    while_saving: int = 0
    while_starting: int = 0
    runs: int = 0
    interval: int = 0
    most_lost: int = 0
    broken: int = 0
    faults: list[str] = field(default_factory=list)


def survive_kills(words: Sequence[str], folder: Path, kills: int, seed: int = 0, timeout_s: float = 300.0) -> Survival:
    """Kill ``marl train WORDS`` at ``kills`` random moments and compare its end with that of an undisturbed run.

    Args:
        words: after ``train``, without ``--out``; a short run with many iterations.
        folder: new or empty, for the runs.
        seed: of the moments.
        timeout_s: the longest that one process may take.
    """
    dice = random.Random(seed)
    survival = Survival()
    whole = folder / "whole"
    began = time.monotonic()
    _finish(_start("train", *words, "--out", str(whole)), timeout_s)
    duration = time.monotonic() - began
    survival.interval = read_config(whole).checkpoint.every_iterations
    iteration_s = duration / max(1, len(read_metrics(whole / METRICS)))
    while survival.kills < kills and not survival.faults:
        run = folder / f"killed-{survival.runs}"
        process = _start("train", *words, "--out", str(run))
        while survival.kills < kills:
            aim, moment = dice.random(), dice.random()
            early = aim < _EARLY
            if not early:
                _wait_for_progress(process, run, timeout_s)
            if aim > 1.0 - _SAVING:
                _wait_for_save(process, run, timeout_s)
                moment *= _SAVE_S
            else:
                moment *= duration / 4 if early else 2 * iteration_s
            time.sleep(moment)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait(timeout_s)
            survival.kills += 1
            survival.while_starting += early
            if not _judge(run, survival):
                # Killed before there was a run to speak of: begin it again, as its user would.
                run = folder / f"killed-{survival.runs}-{survival.kills}"
                process = _start("train", *words, "--out", str(run))
                continue
            process = _start("train", "--resume", str(run))
        said = _finish(process, timeout_s)
        survival.broken += said.count(" is broken: ")
        survival.runs += 1
        survival.faults += [f"{run.name}: {fault}" for fault in differences(whole, run)]
    return survival


def differences(whole: Path, other: Path) -> Iterator[str]:
    """In which tensors, counters and figures two finished runs differ; their CPU times may."""
    leaves = []
    for path in (whole, other):
        tree, info, _ = CheckpointStore(path).latest(lambda _: None)
        tree["counters"].pop("cpu_seconds")
        leaves.append(dict(_leaves({"tree": tree, "info": info})))
    first, second = leaves
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second or not _same(first[name], second[name]):
            yield f"{name} differs"
    logs = [read_metrics(path / METRICS) for path in (whole, other)]
    for row in (*logs[0], *logs[1]):
        row.pop("cpu_seconds", None)
    if [row["iteration"] for row in logs[1]] != list(range(1, len(logs[1]) + 1)):
        yield "the log has gaps or repeats"
    if logs[0] != logs[1]:
        yield "the figures differ"


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}/{key}")
    elif isinstance(node, list | tuple):
        for place, value in enumerate(node):
            yield from _leaves(value, f"{path}/{place}")
    else:
        yield path, node


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _judge(run: Path, survival: Survival) -> bool:
    """Look at what a kill has left; False if the run had not yet written its first checkpoint."""
    store = CheckpointStore(run)
    steps = store.steps()
    if not steps:
        return False
    survival.while_saving += any(store.folder.glob(".tmp-*"))
    newest = 0
    for step in steps:
        try:
            load(store.path(step))
            newest = step
        except UserError as error:
            survival.broken += 1
            survival.faults.append(str(error))
    logged = read_metrics(run / METRICS) if (run / METRICS).exists() else []
    lost = int(logged[-1]["iteration"]) - newest if logged else 0
    survival.most_lost = max(survival.most_lost, lost)
    if lost > survival.interval:
        survival.faults.append(f"{lost} iterations were lost, an interval is {survival.interval}")
    return True


def _start(*words: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "marl", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Wait for the end; what the process said. Raises ``RuntimeError`` if it failed."""
    try:
        _, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    text = said.decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}: {text}")
    return text


def _wait_for_progress(process: subprocess.Popen[bytes], run: Path, timeout_s: float) -> None:
    """Until the log has a row that this process has made, or it is over."""
    log, deadline = run / METRICS, time.monotonic() + timeout_s
    began = time.time_ns()
    grown = log.stat().st_size if log.exists() else 0
    while process.poll() is None and time.monotonic() < deadline:
        # A resumed process first drops the rows after its checkpoint, so the file may shrink before it grows.
        if log.exists() and log.stat().st_mtime_ns > began:
            size = log.stat().st_size
            if size > grown:
                return
            grown = min(grown, size)
        time.sleep(_POLL_S)


def _wait_for_save(process: subprocess.Popen[bytes], run: Path, timeout_s: float) -> None:
    """Until a checkpoint is being written, or the process is over."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        if any((run / "checkpoints").glob(".tmp-*")):
            return
        time.sleep(_POLL_S)
