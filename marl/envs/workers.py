"""Processes for simulators that run on the CPU: W workers, each with a share of the B copies, and shared arrays.

Every wait has a limit. A worker that dies, hangs or raises is replaced, its episodes are given up and counted, and when
this happens too often in a row a ``UserError`` names the seeds and the worker's last words. This module does not import
torch, so that workers start quickly and stay small.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import select
import shutil
import signal
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np

from marl.envs.pool_base import StartError, Worker, WorkersPool
from marl.envs.without_main import check_guarded, needs_main, start_mend, without_main
from marl.envs.worker_process import (
    ASK,
    CLOSE,
    DONE,
    Array,
    Block,
    Layout,
    Seat,
    Simulator,
    blocks_of,
    extent,
    make_seats,
    serve,
    serve_command,
    views,
)
from marl.errors import UserError

__all__ = ["Array", "Block", "Layout", "Simulator", "WorkerPool"]

logger = logging.getLogger(__name__)

# Neither form of start copies this process's threads and locks; the fork server is the faster of the two.
if sys.platform == "linux":
    _context = multiprocessing.get_context("forkserver")
else:
    _context = multiprocessing.get_context("spawn")

#: A killed process is gone at once, unless the system itself holds it; that is waited for, but not for ever.
_KILL_PATIENCE_S = 10.0
#: Times the owner's patience after which a worker that hangs ends by itself: its owner has been killed.
_ORPHAN_FACTOR = 2.0
_LOG_TAIL = 3


class WorkerPool(WorkersPool):
    """B simulators behind shared arrays.

    factory: makes one simulator; for workers > 0 it is pickled, hence a function of a module or a ``partial`` of one.
    workers: number of processes; 0 runs everything in this process, for debugging, with the same results.
    timeout_s: the longest that one ``reset`` or ``step`` may take; ``start_timeout_s`` the same for starting a worker.
    max_failures: failures of one worker, none of them 1000 calls after the one before, after which the pool gives up.
    preload: modules to import once for all workers, which are forked with them, on Linux only. A process's first pool
        decides, in place of what ``set_forkserver_preload`` was told. They must not start threads; one that is not
        found (``ImportError``) is passed over in silence.

    A ``Pool`` (``marl.envs.pool_base``), whose members are named there.
    """

    def __init__(
        self,
        factory: Callable[[], Simulator],
        copies: int,
        workers: int = 0,
        *,
        timeout_s: float = 60.0,
        start_timeout_s: float = 120.0,
        max_failures: int = 3,
        preload: Sequence[str] = (),
    ):
        if not 0 <= workers <= copies:
            raise UserError(f"workers is {workers}, but {copies} copies can be shared by 0 to {copies} workers")
        super().__init__(copies, start_timeout_s, max_failures)
        self._timeout_s = timeout_s
        self._held = _Held()
        self._finalizer = weakref.finalize(self, self._held.release)
        if workers == 0:
            simulators = [factory() for _ in range(copies)]
            self.layout = simulators[0].layout
            self._held.arrays = {
                name: np.zeros(block.shape, block.dtype) for name, block in blocks_of(self.layout, copies).items()
            }
            self._held.local = make_seats(simulators, 0, self._held.arrays)
        else:
            if preload and sys.platform == "linux":
                _context.set_forkserver_preload(["__main__", *preload])  # the first is Python's default
            self._start_all(factory, workers)
        self._name_arrays()

    @property
    def _arrays(self) -> dict[str, Array]:
        return self._held.arrays

    @property
    def _workers(self) -> list[Worker]:
        return list(self._held.workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid or 0 for worker in self._held.workers]

    def close(self) -> None:
        """Stop the workers and free the memory; may be called twice."""
        self.outputs, self.inputs = {}, {}
        self.seeds = self.actions = np.zeros(0)
        self._finalizer()

    # Commands

    def _do(self, command: bytes, mask: Array | None, question: str = "") -> Array:
        if not self._held.local:
            return super()._do(command, mask, question)
        self._arrays["mask"][:] = True if mask is None else mask
        serve_command(command, self._held.local, self._held.arrays, question)
        return np.zeros(self.copies, dtype=bool)

    def _ask(self, command: bytes, workers: list[Worker], question: str = "") -> list[tuple[Worker, str]]:
        failed: list[tuple[Worker, str]] = []
        waiting = []
        for worker in workers:
            assert isinstance(worker, _Worker)
            try:
                os.write(worker.commands.fileno(), command)
                if command == ASK:
                    worker.commands.send(question)
                waiting.append(worker)
            except OSError:
                failed.append((worker, _ended(worker.process)))
        deadline = time.monotonic() + self._timeout_s
        # The last one first: where cores are few it answers last, and then nobody else need be waited for.
        for worker in reversed(waiting):
            answer = worker.answer(max(0.0, deadline - time.monotonic()))
            if answer is not None:
                failed.append((worker, answer or f"gave no answer in {self._timeout_s:g} s"))
        return failed

    def _restart(self, worker: Worker) -> None:
        assert isinstance(worker, _Worker)
        worker.start(self._start_timeout_s)
        worker.commands.send(self._attachment())

    # Start

    def _start_all(self, factory: Callable[[], Simulator], count: int) -> None:
        check_guarded()
        try:
            pickled = pickle.dumps(factory)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"the factory cannot be sent to worker processes ({error}); define it in a module, or use workers=0"
            ) from error
        folder = Path(tempfile.mkdtemp(prefix="marl-workers-"))
        self._held.folder = folder
        shares = np.array_split(np.arange(self.copies), count)
        self._held.workers = [
            _Worker(index, factory, int(share[0]), len(share), folder / f"worker-{index}.log", self._timeout_s)
            for index, share in enumerate(shares)
        ]
        try:
            for worker in self._held.workers:
                worker.launch()
            layouts = [worker.greet(self._start_timeout_s) for worker in self._held.workers]
            self.layout = layouts[0]
            self._allocate()
            for worker in self._held.workers:
                worker.commands.send(self._attachment())
        except (StartError, OSError) as error:
            words = self._held.workers[0].last_words()
            self.close()
            mend = start_mend(pickled)
            raise UserError(f"a simulator worker does not start: {error}{mend}; its log ends with: {words}") from None

    def _allocate(self) -> None:
        blocks = blocks_of(self.layout, self.copies)
        size = extent(blocks)
        shared = Path("/dev/shm")
        # A full /dev/shm kills the process that writes to it, without a word: refuse before that.
        if shared.is_dir() and shutil.disk_usage(shared).free < size:
            raise StartError(f"{size} bytes of shared memory are needed, more than /dev/shm has left")
        self._held.memory = SharedMemory(create=True, size=size)
        self._held.arrays = views(blocks, self._held.memory)

    def _attachment(self) -> tuple[str, int]:
        assert self._held.memory is not None
        return self._held.memory.name, self.copies


@dataclass
class _Held:
    """What has to be given back, apart from the pool itself so that its finaliser can reach it."""

    workers: list[_Worker] = field(default_factory=list)
    local: list[Seat] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    memory: SharedMemory | None = None
    folder: Path | None = None

    def release(self) -> None:
        for seat in self.local:
            seat.simulator.close()
        for worker in self.workers:
            worker.dismiss()
        for worker in self.workers:
            worker.stop(patience_s=5.0)
        self.local = []
        self.arrays.clear()
        if self.memory is not None:
            try:
                self.memory.close()
            except BufferError:
                logger.warning("an array of a closed worker pool is still held")
            self.memory.unlink()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.workers, self.memory, self.folder = [], None, None


class _Worker(Worker):
    """One process and the copies ``first`` to ``first + count - 1``."""

    process: BaseProcess
    commands: Connection
    answers: Connection
    _poll: select.poll

    def __init__(
        self, index: int, factory: Callable[[], Simulator], first: int, count: int, log: Path, timeout_s: float
    ):
        super().__init__(index, first, count)
        self._factory, self._log, self._timeout_s = factory, log, timeout_s

    @property
    def place(self) -> str:
        return f"process {self.process.pid}"

    def launch(self) -> None:
        # Two pipes of one way each: a byte through them takes half the time of one through a socket both ways.
        told, self.commands = _context.Pipe(duplex=False)
        self.answers, telling = _context.Pipe(duplex=False)
        limit_s = _ORPHAN_FACTOR * self._timeout_s
        arguments = (told, telling, self._factory, self.first, self.count, str(self._log), limit_s)
        self.process = _context.Process(target=serve, args=arguments, daemon=True, name=f"marl-worker-{self.index}")
        try:
            with without_main(hidden=not needs_main(pickle.dumps(self._factory))):
                self.process.start()
        except EOFError as error:
            raise StartError("the fork server ended, its last words are above: can all of preload run?") from error
        told.close()
        telling.close()
        self._poll = select.poll()
        self._poll.register(self.answers.fileno(), select.POLLIN)

    def greet(self, timeout_s: float) -> Layout:
        """Wait until the worker has made its simulators."""
        if not self.answers.poll(timeout_s):
            raise StartError(f"worker {self.index} was not ready in {timeout_s:g} s")
        try:
            answer = self.answers.recv()
        except (EOFError, OSError) as error:
            raise StartError(f"worker {self.index} {_ended(self.process)}") from error
        if isinstance(answer, Layout):
            return answer
        raise StartError(f"worker {self.index} {answer}")

    def start(self, timeout_s: float) -> None:
        self.launch()
        self.greet(timeout_s)

    def answer(self, patience_s: float) -> str | None:
        """None if the command was done, else what went wrong; empty if no answer came in time."""
        if not self._poll.poll(patience_s * 1000.0):
            return ""
        try:
            said = os.read(self.answers.fileno(), 1)
            if said == DONE:
                return None
            return str(self.answers.recv()) if said else _ended(self.process)
        except (EOFError, OSError):
            return _ended(self.process)

    def dismiss(self) -> None:
        """Ask the process to leave."""
        try:
            os.write(self.commands.fileno(), CLOSE)
        except (OSError, AttributeError):
            logger.debug("worker %d has left already", self.index)

    def stop(self, patience_s: float = 0.0) -> None:
        """See to it that the process is gone."""
        if not hasattr(self, "process") or self.process.pid is None:
            return
        self.process.join(patience_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(_KILL_PATIENCE_S)
        self.commands.close()
        self.answers.close()

    def last_words(self) -> str:
        """The last lines that the worker or its simulators printed."""
        try:
            text = self._log.read_bytes()[-4000:].decode(errors="replace")
        except OSError:
            text = ""
        # The exception is known without its traceback; what the simulator itself said stands before that.
        said, _, _ = text.rpartition("Traceback (most recent call last)")
        lines = [line.strip() for line in (said if said.strip() else text).splitlines() if line.strip()]
        return " | ".join(lines[-_LOG_TAIL:]) or "(nothing)"


def _ended(process: BaseProcess) -> str:
    process.join(5.0)
    code = process.exitcode
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"left with exit code {code}"
