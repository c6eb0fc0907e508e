"""How a run is doing: what its process notes after each iteration, and what ``marl status`` makes of it."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from marl.envs.pool_base import WorkerState
from marl.errors import UserError
from marl.files import read_text
from marl.training.run_folder import LOCK, METRICS, read_config, replace_text
from marl.training.tracking import read_metrics

STATUS = "workers.json"
_MAX_BYTES = 10_000_000
#: Iterations over which rates are taken.
_LAST = 10


def note_workers(folder: Path, workers: Sequence[WorkerState], restarts: int) -> None:
    """Write down which workers a run has now. Raises ``UserError`` if the disk is full.

    Args:
        folder: of the run.
        workers: those of its world.
        restarts: how often one of them was replaced since the run was last started.
    """
    rows = [worker._asdict() for worker in workers]
    record = {"schema_version": 1, "time": time.time(), "restarts": restarts, "workers": rows}
    try:
        replace_text(folder / STATUS, json.dumps(record))
    except OSError as error:
        raise UserError(f"{folder / STATUS} cannot be written: {error.strerror or error}") from None


def status_lines(folder: Path) -> Iterator[str]:
    """What there is to say of a run, a line each: its state, progress, rates, losses and workers.

    Args:
        folder: of the run. Raises ``UserError`` if it is none.
    """
    config = read_config(folder)
    holder = _holder(folder)
    rows = read_metrics(folder / METRICS) if (folder / METRICS).exists() else []
    done = rows[-1]["agent_steps"] if rows else 0.0
    state = f"runs in process {holder}" if holder else "finished" if done >= config.total_steps else "stopped"
    yield f"{config.scenario}, {config.system}, seed {config.seed}: {state}"
    yield f"{done:,.0f} of {config.total_steps:,} agent-steps in {len(rows)} iterations"
    if len(rows) > 1:
        first, last = rows[-min(len(rows), _LAST + 1)], rows[-1]
        steps, seconds = (last[name] - first[name] for name in ("agent_steps", "cpu_seconds"))
        yield f"{steps / max(seconds, 1e-9):,.0f} agent-steps per CPU-second of the learner"
    if rows:
        recent = rows[-_LAST:]
        shown = ("reward", *sorted(name for name in rows[-1] if name.startswith("episode/return")))
        yield ", ".join(f"{name} {rows[-1][name]:.4g}" for name in shown if name in rows[-1])
        lost = [row["episode/lost"] for row in recent if row.get("episode/lost", -1.0) >= 0.0]
        if lost:
            yield f"{100 * sum(lost) / len(lost):.3g} % of the episodes lost with a worker, in {len(lost)} iterations"
    yield from _worker_lines(folder)


def _worker_lines(folder: Path) -> Iterator[str]:
    path = folder / STATUS
    if not path.exists():
        return
    try:
        record: dict[str, Any] = json.loads(read_text(path, _MAX_BYTES))
        age = time.time() - float(record["time"])
        yield f"{len(record['workers'])} workers, {record['restarts']} replaced; noted {max(age, 0.0):.0f} s ago"
        for row in record["workers"]:
            yield f"  {row['place']}: {row['copies']} copies, replaced {row['replaced']} times"
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no record of workers ({error}): it is written anew by the run") from None


def _holder(folder: Path) -> str:
    """The process that works in a folder; empty if none does."""
    path = folder / LOCK
    if not path.exists():
        return ""
    with path.open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            return lock.read().strip() or "unknown"
    return ""
