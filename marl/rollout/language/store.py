"""Stores through which learners exchange what they learn from: put on one side, fetched on the other.

M-GRPO (arXiv 2511.13288) trains planner and sub-agents on servers of their own; no gradient crosses, a shared store
carries rewards, tokens, masks and ids. ``LocalStore`` lives in one process and is part of its checkpoints, so that a
run resumes exactly. ``SharedStore`` is an SQLite file (WAL mode) that two processes of one machine open; what one has
fetched when the other puts is a matter of timing, so runs that share one do not resume bit for bit.

A batch is one JSON object (``marl.systems.language.exchange`` says what is in it). Stores are bounded: where more
batches of one topic wait than ``capacity``, the oldest are dropped and counted.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from marl.errors import UserError

FORMAT = 1
_BUSY_SECONDS = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batches (number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_topic ON batches (topic, number);
CREATE TABLE IF NOT EXISTS dropped (topic TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS weights (topic TEXT PRIMARY KEY, version INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS sides (name TEXT PRIMARY KEY, seen REAL NOT NULL, done INTEGER NOT NULL);
"""


class Waiting(NamedTuple):
    """How many batches of a topic wait, and how many were dropped because they were too many."""

    batches: int
    dropped: int


class LocalStore:
    """A store in this process. ``state`` and ``load_state`` make it part of a checkpoint. topic: whose batches."""

    def __init__(self, capacity: int = 64):
        self._capacity = capacity
        self._batches: dict[str, list[str]] = {}
        self._dropped: dict[str, int] = {}

    def put(self, topic: str, batch: Mapping[str, Any]) -> None:
        """Add a batch behind the others; the oldest of the topic are dropped where there are too many."""
        queue = self._batches.setdefault(topic, [])
        queue.append(json.dumps(batch))
        while len(queue) > self._capacity:
            queue.pop(0)
            self._dropped[topic] = self._dropped.get(topic, 0) + 1

    def fetch(self, topic: str) -> dict[str, Any] | None:
        """Take the oldest batch out, or None."""
        queue = self._batches.get(topic, [])
        return dict(json.loads(queue.pop(0))) if queue else None

    def waiting(self, topic: str) -> Waiting:
        """How many wait, and how many were dropped so far."""
        return Waiting(len(self._batches.get(topic, [])), self._dropped.get(topic, 0))

    def state(self) -> dict[str, Any]:
        return {"batches": {topic: list(queue) for topic, queue in self._batches.items()}, "dropped": self._dropped}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._batches = {topic: list(queue) for topic, queue in state["batches"].items()}
        self._dropped = dict(state["dropped"])


class SharedStore:
    """A store in a file, for several processes of one machine; every call is a transaction of its own.

    A process that dies leaves the file whole: what it had put is there, what it was putting is not. Raises
    ``UserError`` if the file is no store or cannot be written.
    """

    def __init__(self, path: Path, capacity: int = 64):
        self.path, self._capacity = path, capacity
        with self._writing() as data:
            for statement in _SCHEMA.strip().rstrip(";").split(";"):
                data.execute(statement)
            data.execute("INSERT OR IGNORE INTO about VALUES ('format', ?)", (str(FORMAT),))
            found = data.execute("SELECT value FROM about WHERE name = 'format'").fetchone()[0]
            if found != str(FORMAT):
                raise UserError(f"store {path} has format {found}, this marl reads {FORMAT}: name another file")

    def put(self, topic: str, batch: Mapping[str, Any]) -> None:
        body = json.dumps(batch)
        with self._writing() as data:
            data.execute("INSERT INTO batches (topic, body) VALUES (?, ?)", (topic, body))
            gone = data.execute(
                "DELETE FROM batches WHERE topic = ? AND number NOT IN "
                "(SELECT number FROM batches WHERE topic = ? ORDER BY number DESC LIMIT ?)",
                (topic, topic, self._capacity),
            ).rowcount
            data.execute(
                "INSERT INTO dropped VALUES (?, ?) ON CONFLICT (topic) DO UPDATE SET count = count + excluded.count",
                (topic, gone),
            )

    def fetch(self, topic: str) -> dict[str, Any] | None:
        with self._writing() as data:
            row = data.execute(
                "DELETE FROM batches WHERE number = (SELECT MIN(number) FROM batches WHERE topic = ?) RETURNING body",
                (topic,),
            ).fetchone()
        return None if row is None else self._read(row[0])

    def waiting(self, topic: str) -> Waiting:
        with self._writing() as data:
            count = data.execute("SELECT COUNT(*) FROM batches WHERE topic = ?", (topic,)).fetchone()[0]
            row = data.execute("SELECT count FROM dropped WHERE topic = ?", (topic,)).fetchone()
        return Waiting(count, 0 if row is None else row[0])

    def claim(self, run: str) -> None:
        """Make the file that of a run. Raises ``UserError`` if another run has used it."""
        with self._writing() as data:
            data.execute("INSERT OR IGNORE INTO about VALUES ('run', ?)", (run,))
            found = data.execute("SELECT value FROM about WHERE name = 'run'").fetchone()[0]
        if found != run:
            raise UserError(f"store {self.path} belongs to another run ({found}): name another file, or remove it")

    # Weights, which go the other way, and signs of life

    def publish(self, topic: str, version: int, weights: bytes) -> None:
        """Replace the weights of a topic; version: of the update that made them."""
        with self._writing() as data:
            data.execute("REPLACE INTO weights VALUES (?, ?, ?)", (topic, version, weights))

    def newest(self, topic: str, after: int) -> tuple[int, bytes] | None:
        """Version and weights of a topic if they are newer than version ``after``."""
        with self._writing() as data:
            row = data.execute(
                "SELECT version, body FROM weights WHERE topic = ? AND version > ?", (topic, after)
            ).fetchone()
        return None if row is None else (int(row[0]), bytes(row[1]))

    def sign(self, side: str, done: bool = False) -> None:
        """Say that a side is alive, or that it has done all it had to."""
        with self._writing() as data:
            data.execute("REPLACE INTO sides VALUES (?, ?, ?)", (side, time.time(), int(done)))

    def last_sign(self, side: str) -> tuple[float, bool] | None:
        """Seconds since a side's last sign, and whether it was done; None if it never gave one."""
        with self._writing() as data:
            row = data.execute("SELECT seen, done FROM sides WHERE name = ?", (side,)).fetchone()
        return None if row is None else (time.time() - row[0], bool(row[1]))

    def _read(self, body: str) -> dict[str, Any]:
        try:
            batch = json.loads(body)
        except (ValueError, RecursionError):
            batch = None
        if not isinstance(batch, dict):
            raise UserError(
                f"store {self.path} holds a batch that is no JSON object: was it written by something else?"
            )
        return batch

    def _writing(self) -> _Transaction:
        return _Transaction(self.path)


class _Transaction:
    """One transaction of a connection of its own: nothing is kept open between two calls, or across a fork."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._data = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._data.execute("PRAGMA journal_mode = WAL")
            self._data.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise UserError(f"store {self._path} cannot be opened: {error}") from None
        return self._data

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with closing(self._data):
            if kind is None:
                self._data.execute("COMMIT")
            elif self._data.in_transaction:
                self._data.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise UserError(f"store {self._path} cannot be used: {error}") from None
