"""The loop of every training run: iterate, log, checkpoint, evaluate; stopped at any moment and resumed bit for bit.

Nothing in the loop draws from a shared random stream: every number is keyed by the run's seed and a counter. A
checkpoint therefore holds what the learner and the world need and a few counters, and a resumed run equals an
uninterrupted one on the same device. What is learned, and in what kind of world, is the part of the trainers:
``marl.training.tensor_trainer`` and ``marl.training.language_trainer``.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from marl.config import AnyRunConfig
from marl.envs.pool_base import WorkerState
from marl.errors import NotFiniteError, UserError
from marl.rollout.finite import MEND_LEARNING, peak
from marl.training.checkpoint import CheckpointStore
from marl.training.progress import PhaseClock, Progress
from marl.training.run_folder import RunFolder
from marl.training.status import note_workers
from marl.training.stopping import stop_signals
from marl.training.tracking import Tracker

Echo = Callable[[str], None]
Figures = dict[str, float]


class Loop(ABC):
    """One training run in one folder. ``start`` or ``load``, then ``run``, then ``close``."""

    #: What ``agent_steps`` counts, for messages.
    unit = "agent-steps"
    #: The options, beside the world's, that two runs must share for one to begin with the weights of the other.
    weights_depend_on = "network"

    def __init__(self, config: AnyRunConfig, folder: RunFolder, echo: Echo):
        self.config, self._echo, self._folder = config, echo, folder
        self._clock = PhaseClock()
        self._iteration = self._current = 0  # done, and under way
        self._episodes = 0
        self._cpu_before, self._cpu_began = 0.0, time.process_time()
        self._store = CheckpointStore(folder.path, config.checkpoint.keep)

    # What a trainer adds

    @property
    @abstractmethod
    def primary_metric(self) -> str:
        """The figure of an episode that is shown beside the reward."""

    @property
    @abstractmethod
    def agent_steps(self) -> int:
        """Made so far."""

    @property
    @abstractmethod
    def total_agent_steps(self) -> int:
        """Of the whole run."""

    @property
    @abstractmethod
    def _complete(self) -> bool:
        """Whether the run has reached its end."""

    @abstractmethod
    def _begin(self) -> None:
        """What a new run does before its first checkpoint."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """What the next iteration depends on beside the counters, as a tree for a checkpoint."""

    @abstractmethod
    def _put(self, tree: Mapping[str, Any]) -> None:
        """Put a checkpoint's tree back; the counters all trainers have are back already."""

    @abstractmethod
    def _take(self, tree: Mapping[str, Any]) -> None:
        """Take the weights from another run's tree. Raises what torch or a missing key raises if they do not fit."""

    @abstractmethod
    def _learn(self) -> Figures:
        """One iteration, counted in ``_episodes``: named figures; none if there was nothing to learn from yet."""

    @abstractmethod
    def evaluate(self) -> Figures:
        """Figures on the configured number of evaluation instances."""

    @abstractmethod
    def close(self) -> None:
        """Release worlds and processes."""

    @abstractmethod
    def _networks(self) -> Iterator[tuple[str, Iterable[Tensor]]]:
        """What learns, by name: its parameters, of which every number has to be finite."""

    def _workers(self) -> list[WorkerState]:
        """The workers of the run's world, for who looks on."""
        return []

    def _counters(self) -> dict[str, Any]:
        """Counters of the trainer's own, for a checkpoint."""
        return {}

    def _manifest(self) -> dict[str, Any]:
        """What a checkpoint says of itself to its readers."""
        return {"agent_steps": self.agent_steps}

    def _evaluates(self) -> bool:
        """Whether figures of the iteration just made include those of an evaluation."""
        every = self.config.evaluation.every_iterations
        return bool(every) and (self._iteration % every == 0 or self._complete)

    # State

    def start(self) -> None:
        """Begin a new run."""
        self._begin()
        self.save()  # so that there is always something to resume from

    def take_weights(self, init: Path) -> None:
        """Before ``start``: begin with the weights of another run's newest checkpoint."""
        tree, _, path = CheckpointStore(init).latest(self._echo)
        try:
            self._take(tree)
        except (KeyError, TypeError, RuntimeError):
            raise UserError(
                f"the weights in {path} do not fit this run: train with the world and {self.weights_depend_on} options "
                f"in {init / 'config.yaml'}, or leave --init out"
            ) from None
        self._echo(f"starting from the weights in {path}")

    def load(self) -> None:
        """Continue from the newest checkpoint that is whole."""
        tree, _, path = self._store.latest(self._echo)
        counters = tree["counters"]
        self._iteration, self._episodes = counters["iteration"], counters["episodes"]
        self._cpu_before = counters["cpu_seconds"]
        self._put(tree)
        self._echo(f"resumed from {path.name} at {self.agent_steps:,} {self.unit}")
        if self._folder.stopped is not None:
            self._echo(f"this run stopped in {self._folder.stopped}; it will again unless that was mended")

    def save(self) -> None:
        """Write a checkpoint of the present moment; weights that are none raise ``NotFiniteError`` instead."""
        for name, parameters in self._networks():
            if not all(bool(peak(x).isfinite()) for x in parameters if x.numel()):
                raise NotFiniteError(f"the {name} has weights that are not finite", MEND_LEARNING)
        counters = {"iteration": self._iteration, "episodes": self._episodes, "cpu_seconds": self._cpu_seconds()}
        tree = {**self._state(), "counters": counters | self._counters()}
        self._store.save(self._iteration, tree, self._manifest())

    def _cpu_seconds(self) -> float:
        return self._cpu_before + time.process_time() - self._cpu_began

    # Loop

    def run(self, progress: Progress, tracker: Tracker) -> bool:
        """Train to the end. Returns False if a signal asked to stop; the run is saved in either case.

        Raises ``UserError`` where a number is none: nothing of it is saved, and the last checkpoint stays the good one.
        """
        try:
            return self._run(progress, tracker)
        except NotFiniteError as error:
            raise self._stopped(error) from error

    def _run(self, progress: Progress, tracker: Tracker) -> bool:
        tracker.truncate_after(self._iteration)
        every = self.config.checkpoint.every_iterations
        saved = self._iteration if self._iteration else -1
        with stop_signals() as stop:
            while not self._complete and not stop.asked:
                figures = self._iterate()
                if not figures:
                    continue
                tracker.log(figures)
                if workers := self._workers():
                    note_workers(self._folder.path, workers, sum(worker.replaced for worker in workers))
                progress.update(figures, self._clock)
                if self._iteration % every == 0 or self._complete:
                    with self._clock.phase("save"):
                        self.save()
                    saved = self._iteration
            if saved != self._iteration:
                self.save()
        return self._complete

    def _stopped(self, error: NotFiniteError) -> UserError:
        """What to tell of a number that is none, and of the way back; it is noted in the folder as well."""
        where = f"iteration {self._current}: {error.what}"
        self._folder.note_stop(where)
        *_, last = self._store.steps()
        kept = f"the last good checkpoint, {self._store.path(last)}, is kept"
        if error.mend == MEND_LEARNING:
            return UserError(
                f"{where}: nothing was saved since, {kept}; {error.mend}, in a new run that goes on from it with "
                f"--init {self._folder.path}"
            )
        return UserError(
            f"{where}: nothing was saved since, {kept}; {error.mend}, then go on with "
            f"'marl train --resume {self._folder.path}'"
        )

    def _iterate(self) -> Figures:
        """One iteration with its figures; none if there was nothing to learn from yet."""
        self._current = self._iteration + 1
        learned = self._learn()
        if not learned:
            return {}
        for name, value in learned.items():
            if name.startswith("learn/") and not math.isfinite(value):
                raise NotFiniteError(f"the figure {name} of the update is {value}", MEND_LEARNING)
        self._iteration += 1
        figures: Figures = {
            "iteration": self._iteration,
            "agent_steps": self.agent_steps,
            "episodes": self._episodes,
            "cpu_seconds": self._cpu_seconds(),
            **learned,
        }
        if self._evaluates():
            with self._clock.phase("evaluate"):
                figures |= prefixed("evaluation", self.evaluate())
        return figures


def prefixed(kind: str, figures: Mapping[str, float]) -> Figures:
    """``{"loss": 1.0}`` as ``{"learn/loss": 1.0}``."""
    return {f"{kind}/{name}": value for name, value in figures.items()}
