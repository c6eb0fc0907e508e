"""Stores between learners: order, bounds, two real processes, and one that dies."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marl.errors import UserError
from marl.rollout.language.store import LocalStore, SharedStore


@pytest.fixture(params=["local", "shared"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LocalStore | SharedStore:
    return LocalStore(3) if request.param == "local" else SharedStore(tmp_path / "s.sqlite", 3)


def test_oldest_first_and_never_more_than_its_capacity(store: LocalStore | SharedStore) -> None:
    for number in range(5):
        store.put("south", {"number": number, "ids": [1, 2], "weight": 0.1})
    store.put("north", {"number": 9})
    assert store.waiting("south") == (3, 2) and store.waiting("north") == (1, 0) and store.waiting("x") == (0, 0)
    assert [store.fetch("south") for _ in range(4)] == [
        {"number": number, "ids": [1, 2], "weight": 0.1} for number in (2, 3, 4)
    ] + [None]
    assert store.fetch("north") == {"number": 9}


def test_state_of_a_local_store() -> None:
    store, again = LocalStore(2), LocalStore(2)
    for number in range(3):
        store.put("a", {"number": number})
    again.load_state(store.state())
    assert again.waiting("a") == (2, 1) and again.fetch("a") == {"number": 1}


def test_weights_signs_and_claims(tmp_path: Path) -> None:
    one, other = SharedStore(tmp_path / "s.sqlite"), SharedStore(tmp_path / "s.sqlite")
    assert other.newest("a", -1) is None and other.last_sign("main") is None
    one.publish("a", 4, b"\x00w")
    one.sign("main")
    assert other.newest("a", 3) == (4, b"\x00w") and other.newest("a", 4) is None
    seconds, done = other.last_sign("main") or (99.0, True)
    assert seconds < 60 and not done
    one.sign("main", done=True)
    assert (other.last_sign("main") or (0.0, False))[1]
    one.claim("run 1")
    other.claim("run 1")
    with pytest.raises(UserError, match=r"belongs to another run \(run 1\)"):
        other.claim("run 2")


_WRITER = """
import os, sys, time
from pathlib import Path
from marl.rollout.language.store import SharedStore
store = SharedStore(Path(sys.argv[1]), 1000)
for number in range(int(sys.argv[2])):
    store.put("a", {"number": number, "ids": list(range(500))})
    print(number, flush=True)
"""


def writer(path: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, str(path), str(count)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )


def test_two_processes_lose_and_double_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    store, other = SharedStore(path, 1000), writer(path, 60)
    found: list[int] = []
    until = time.time() + 60
    while len(found) < 60 and time.time() < until:
        batch = store.fetch("a")
        found += [] if batch is None else [batch["number"]]
    assert found == list(range(60)) and other.wait() == 0


def test_a_killed_process_leaves_the_store_whole(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    store, other = SharedStore(path, 100_000), writer(path, 100_000)
    assert other.stdout is not None
    said = [int(other.stdout.readline()) for _ in range(5)][-1]
    other.send_signal(signal.SIGKILL)
    other.wait()
    found = 0
    while (batch := store.fetch("a")) is not None:
        assert batch["number"] == found and len(batch["ids"]) == 500
        found += 1
    assert found > said
    store.put("a", {"number": -1})
    assert store.fetch("a") == {"number": -1}


def test_files_that_are_no_store_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be looked at" * 50)
    with pytest.raises(UserError, match="cannot be"):
        SharedStore(tmp_path / "text")
    with pytest.raises(UserError, match="cannot be opened"):
        SharedStore(tmp_path / "nowhere" / "s.sqlite")
    path = tmp_path / "s.sqlite"
    store = SharedStore(path)
    with sqlite3.connect(path) as data:
        data.execute("INSERT INTO batches (topic, body) VALUES ('a', '[1')")
    with pytest.raises(UserError, match="no JSON object"):
        store.fetch("a")
    with sqlite3.connect(path) as data:
        data.execute("UPDATE about SET value = '99' WHERE name = 'format'")
    with pytest.raises(UserError, match="has format 99"):
        SharedStore(path)
