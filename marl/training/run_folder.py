"""A run is a folder: its configuration, where it comes from, its checkpoints, figures and report.

One process at a time works in a run folder; a lock that the system drops with the process sees to that.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from marl.config import AnyRunConfig, dump, read_layer, resolve
from marl.errors import UserError
from marl.files import read_text
from marl.scenario import load_scenario
from marl.systems.registry import load_system
from marl.training.provenance import provenance

CONFIG = "config.yaml"
PROVENANCE = "provenance.json"
METRICS = "metrics.csv"
LOCK = ".lock"
_MAX_PROVENANCE = 10_000_000


def default_path(config: AnyRunConfig) -> Path:
    """``runs/SCENARIO-SYSTEM-PRESET-sSEED-TIME``, below the working directory."""
    parts = [config.scenario, config.system, config.preset, f"s{config.seed}", time.strftime("%Y%m%d-%H%M%S")]
    # The preset's name may come from a file: it must not lead elsewhere.
    return Path("runs") / re.sub(r"[^\w.:-]", "_", "-".join(part for part in parts if part))


def read_config(path: Path) -> AnyRunConfig:
    """The configuration of a run folder (or of a shipped policy, which is one). Raises ``UserError``."""
    file = path / CONFIG
    if not path.is_dir() or not file.is_file():
        raise UserError(f"{path} is not a run folder: it has no {CONFIG}")
    layer = read_layer(file)
    scenario, system = layer.values.get("scenario"), layer.values.get("system")
    if not isinstance(scenario, str) or not isinstance(system, str):
        raise UserError(f"{file} does not say its scenario and system: it is not the configuration of a run")
    return resolve(load_scenario(scenario).config, load_system(system).config, [layer])


def read_provenance(path: Path) -> dict[str, Any]:
    """The record of a run folder's starts; an empty one if there is none, or one that is damaged."""
    with suppress(UserError, ValueError, RecursionError):
        record = json.loads(read_text(path / PROVENANCE, _MAX_PROVENANCE))
        if isinstance(record, dict) and isinstance(record.get("starts"), list):
            return record
    return {"schema_version": 1, "starts": []}


class RunFolder:
    """A run folder that this process holds the lock of; a context manager that gives it back.

    path, config: where it is and what is run in it. stopped: why the run stopped by itself when it was last started, if
    it did.
    """

    def __init__(self, path: Path, config: AnyRunConfig, lock: TextIO, stopped: str | None = None):
        self.path, self.config, self._lock, self.stopped = path, config, lock, stopped

    @classmethod
    def create(cls, config: AnyRunConfig, out: Path | None = None) -> Self:
        """A new folder; ``out`` must not exist or be empty. Raises ``UserError``."""
        path = out or unused(default_path(config))
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = locked(path)
            if any(entry.name != LOCK for entry in path.iterdir()):
                lock.close()
                resumable = f"continue it with 'marl train --resume {path}' or " if (path / CONFIG).exists() else ""
                raise UserError(f"folder {path} is not empty: {resumable}choose another --out")
            replace_text(path / CONFIG, dump(config))
        except OSError as error:
            raise UserError(f"run folder {path} cannot be made: {error.strerror or error}") from None
        folder = cls(path, config, lock)
        folder._note_start()
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """The folder of an earlier run, to continue it. Raises ``UserError``."""
        if not (path / CONFIG).is_file():
            raise UserError(f"{path} is not a run folder: it has no {CONFIG}")
        try:
            lock = locked(path)
        except OSError as error:
            raise UserError(f"run folder {path} cannot be opened: {error.strerror or error}") from None
        try:
            starts = read_provenance(path)["starts"]
            reason = starts[-1].get("stopped") if starts and isinstance(starts[-1], dict) else None
            folder = cls(path, read_config(path), lock, reason if isinstance(reason, str) else None)
            folder._note_start()
        except UserError:
            lock.close()
            raise
        return folder

    def discard(self) -> None:
        """Take back what ``create`` has written: nothing was begun, and the name is free for another try."""
        for name in (CONFIG, PROVENANCE, LOCK):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # what somebody else has put there stays
            self.path.rmdir()

    def close(self) -> None:
        """Give the lock back; may be called twice."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note_start(self) -> None:
        """Add this process to ``provenance.json``: one entry for the first start and one for each resumption."""
        self._write_starts([*read_provenance(self.path)["starts"], provenance(self.config)])

    def note_stop(self, reason: str) -> None:
        """Keep with this start why the run stopped by itself, for who continues it."""
        *before, last = read_provenance(self.path)["starts"]
        self._write_starts([*before, {**last, "stopped": reason}])

    def _write_starts(self, starts: list[dict[str, Any]]) -> None:
        file = self.path / PROVENANCE
        record = {"schema_version": 1, "starts": starts}
        try:
            replace_text(file, json.dumps(record, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror or error}") from None


def unused(path: Path) -> Path:
    """``path``, or the first of ``path-2``, ``path-3``, ... that is free: two runs may start in the same second."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def locked(path: Path) -> TextIO:
    """The open lock file of a folder, locked until it is closed or the process ends."""
    lock = (path / LOCK).open("a+", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        by = f"process {holder}" if holder.isdecimal() else "another process"
        raise UserError(f"run folder {path} is in use by {by}: wait for it to end or choose another folder") from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def replace_text(path: Path, text: str) -> None:
    """Write a file so that it is never seen half written."""
    aside = path.with_name(f".tmp-{path.name}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
