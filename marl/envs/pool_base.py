"""What pools of simulators have in common: commands to workers, and the one place where failures are counted.

A worker that dies, hangs or raises is replaced, its episodes are given up and counted once, and when this happens too
often in a row a ``UserError`` names the seeds and the worker's last words. Free of torch.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from marl.envs.worker_process import ASK, RESET, STEP, Array, Layout
from marl.errors import UserError

logger = logging.getLogger(__name__)

#: Calls without a failure after which a worker's earlier failures are forgotten: more than an episode of most worlds,
#: so that a simulator that breaks in every episode is found out.
_STEADY = 1000


class StartError(Exception):
    """A worker does not start; the message says why."""


class WorkerState(NamedTuple):
    """One worker for who looks on: where it runs, its copies, and how often it was replaced."""

    place: str
    copies: int
    replaced: int


class Pool(Protocol):
    """B simulators behind arrays, wherever they run.

    seeds: int64 [B], the seed of the next episode of each copy, set by the owner before ``reset`` and ``step``.
    actions: [B, *], set by the owner before ``step``. outputs: name -> [B, *], valid until the next call.
    inputs: name -> [B, *], set by the owner before ``ask``. restarts: workers replaced so far.
    pids: process ids of workers that are processes of this machine.
    """

    layout: Layout
    copies: int
    restarts: int
    seeds: Array
    actions: Array
    outputs: Mapping[str, Array]
    inputs: Mapping[str, Array]

    @property
    def pids(self) -> list[int]: ...

    def reset(self, mask: Array | None = None) -> Array:
        """Start the episodes of ``seeds`` in the copies of ``mask`` (bool [B], None: all); returns as ``step`` does."""

    def step(self, mask: Array | None = None) -> Array:
        """Advance the copies of ``mask`` by ``actions``.

        Returns bool [B]: the copies that lost their episode with a worker; they have started the one of ``seeds``.
        """

    def ask(self, question: str) -> Array:
        """Put a question to all copies; returns as ``step`` does."""

    def states(self) -> list[WorkerState]:
        """The workers as they are; none where the owner's process does the work."""

    def close(self) -> None:
        """Stop the workers and free the memory; may be called twice."""


class Worker(ABC):
    """The copies ``first`` to ``first + count - 1``, somewhere else."""

    def __init__(self, index: int, first: int, count: int):
        self.index, self.first, self.count = index, first, count
        self.failures = self.steady = self.replaced = 0

    @property
    def share(self) -> slice:
        return slice(self.first, self.first + self.count)

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it runs, for people."""

    @abstractmethod
    def stop(self) -> None:
        """See to it that nothing of it is left."""

    @abstractmethod
    def last_words(self) -> str:
        """What it or its simulators said last."""


class WorkersPool(ABC):
    """A ``Pool`` of workers that can fail.

    start_timeout_s: the longest that a worker may take to start. max_failures: failures of one worker, none of them
        1000 calls after the one before, after which the pool gives up.
    """

    layout: Layout
    seeds: Array
    actions: Array
    outputs: Mapping[str, Array]
    inputs: Mapping[str, Array]

    def __init__(self, copies: int, start_timeout_s: float, max_failures: int):
        self.copies, self.restarts = copies, 0
        self._start_timeout_s, self._max_failures = start_timeout_s, max_failures

    @property
    @abstractmethod
    def _arrays(self) -> dict[str, Array]:
        """All arrays by their full names, as ``blocks_of`` has them; empty once the pool is closed."""

    @property
    @abstractmethod
    def _workers(self) -> list[Worker]: ...

    @abstractmethod
    def _ask(self, command: bytes, workers: list[Worker], question: str = "") -> list[tuple[Worker, str]]:
        """Send a command and wait for the answers; returns those that failed, and why."""

    @abstractmethod
    def _restart(self, worker: Worker) -> None:
        """Start a stopped worker anew, ready for commands. Raises ``StartError`` or ``OSError``."""

    @abstractmethod
    def close(self) -> None:
        """Stop the workers and free the memory; may be called twice."""

    def reset(self, mask: Array | None = None) -> Array:
        """As ``Pool.reset``."""
        return self._do(RESET, mask)

    def step(self, mask: Array | None = None) -> Array:
        """As ``Pool.step``."""
        return self._do(STEP, mask)

    def ask(self, question: str) -> Array:
        """As ``Pool.ask``."""
        return self._do(ASK, None, question)

    def states(self) -> list[WorkerState]:
        """As ``Pool.states``."""
        return [WorkerState(worker.place, worker.count, worker.replaced) for worker in self._workers]

    @property
    def pids(self) -> list[int]:
        """As ``Pool.pids``."""
        return []

    def _name_arrays(self) -> None:
        """Hand the arrays out by the names that owners know."""
        arrays = self._arrays
        self.seeds, self.actions = arrays["seeds"], arrays["actions"]
        self.outputs = {name: arrays["out/" + name] for name in self.layout.outputs}
        self.inputs = {name: arrays["in/" + name] for name in self.layout.inputs}

    def _do(self, command: bytes, mask: Array | None, question: str = "") -> Array:
        if not self._arrays:
            raise RuntimeError("the worker pool is closed")
        chosen = np.ones(self.copies, dtype=bool) if mask is None else mask
        self._arrays["mask"][:] = chosen
        lost = np.zeros(self.copies, dtype=bool)
        for worker in self._workers:
            worker.steady += 1
            if worker.steady > _STEADY:
                worker.failures = 0
        for worker, reason in self._ask(command, self._workers, question):
            lost[worker.share] = True if command != RESET else ~chosen[worker.share]
            self._replace(worker, reason)
        return lost

    def _replace(self, worker: Worker, reason: str) -> None:
        """Start the worker anew, with new episodes in all of its copies."""
        chosen = self._arrays["mask"]
        while True:
            self.restarts += 1
            worker.failures += 1
            worker.replaced += 1
            worker.steady = 0
            seeds = self.seeds[worker.share].tolist()
            logger.warning("worker %d %s; next seeds %s; restart %d", worker.index, reason, seeds, self.restarts)
            worker.stop()
            if worker.failures > self._max_failures:
                words = worker.last_words()
                self.close()
                raise UserError(
                    f"simulator worker {worker.index} failed {worker.failures} times in a row, at last it {reason}"
                    f" (next seeds {seeds}); with workers=0 it fails where one can look; its log ends with: {words}"
                )
            try:
                self._restart(worker)
            except (StartError, OSError) as error:
                reason = str(error)
                continue
            chosen[:] = False
            chosen[worker.share] = True
            again = self._ask(RESET, [worker])
            if not again:
                return
            reason = again[0][1]
