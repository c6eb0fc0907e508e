"""The trainer: rollout, update, log, checkpoint; stopped at any moment and resumed bit for bit.

Nothing in the loop draws from a shared random stream: every number is keyed by the run's seed and a counter. A
checkpoint therefore holds parameters, moments, the worlds' snapshot and a few counters, and a resumed run equals an
uninterrupted one on the same device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl.config import AnyRunConfig
from marl.coordination.pipeline import Pipeline
from marl.envs.batched import BatchedEnv, Snapshots
from marl.errors import UserError, nearest
from marl.evaluation.runner import run_policy
from marl.policies.base import BoundPolicy
from marl.rollout.collector import Collector, EpisodeMeans
from marl.rollout.generations import Generations
from marl.scenario import Scenario, find_baseline, load_scenario
from marl.seeding import Stream, fold_int, seeds_of
from marl.systems.registry import load_system
from marl.systems.system import Algorithm, Evolves, System
from marl.training.checkpoint import CheckpointStore
from marl.training.language_trainer import LanguageTrainer
from marl.training.policy import PipelinePolicy, is_greedy
from marl.training.process import prepare_process
from marl.training.progress import PhaseClock, Progress
from marl.training.run_folder import RunFolder
from marl.training.stopping import stop_signals
from marl.training.tracking import Tracker

Echo = Callable[[str], None]


class Trainer:
    """One training run in one folder.

    Raises ``UserError`` if the configuration cannot be trained.
    """

    def __init__(self, config: AnyRunConfig, scenario: Scenario, system: System, folder: RunFolder, echo: Echo):
        self.config, self._scenario, self._folder, self._echo = config, scenario, folder, echo
        device = torch.device(config.device)
        self._env = scenario.make(config.world, config.copies, device)
        self._pipeline = Pipeline(self._env, config.coordination, config.seed)
        self._pipeline.record()
        self.algorithm: Algorithm | Evolves = system.algorithm(
            self._env.spec, self._pipeline.observation_space, config.algorithm, config.seed, device
        )
        self._clock = PhaseClock()
        expert = _expert(scenario, config, self._env)
        self._collector = collector_of(self._pipeline, self.algorithm, self._clock.phase, expert)
        self._rollout = steps_of(self._collector, config)
        self._agent_steps_each = self._rollout * config.copies * self._env.spec.n_agents
        self._iterations = max(1, -(-config.total_steps // self._agent_steps_each))
        self._iteration = 0
        self._episodes = 0
        self._cpu_before, self._cpu_began = 0.0, time.process_time()
        self._store = CheckpointStore(folder.path, config.checkpoint.keep)
        self._exact = isinstance(self._env, Snapshots) and expert is None

    @property
    def agent_steps(self) -> int:
        """Made so far; generations count as if no episode had ended before the horizon."""
        return int(self._iteration * self._agent_steps_each)

    @property
    def total_agent_steps(self) -> int:
        """Of the whole run: ``total_steps``, rounded up to whole iterations."""
        return int(self._iterations * self._agent_steps_each)

    @property
    def primary_metric(self) -> str:
        return self._env.spec.primary_metric

    # State

    def start(self) -> None:
        """Begin a new run."""
        if isinstance(self._collector, Collector):
            self._collector.reset(self._instances(self.config.copies))
        self.save()  # so that there is always something to resume from
        if isinstance(self._collector, Collector) and not self._exact:
            who = "an expert" if isinstance(self._env, Snapshots) else type(self._env).__name__
            self._echo(f"{who} cannot be saved in mid-episode: resuming will start episodes afresh")

    def take_weights(self, init: Path) -> None:
        """Before ``start``: begin with the weights of another run's newest checkpoint."""
        tree, _, path = CheckpointStore(init).latest(self._echo)
        try:
            self.algorithm.policy.load_state_dict(tree["algorithm"]["policy"])
            critic = getattr(self.algorithm, "critic", None)
            if "critic" in tree["algorithm"] and isinstance(critic, torch.nn.Module):
                critic.load_state_dict(tree["algorithm"]["critic"])
            self._pipeline.load_learned(tree.get("modules", {}))
        except (KeyError, TypeError, RuntimeError):
            raise UserError(
                f"the weights in {path} do not fit this run: train with the world and network options in "
                f"{init / 'config.yaml'}, or leave --init out"
            ) from None
        self._echo(f"starting from the weights in {path}")

    def load(self) -> None:
        """Continue from the newest checkpoint that is whole."""
        tree, _, path = self._store.latest(self._echo)
        self.algorithm.load_state(tree["algorithm"])
        self._pipeline.load_learned(tree.get("modules", {}))
        counters = tree["counters"]
        self._iteration, self._episodes = counters["iteration"], counters["episodes"]
        self._cpu_before = counters["cpu_seconds"]
        if isinstance(self._collector, Collector):
            if self._exact:
                self._env.restore(tree["world"])  # type: ignore[attr-defined]
                self._collector.load_state(tree["collector"])
            else:
                self._collector.reset(self._instances(self.config.copies))
        self._echo(f"resumed from {path.name} at {self.agent_steps:,} agent-steps")

    def save(self) -> None:
        """Write a checkpoint of the present moment."""
        tree: dict[str, Any] = {
            "algorithm": self.algorithm.state(),
            "modules": self._pipeline.learned(),
            "counters": {
                "iteration": self._iteration,
                "episodes": self._episodes,
                "cpu_seconds": self._cpu_seconds(),
            },
        }
        if isinstance(self._collector, Collector) and self._exact:
            tree["world"] = self._env.snapshot()  # type: ignore[attr-defined]
            tree["collector"] = self._collector.state()
        self._store.save(self._iteration, tree, {"agent_steps": self.agent_steps})

    def _instances(self, count: int) -> Tensor:
        """Seeds of training instances that an iteration begins with, where it does not go on with those under way."""
        base = fold_int(fold_int(self._iteration, int(Stream.TRAIN)), self.config.seed) & ((1 << 62) - 1)
        return seeds_of(base, count, self._env.device)

    def _cpu_seconds(self) -> float:
        return self._cpu_before + time.process_time() - self._cpu_began

    # Loop

    def run(self, progress: Progress, tracker: Tracker) -> bool:
        """Train to the end. Returns False if a signal asked to stop; the run is saved in either case."""
        tracker.truncate_after(self._iteration)
        every = self.config.checkpoint.every_iterations
        saved = self._iteration if self._iteration else -1
        with stop_signals() as stop:
            while self._iteration < self._iterations and not stop.asked:
                figures = self._iterate()
                tracker.log(figures)
                progress.update(figures, self._clock)
                if self._iteration % every == 0 or self._iteration == self._iterations:
                    with self._clock.phase("save"):
                        self.save()
                    saved = self._iteration
            if saved != self._iteration:
                self.save()
        return bool(self._iteration >= self._iterations)

    def _iterate(self) -> dict[str, float]:
        fraction = self._iteration / self._iterations
        self._pipeline.schedule(fraction)
        if isinstance(self._collector, Generations):
            assert isinstance(self.algorithm, Evolves)
            seeds = self._instances(self._collector.instances)
            generation, episodes = self._collector.collect(self._iteration, seeds)
            reward = generation.mean_reward
            with self._clock.phase("update"):
                learned = self.algorithm.update(generation, self._iteration, fraction)
        else:
            assert not isinstance(self.algorithm, Evolves)
            batch, episodes = self._collector.collect(self._rollout)
            reward = batch.mean_reward
            with self._clock.phase("update"):
                learned = self.algorithm.update(batch, self._iteration, fraction)
        with self._clock.phase("update"):
            learned |= self._pipeline.learn(self._iteration)
        self._iteration += 1
        self._episodes += episodes.count
        figures = {
            "iteration": self._iteration,
            "agent_steps": self.agent_steps,
            "episodes": self._episodes,
            "cpu_seconds": self._cpu_seconds(),
            "reward": reward,
        }
        figures |= {f"episode/{name}": value for name, value in self._metrics(episodes).items()}
        figures |= {f"learn/{name}": value for name, value in learned.items()}
        every = self.config.evaluation.every_iterations
        if every and (self._iteration % every == 0 or self._iteration == self._iterations):
            with self._clock.phase("evaluate"):
                figures |= {f"evaluation/{name}": value for name, value in self.evaluate().items()}
        return figures

    def _metrics(self, episodes: EpisodeMeans) -> dict[str, float]:
        means = episodes.means()
        names = (*self._env.spec.metrics, *self._pipeline.metrics)
        return {name: means.get(name, float("nan")) for name in names}

    def evaluate(self) -> dict[str, float]:
        """Means of the metrics over the configured number of evaluation instances."""
        options = self.config.evaluation
        world = self._scenario.held_out(self.config.world)
        env = self._scenario.make(world, options.seeds, self._env.device)
        pipeline = Pipeline(env, self.config.coordination)
        pipeline.load_learned(self._pipeline.learned())
        policy = PipelinePolicy(pipeline, self.algorithm.policy, is_greedy(self.config))
        base = fold_int(0, int(Stream.EVALUATE)) & ((1 << 62) - 1)
        try:
            played = run_policy(env, policy, seeds_of(base, options.seeds, self._env.device), options.episodes)
        finally:
            env.close()
        return {name: float(values.mean()) for name, values in played.metrics.items()}

    def close(self) -> None:
        self._env.close()


def collector_of(
    pipeline: Pipeline,
    algorithm: Algorithm | Evolves,
    phase: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext(),
    expert: BoundPolicy | None = None,
) -> Collector | Generations:
    """What plays for a learner: rollouts that go on where the last one stopped, or generations of whole episodes."""
    if isinstance(algorithm, Evolves):
        return Generations(pipeline, algorithm.members, algorithm.population, algorithm.config.greedy, phase)
    return Collector(pipeline, algorithm.policy, algorithm.critic, phase, expert)


def steps_of(collector: Collector | Generations, config: AnyRunConfig) -> int:
    """Steps of each copy in an iteration."""
    return collector.steps if isinstance(collector, Generations) else int(config.algorithm.rollout)


def train(
    config: AnyRunConfig,
    out: Path | None = None,
    echo: Echo = lambda _: None,
    live: bool = True,
    init: Path | None = None,
) -> Path:
    """Run a training from the beginning; returns the run's folder.

    out: the folder, new or empty; by default one below ``runs/``. live: show progress.
    init: the folder of a run whose weights this one starts from.
    A run that Ctrl-C or SIGTERM stopped is saved, and raises ``KeyboardInterrupt``.
    """
    prepare_process()
    _check_device(config)
    scenario, system = load_scenario(config.scenario), load_system(config.system)
    with RunFolder.create(config, out) as folder:
        try:
            trainer = _trainer(config, scenario, system, folder, echo)
            if init is not None:
                trainer.take_weights(init)
            trainer.start()
        except UserError:
            folder.discard()
            raise
        _finish(trainer, folder, echo, live)
        return folder.path


def resume(path: Path, echo: Echo = lambda _: None, live: bool = True) -> Path:
    """Continue a run from its newest whole checkpoint, to the same end as if it had never stopped."""
    prepare_process()
    with RunFolder.open(path) as folder:
        config = folder.config
        _check_device(config)
        scenario, system = load_scenario(config.scenario), load_system(config.system)
        trainer = _trainer(config, scenario, system, folder, echo)
        trainer.load()
        _finish(trainer, folder, echo, live)
        return folder.path


def _trainer(
    config: AnyRunConfig, scenario: Scenario, system: System, folder: RunFolder, echo: Echo
) -> Trainer | LanguageTrainer:
    kind = LanguageTrainer if system.kind == "language" else Trainer
    return kind(config, scenario, system, folder, echo)


def _expert(scenario: Scenario, config: AnyRunConfig, env: BatchedEnv) -> BoundPolicy | None:
    """The baseline that the system's options name as ``expert``, if they do."""
    name: str | None = getattr(config.algorithm, "expert", None)
    if name is None:
        return None
    rule = find_baseline(scenario, name)
    if rule is None:
        known = nearest(name.partition(":")[0], sorted(scenario.baselines))
        raise UserError(f"algorithm.expert: {scenario.name} has no baseline '{name}'{known}")
    return rule(env)


def _check_device(config: AnyRunConfig) -> None:
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={config.device}, but torch sees no GPU here: set device=cpu")


def _finish(trainer: Trainer | LanguageTrainer, folder: RunFolder, echo: Echo, live: bool) -> None:
    """Run to the end, or until a signal asks to stop; close everything in either case."""
    config = folder.config
    tracker = Tracker(folder.path, config.tracking.tensorboard)
    try:
        with Progress(trainer.total_agent_steps, trainer.primary_metric, trainer.agent_steps, live) as progress:
            complete = trainer.run(progress, tracker)
    finally:
        tracker.close()
        trainer.close()
    if not complete:
        echo(f"stopped and saved: continue with 'marl train --resume {folder.path}'")
        raise KeyboardInterrupt
