"""A worker process of ``marl.envs.workers``: simulators behind shared arrays, told what to do by single bytes.

This module does not import torch, so that workers start quickly and stay small.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from marl.envs.own_randomness import OwnRandomness

logger = logging.getLogger(__name__)

Array = NDArray[Any]

#: Commands and answers, a byte each: a worker's part of a step is so short that pickling words would show.
RESET, STEP, CLOSE = b"r", b"s", b"c"
#: Comes before a question, which is sent as an object.
ASK = b"?"
DONE, FAILED = b".", b"!"

_ALIGNMENT = 64
_LOG_LIMIT = 1 << 20
#: Commands between two looks at the log's size.
_LOG_EVERY = 256


class Block(NamedTuple):
    """Shape and dtype of what one copy reads or writes."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Layout:
    """What one copy exchanges: its actions, its named outputs, and whatever else the owner wants to know of it.

    inputs: what questions come with, by name.
    """

    actions: Block
    outputs: Mapping[str, Block]
    info: Any = None
    inputs: Mapping[str, Block] = field(default_factory=dict)


class Simulator(Protocol):
    """One copy of a world in a worker."""

    @property
    def layout(self) -> Layout: ...

    def reset(self, seed: int) -> None:
        """Start an episode that is a function of ``seed`` alone."""

    def step(self, actions: Array, next_seed: int) -> None:
        """Advance by one step; if that ends the episode, the next one may be started at once with ``next_seed``."""

    def write(self, outputs: Mapping[str, Array]) -> None:
        """Write the outputs in place; called after every ``reset`` and ``step``."""

    def answer(self, question: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Answer a question about the present moment, in the outputs; only asked by owners that know some."""

    def close(self) -> None: ...


class Seat(NamedTuple):
    """A copy: its simulator, its number, and its share of the shared arrays."""

    simulator: Simulator
    copy: int
    actions: Array
    outputs: dict[str, Array]
    inputs: dict[str, Array]


def make_seats(simulators: list[Simulator], first: int, arrays: Mapping[str, Array]) -> list[Seat]:
    """The copies ``first``, ``first + 1``, ..."""
    actions = arrays["actions"]
    named = {
        prefix: {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        for prefix in ("out/", "in/")
    }
    return [
        Seat(
            simulator,
            copy,
            _row(actions, copy),
            *({n: _row(a, copy) for n, a in own.items()} for own in named.values()),
        )
        for copy, simulator in enumerate(simulators, first)
    ]


def _row(array: Array, copy: int) -> Array:
    """The share of one copy, as an array that can be written to."""
    return array[copy : copy + 1].reshape(array.shape[1:])


def serve_command(command: bytes, seats: list[Seat], arrays: Mapping[str, Array], question: str = "") -> None:
    """Do a command for the copies of the mask, and write what they show."""
    seeds, mask = arrays["seeds"], arrays["mask"]
    for simulator, copy, actions, outputs, inputs in seats:
        if not mask[copy]:
            continue
        if command == ASK:
            simulator.answer(question, inputs, outputs)
            continue
        if command == RESET:
            simulator.reset(int(seeds[copy]))
        else:
            simulator.step(actions, int(seeds[copy]))
        simulator.write(outputs)


def serve(
    commands: Connection,
    answers: Connection,
    factory: Callable[[], Simulator],
    first: int,
    count: int,
    log: str,
    limit_s: float,
) -> None:
    """The worker process: simulators for ``count`` copies, a command at a time, each within ``limit_s`` seconds."""
    descriptor = _settle(log)
    memory: SharedMemory | None = None
    simulators: list[Simulator] = []
    arrays: dict[str, Array] = {}
    seats: list[Seat] = []
    served, attached = 0, False
    try:
        simulators += [factory() for _ in range(count)]
        layout = simulators[0].layout
        answers.send(layout)
        name, copies = commands.recv()
        attached = True
        memory = SharedMemory(name)
        arrays.update(views(blocks_of(layout, copies), memory))
        seats += make_seats(simulators, first, arrays)
        told, telling = commands.fileno(), answers.fileno()
        # What is there now stays: collections need not walk through it again and again.
        gc.freeze()
        while (command := os.read(told, 1)) not in (CLOSE, b""):
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            serve_command(command, seats, arrays, commands.recv() if command == ASK else "")
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            os.write(telling, DONE)
            served += 1
            if served % _LOG_EVERY == 0 and os.fstat(descriptor).st_size > _LOG_LIMIT:
                os.ftruncate(descriptor, 0)
    except EOFError:
        logger.debug("the owner has gone")
    except Exception as error:
        traceback.print_exc()
        if attached:
            os.write(answers.fileno(), FAILED)
        answers.send(f"raised {type(error).__name__}: {str(error)[:2000]}")
    finally:
        for simulator in simulators:
            simulator.close()
        seats.clear()
        arrays.clear()
        if memory is not None:
            memory.close()


def _settle(log: str) -> int:
    """Make this process a worker, whose output goes to ``log``; returns the log's descriptor."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # The owner's to handle, who saves first and then closes the pipe.
    # Should the owner be killed while a simulator hangs, nobody else ends this process: the system's own timer does,
    # also where a simulator never returns to Python.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # What simulators leave behind when they are killed lies in the pool's folder and goes with it.
    tempfile.tempdir = str(Path(log).parent)
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Where numpy came with the fork, the state of its global generator did too, the same for every worker.
    np.random.seed()
    OwnRandomness.take_process()
    return descriptor


# Shared arrays


def blocks_of(layout: Layout, copies: int) -> dict[str, Block]:
    """The arrays of all copies by name."""
    blocks = {
        "seeds": Block((copies,), "int64"),
        "mask": Block((copies,), "bool"),
        "actions": Block((copies, *layout.actions.shape), layout.actions.dtype),
    }
    named = [("out/", layout.outputs), ("in/", layout.inputs)]
    return blocks | {
        prefix + name: Block((copies, *block.shape), block.dtype)
        for prefix, own in named
        for name, block in own.items()
    }


def _size(block: Block) -> int:
    size = int(np.prod(block.shape, dtype=np.int64)) * np.dtype(block.dtype).itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def extent(blocks: Mapping[str, Block]) -> int:
    """Bytes that the blocks take together."""
    return sum(_size(block) for block in blocks.values())


def views(blocks: Mapping[str, Block], memory: SharedMemory) -> dict[str, Array]:
    """The blocks as arrays in shared memory, one behind the other."""
    return placed(blocks, memory.buf)


def placed(blocks: Mapping[str, Block], buffer: Any) -> dict[str, Array]:
    """The blocks as arrays in a buffer of ``extent`` bytes, one behind the other."""
    found, offset = {}, 0
    for name, block in blocks.items():
        found[name] = np.ndarray(block.shape, block.dtype, buffer, offset)
        offset += _size(block)
    return found
