from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from simulators import Counter, Littering, NeverStarts

from marl.envs.workers import WorkerPool
from marl.errors import UserError


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(Counter, 5, 2, timeout_s=60.0)
    pool.seeds[:] = np.arange(5) + 100
    pool.reset()
    yield pool
    pool.close()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    pool = WorkerPool(Counter, 3, workers)
    try:
        assert pool.layout.info == "counter"
        pool.seeds[:] = [7, 8, 9]
        pool.reset()
        for step in range(1, 4):
            pool.actions[:] = [[step, 1], [0, step], [2, 2]]
            assert not pool.step().any()
        assert pool.outputs["sum"].tolist() == [9.0, 6.0, 12.0]
        pool.reset(np.array([False, True, False]))
        pool.actions[:] = 1
        pool.step(np.array([False, True, True]))
        assert pool.outputs["sum"].tolist() == [9.0, 2.0, 14.0]
        assert pool.outputs["seed"].tolist() == [7, 8, 9]
        assert pool.restarts == 0
    finally:
        pool.close()
        pool.close()


def test_a_killed_worker_is_replaced_and_its_episodes_are_given_up(pool: WorkerPool) -> None:
    pool.actions[:] = 1
    pool.step()
    os.kill(pool.pids[0], signal.SIGKILL)
    pool.seeds[:] = np.arange(5) + 200
    assert pool.step().tolist() == [True, True, True, False, False]
    assert pool.outputs["sum"].tolist() == [0, 0, 0, 4, 4]
    assert pool.outputs["seed"].tolist() == [200, 201, 202, 103, 104]
    assert pool.restarts == 1
    assert not pool.step().any()
    assert pool.outputs["sum"].tolist() == [2, 2, 2, 6, 6]


def test_killed_in_a_reset_only_other_episodes_are_lost(pool: WorkerPool) -> None:
    os.kill(pool.pids[1], signal.SIGKILL)
    assert pool.reset(np.array([True, False, False, True, False])).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("fault", [-1, -3])
def test_a_fault_that_comes_back_is_an_error_with_seeds_and_last_words(fault: int, pool: WorkerPool) -> None:
    pool.actions[:, 0] = [1, 1, 1, fault, 1]
    lost = [pool.step().tolist() for _ in range(3)]
    assert lost == [[False, False, False, True, True]] * 3
    reason, words = {-1: ("SIGKILL", "the last words"), -3: ("no such action", "in step")}[fault]
    with pytest.raises(UserError, match=rf"worker 1 failed 4 times in a row.*{reason}.*\[103, 104\].*{words}"):
        pool.step()
    with pytest.raises(RuntimeError, match="closed"):
        pool.step()


def test_a_hung_worker_is_replaced() -> None:
    pool = WorkerPool(Counter, 2, 2, timeout_s=2.0)
    try:
        pool.reset()
        pool.actions[:] = [[1, 1], [-2, 1]]
        start = time.monotonic()
        assert pool.step().tolist() == [False, True]
        assert time.monotonic() - start < 50  # it would hang for a minute
        assert pool.restarts == 1
    finally:
        pool.close()


def test_a_stopped_worker_is_replaced() -> None:
    """SIGSTOP: the process is there, but does nothing."""
    pool = WorkerPool(Counter, 1, 1, timeout_s=0.5)
    try:
        pool.reset()
        os.kill(pool.pids[0], signal.SIGSTOP)
        assert pool.step().tolist() == [True]
    finally:
        pool.close()


def test_a_worker_out_of_memory_is_replaced() -> None:
    pool = WorkerPool(Counter, 2, 2)
    try:
        pool.reset()
        pool.actions[:] = [[1, 1], [-4, 1]]
        assert pool.step().tolist() == [False, True]
        pool.actions[:] = 1
        assert not pool.step().any()
        pool.actions[1] = -4
        with pytest.raises(UserError, match="MemoryError"):
            for _ in range(4):
                pool.step()
    finally:
        pool.close()


def test_a_slow_worker_is_waited_for(pool: WorkerPool) -> None:
    pool.actions[:, 0] = [1, 1, 1, -5, 1]
    assert not pool.step().any()
    assert pool.restarts == 0


def test_signals_to_the_whole_group_are_left_to_the_owner(pool: WorkerPool) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the workers too; the owner still has to save."""
    for number in (signal.SIGINT, signal.SIGTERM):
        for pid in pool.pids:
            os.kill(pid, number)
    pool.actions[:] = 1
    assert not pool.step().any()
    assert pool.restarts == 0


OWNER = """
import sys
from simulators import Counter
from marl.envs.workers import WorkerPool

if __name__ == "__main__":
    pool = WorkerPool(Counter, 2, 2, timeout_s=2.0)
    pool.reset()
    print(*pool.pids, pool._held.memory.name, flush=True)
    pool.actions[:] = [[1, 1], [-2, 1]]
    pool.step()
"""


def test_nothing_outlives_a_killed_owner(tmp_path: Path) -> None:
    """One worker waits for a command, the other hangs in a step."""
    (tmp_path / "owner.py").write_text(OWNER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(tmp_path / "owner.py")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        *pids, name = process.stdout.readline().split()
        time.sleep(0.3)
        process.kill()
    deadline = time.monotonic() + 50  # the step hangs for 60
    while (any(map(alive, pids)) or Path("/dev/shm", name).exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, pids))
    assert not Path("/dev/shm", name).exists()


def alive(pid: str) -> bool:
    """Whether a process runs; one that has ended but was not asked for its exit code does not."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


TELLING = """
import os

import numpy as np
from simulators import Counter

from marl.envs.workers import WorkerPool

LOADED_BY = os.getpid()


class Telling(Counter):
    def write(self, outputs):
        outputs["sum"][...], outputs["seed"][...] = np.random.random(), LOADED_BY
"""
PRELOADING = """
from telling import Telling, WorkerPool

if __name__ == "__main__":
    pool = WorkerPool(Telling, 2, 2, preload=("telling",))
    pool.reset()
    print(*pool.outputs["seed"], *pool.pids, *pool.outputs["sum"])
    pool.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")
def test_what_is_preloaded_is_loaded_once_and_numpy_draws_apart(tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    (tmp_path / "owner.py").write_text(PRELOADING)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, str(tmp_path / "owner.py")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    loaded_by, pids, drawn = said[:2], said[2:4], said[4:]
    assert loaded_by[0] == loaded_by[1] and loaded_by[0] not in pids
    assert drawn[0] != drawn[1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")
def test_only_a_pool_that_preloads_changes_what_is_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr("marl.envs.workers._context.set_forkserver_preload", told.append)
    for preload in ((), ("simulators",)):
        WorkerPool(Counter, 1, 1, preload=preload).close()
    assert told == [["__main__", "simulators"]]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")
def test_what_cannot_be_preloaded_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise ValueError('nothing to tell')")
    (tmp_path / "owner.py").write_text(
        "from simulators import Counter\nfrom marl.envs.workers import WorkerPool\n"
        "if __name__ == '__main__':\n    WorkerPool(Counter, 1, 1, preload=('broken',))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, str(tmp_path / "owner.py")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True).stderr
    assert "ValueError: nothing to tell" in said and "UserError: a simulator worker does not start: the fork" in said


def test_what_a_killed_worker_leaves_goes_with_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pool = WorkerPool(Littering, 1, 1)
    pool.reset()
    os.kill(pool.pids[0], signal.SIGKILL)
    assert pool.step().tolist() == [True]
    assert len(list(tmp_path.rglob("marl-litter-*"))) == 2
    pool.close()
    assert list(tmp_path.iterdir()) == []


def test_closing_leaves_no_process_and_no_memory() -> None:
    pool = WorkerPool(Counter, 2, 2)
    pids, name = pool.pids, pool._held.memory.name  # type: ignore[union-attr]
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert name not in os.listdir("/dev/shm")  # noqa: PTH208


def test_what_cannot_start_is_one_sentence() -> None:
    with pytest.raises(UserError, match="does not start: worker 0 raised RuntimeError: no licence"):
        WorkerPool(NeverStarts, 1, 1)
    with pytest.raises(UserError, match="define it in a module, or use workers=0"):
        WorkerPool(lambda: Counter(), 1, 1)
    with pytest.raises(UserError, match="0 to 2 workers"):
        WorkerPool(Counter, 2, 3)
