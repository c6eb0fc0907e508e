"""Simulators as Ray actors: on the cores of this machine, or on as many machines as a cluster has.

The same seeds give the same bits as processes do. What goes to an actor and comes back is one array of bytes each,
which suits simulators whose step takes milliseconds; a call costs its owner about a tenth of that. Ray is only needed
where such a pool is made (extra ``ray``), and this module does not import torch.
"""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import platform
import socket
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marl.envs.own_randomness import OwnRandomness
from marl.envs.pool_base import StartError, Worker, WorkersPool
from marl.envs.worker_process import (
    ASK,
    Array,
    Block,
    Layout,
    Simulator,
    blocks_of,
    extent,
    make_seats,
    placed,
    serve_command,
)
from marl.errors import UserError

#: How long a cluster may take to answer at all before it counts as down.
_CONNECT_TIMEOUT_S = 5.0
Bytes = NDArray[np.uint8]


class Parcel:
    """Named arrays side by side in one array of bytes, which can be sent at once.

    blocks: of a share of the copies. data: the bytes. arrays: name -> its part of them.
    """

    def __init__(self, blocks: Mapping[str, Block], data: Bytes | None = None):
        self.data: Bytes = np.zeros(extent(blocks), np.uint8) if data is None else data
        self.arrays = placed(blocks, self.data)


def _split(layout: Layout, count: int) -> tuple[dict[str, Block], dict[str, Block]]:
    """What goes to ``count`` copies, and what comes back from them."""
    blocks = blocks_of(layout, count)
    back = {name: block for name, block in blocks.items() if name.startswith("out/")}
    return {name: block for name, block in blocks.items() if name not in back}, back


class Seats:
    """The actor: ``count`` simulators and their arrays.

    factory: makes one simulator, pickled by the owner. path: where the owner finds modules, which lie at the same
    places on all nodes.
    """

    def __init__(self, factory: bytes, count: int, path: Sequence[str] = ()):
        sys.path += [folder for folder in path if folder not in sys.path]
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        np.random.seed()
        OwnRandomness.take_process()
        make: Callable[[], Simulator] = pickle.loads(factory)
        self._simulators = [make() for _ in range(count)]
        self._layout = self._simulators[0].layout
        sent, back = _split(self._layout, count)
        self._back, self._sent = Parcel(back), sent
        self._arrays = Parcel(sent).arrays
        self._seats = make_seats(self._simulators, 0, self._arrays | self._back.arrays)

    def greet(self) -> tuple[Layout, str, dict[str, str]]:
        """The layout, the place where this runs, and the versions here."""
        return self._layout, f"{socket.gethostname()}, process {os.getpid()}", versions()

    def serve(self, command: bytes, data: Bytes, question: str) -> Bytes:
        """Do a command, as ``serve_command`` does, for copies with these inputs; returns the outputs of all of them."""
        for name, array in Parcel(self._sent, data).arrays.items():
            self._arrays[name][...] = array
        serve_command(command, self._seats, self._arrays, question)
        return self._back.data


def versions() -> dict[str, str]:
    """What has to be equal on all nodes: other versions may give other numbers, or not understand each other."""
    python = ".".join(platform.python_version_tuple()[:2])
    packages = ("marl-platform", "numpy", "gymnasium", "pettingzoo")
    return {"Python": python, **{name: importlib.metadata.version(name) for name in packages}}


def connect(where: str) -> Any:
    """The module ``ray``, connected.

    Args:
        where: ``ray`` for the cluster of RAY_ADDRESS, or else this machine; ``ray://HOST:PORT`` for the cluster whose
            client server listens there. A connection that is there already is used.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--workers ray needs Ray: pip install 'marl-platform[ray]'") from None
    if ray.is_initialized():
        return ray
    address = where if where != "ray" else os.environ.get("RAY_ADDRESS")
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():
            socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_S).close()
        alone = {} if address else {"include_dashboard": False}
        ray.init(address, log_to_driver=False, logging_level="ERROR", **alone)
    except (OSError, RuntimeError, ImportError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(
            f"no Ray cluster answers at {address or 'this machine'} ({words}): start it with 'ray start --head', or "
            "name another"
        ) from None
    return ray


class RayPool(WorkersPool):
    """B simulators in Ray actors (``marl.envs.pool_base.Pool``).

    factory, copies, timeout_s, start_timeout_s, max_failures: as for ``WorkerPool``. where: as for ``connect``.
    workers: number of actors, spread over the nodes; an actor whose node dies is made again on another one.

    Raises ``UserError`` for a factory that cannot be sent, a cluster that is down, and unequal versions on the nodes.
    """

    def __init__(
        self,
        factory: Callable[[], Simulator],
        copies: int,
        workers: int,
        where: str = "ray",
        *,
        timeout_s: float = 60.0,
        start_timeout_s: float = 120.0,
        max_failures: int = 3,
    ):
        super().__init__(copies, start_timeout_s, max_failures)
        if not 1 <= workers <= copies:
            raise UserError(f"workers is {workers}, but {copies} copies can be shared by 1 to {copies} workers")
        self._timeout_s = timeout_s
        self._ray = connect(where)
        try:
            packed = pickle.dumps(factory)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(f"the factory cannot be sent to Ray's nodes ({error}): define it in a module") from error
        shares = np.array_split(np.arange(copies), workers)
        self._held: list[_RayWorker] = [
            _RayWorker(index, int(share[0]), len(share), self._ray, packed) for index, share in enumerate(shares)
        ]
        self._finalizer = weakref.finalize(self, _release, self._held)
        self._start_all()
        self._named = {
            name: np.zeros(block.shape, block.dtype) for name, block in blocks_of(self.layout, copies).items()
        }
        self._name_arrays()

    @property
    def _arrays(self) -> dict[str, Array]:
        return self._named

    @property
    def _workers(self) -> list[Worker]:
        return list(self._held)

    def close(self) -> None:
        self.outputs, self.inputs, self._named = {}, {}, {}
        self.seeds = self.actions = np.zeros(0)
        self._finalizer()

    def _start_all(self) -> None:
        try:
            for worker in self._held:
                worker.launch()
            for worker in self._held:
                self.layout = self._greeted(worker)
        except (StartError, UserError) as error:
            _release(self._held)
            if isinstance(error, UserError):
                raise
            raise UserError(f"a simulator worker does not start: {error}") from error

    def _greeted(self, worker: _RayWorker) -> Layout:
        """The layout of a launched worker, which is launched again where its node was lost before it ran."""
        for _ in range(self._max_failures):
            try:
                return worker.greet(self._start_timeout_s)
            except _NodeLostError:
                worker.launch()
        return worker.greet(self._start_timeout_s)

    def _restart(self, worker: Worker) -> None:
        assert isinstance(worker, _RayWorker)
        worker.launch()
        self._greeted(worker)

    def _ask(self, command: bytes, workers: list[Worker], question: str = "") -> list[tuple[Worker, str]]:
        arrays, failed = self._named, list[tuple[Worker, str]]()
        asked = []
        for worker in workers:
            assert isinstance(worker, _RayWorker)
            # Nothing is sent where nobody is meant; a question is put to all.
            if command == ASK or arrays["mask"][worker.share].any():
                asked.append((worker, worker.send(command, arrays, question)))
        deadline = time.monotonic() + self._timeout_s
        try:
            # All at once takes less of the owner's time than one by one, and is the way where nothing fails.
            for (worker, _), data in zip(
                asked, self._ray.get([answer for _, answer in asked], timeout=self._timeout_s), strict=True
            ):
                worker.take(data, arrays)
            return []
        except self._ray.exceptions.RayError:  # also where the time is up: who it was is asked one by one
            pass
        for worker, answer in asked:
            reason = worker.receive(answer, arrays, max(0.0, deadline - time.monotonic()))
            if reason is not None:
                failed.append((worker, reason or f"gave no answer in {self._timeout_s:g} s"))
        return failed


class _NodeLostError(StartError):
    """A worker was sent to a node that was gone, which the cluster did not know yet."""


class _RayWorker(Worker):
    """An actor and the copies ``first`` to ``first + count - 1``."""

    def __init__(self, index: int, first: int, count: int, ray: Any, factory: bytes):
        super().__init__(index, first, count)
        self._ray, self._factory = ray, factory
        self._actor: Any = None
        self._place = self._words = ""

    @property
    def place(self) -> str:
        return self._place

    def launch(self) -> None:
        # An actor that Ray restarts by itself would have lost its episodes without a word: that is the pool's to do.
        options = {"scheduling_strategy": "SPREAD", "max_restarts": 0}
        self._actor = self._ray.remote(Seats).options(**options).remote(self._factory, self.count, sys.path)

    def greet(self, timeout_s: float) -> Layout:
        """Wait until the actor has made its simulators."""
        try:
            layout, self._place, theirs = self._ray.get(self._actor.greet.remote(), timeout=timeout_s)
        except self._ray.exceptions.GetTimeoutError as error:
            raise StartError(f"worker {self.index} was not ready in {timeout_s:g} s") from error
        except self._ray.exceptions.RayError as error:
            never_ran = isinstance(error, self._ray.exceptions.RayActorError) and "never ran" in str(error)
            kind = _NodeLostError if never_ran else StartError
            raise kind(f"worker {self.index} {self._told(error)}") from error
        ours = versions()
        unequal = [f"{name} {theirs.get(name)} beside {own}" for name, own in ours.items() if theirs.get(name) != own]
        if unequal:
            raise UserError(f"{self._place} has {', '.join(unequal)} here: install the same versions on all nodes")
        sent, self._back = _split(layout, self.count)
        self._parcel = Parcel(sent)
        assert isinstance(layout, Layout)
        return layout

    def send(self, command: bytes, arrays: Mapping[str, Array], question: str) -> Any:
        """Send a command with what it needs; returns what the answer will be."""
        for name, own in self._parcel.arrays.items():
            # What questions come with is the same for all copies of a step otherwise, and need not travel.
            if command == ASK or not name.startswith("in/"):
                own[...] = arrays[name][self.share]
        return self._actor.serve.remote(command, self._parcel.data, question)

    def receive(self, answer: Any, arrays: Mapping[str, Array], patience_s: float) -> str | None:
        """Write an answer into the owner's arrays: None; else what went wrong, empty if nothing came in time."""
        try:
            data = self._ray.get(answer, timeout=patience_s)
        except self._ray.exceptions.GetTimeoutError:
            return ""
        except self._ray.exceptions.RayError as error:
            return self._told(error)
        self.take(data, arrays)
        return None

    def take(self, data: Bytes, arrays: Mapping[str, Array]) -> None:
        """Write the outputs of all its copies into the owner's arrays."""
        for name, own in Parcel(self._back, data).arrays.items():
            arrays[name][self.share] = own

    def stop(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None and self._ray.is_initialized():
            self._ray.kill(actor, no_restart=True)

    def last_words(self) -> str:
        return self._words or "(nothing)"

    def _told(self, error: Exception) -> str:
        """What happened, in words that fit behind 'the worker'."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception):
            self._words = " | ".join(line.strip() for line in str(error).splitlines()[-3:])
            return f"raised {type(cause).__name__}: {str(cause)[:2000]}"
        self._words = " ".join(str(error).split())[:500]
        # What an actor died of while it was made stands in the last line.
        last = str(error).strip().rpartition("\n")[2].strip()
        return f"was lost ({type(error).__name__}{f': {last[:200]}' if 'Error' in last else ''})"


def _release(workers: list[_RayWorker]) -> None:
    for worker in workers:
        worker.stop()
