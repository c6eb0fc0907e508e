"""The trainer of tensor worlds: rollouts and updates, or generations that evolve, in the loop of ``Loop``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from marl.config import AnyRunConfig
from marl.coordination.pipeline import Pipeline
from marl.envs.batched import BatchedEnv, Snapshots
from marl.envs.pool_base import WorkerState
from marl.errors import UserError, nearest
from marl.evaluation.runner import run_policy
from marl.learning.evolution import check_scores
from marl.policies.base import BoundPolicy
from marl.rollout.collector import Collector, EpisodeMeans
from marl.rollout.finite import check_batch
from marl.rollout.generations import Generation, Generations
from marl.scenario import Scenario, find_baseline
from marl.seeding import Stream, fold_int, seeds_of
from marl.systems.system import Algorithm, Evolves, System
from marl.training.idle import StillWatch
from marl.training.loop import Echo, Figures, Loop, prefixed
from marl.training.policy import PipelinePolicy, is_greedy
from marl.training.run_folder import RunFolder


class Trainer(Loop):
    """One training run in one folder.

    Raises ``UserError`` if the configuration cannot be trained.
    """

    def __init__(self, config: AnyRunConfig, scenario: Scenario, system: System, folder: RunFolder, echo: Echo):
        super().__init__(config, folder, echo)
        self._scenario = scenario
        device = torch.device(config.device)
        self._env = scenario.make(config.world, config.copies, device)
        self._pipeline = Pipeline(self._env, config.coordination, config.seed)
        self._pipeline.record()
        self.algorithm: Algorithm | Evolves = system.algorithm(
            self._env.spec, self._pipeline.observation_space, config.algorithm, config.seed, device
        )
        expert = _expert(scenario, config, self._env)
        self._collector = collector_of(self._pipeline, self.algorithm, self._clock.phase, expert)
        self._rollout = steps_of(self._collector, config)
        self._agent_steps_each = self._rollout * config.copies * self._env.spec.n_agents
        self._iterations = max(1, -(-config.total_steps // self._agent_steps_each))
        self._exact = isinstance(self._env, Snapshots) and expert is None
        self._watch = StillWatch()
        self._equal = False  # the members of the last generation scored the same

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

    @property
    def _complete(self) -> bool:
        return bool(self._iteration >= self._iterations)

    # State

    def _begin(self) -> None:
        self._reset()
        if isinstance(self._collector, Collector) and not self._exact:
            who = "an expert" if isinstance(self._env, Snapshots) else type(self._env).__name__
            self._echo(f"{who} cannot be saved in mid-episode: resuming will start episodes afresh")

    def _reset(self) -> None:
        """Start episodes, unless each generation does so itself."""
        if isinstance(self._collector, Collector):
            self._collector.reset(self._instances(self.config.copies))

    def _take(self, tree: Mapping[str, Any]) -> None:
        self.algorithm.policy.load_state_dict(tree["algorithm"]["policy"])
        critic = getattr(self.algorithm, "critic", None)
        if "critic" in tree["algorithm"] and isinstance(critic, torch.nn.Module):
            critic.load_state_dict(tree["algorithm"]["critic"])
        self._pipeline.load_learned(tree.get("modules", {}))

    def _put(self, tree: Mapping[str, Any]) -> None:
        self.algorithm.load_state(tree["algorithm"])
        self._pipeline.load_learned(tree.get("modules", {}))
        if isinstance(self._collector, Collector) and self._exact:
            assert isinstance(self._env, Snapshots)
            self._env.restore(tree["world"])
            self._collector.load_state(tree["collector"])
        else:
            self._reset()

    def _state(self) -> dict[str, Any]:
        tree: dict[str, Any] = {"algorithm": self.algorithm.state(), "modules": self._pipeline.learned()}
        if isinstance(self._collector, Collector) and self._exact:
            assert isinstance(self._env, Snapshots)
            tree["world"] = self._env.snapshot()
            tree["collector"] = self._collector.state()
        return tree

    def _instances(self, count: int) -> Tensor:
        """Seeds for the episodes this iteration starts; unused when episodes continue from the previous one."""
        base = fold_int(fold_int(self._iteration, int(Stream.TRAIN)), self.config.seed) & ((1 << 62) - 1)
        return seeds_of(base, count, self._env.device)

    # Loop

    def _learn(self) -> Figures:
        fraction = self._iteration / self._iterations
        self._pipeline.schedule(fraction)
        if isinstance(self._collector, Generations):
            assert isinstance(self.algorithm, Evolves)
            seeds = self._instances(self._collector.instances)
            generation, episodes = self._collector.collect(self._iteration, seeds)
            self._judge(generation)
            reward = generation.mean_reward
            with self._clock.phase("update"):
                learned = self.algorithm.update(generation, self._iteration, fraction)
        else:
            assert not isinstance(self.algorithm, Evolves)
            batch, episodes = self._collector.collect(self._rollout)
            with self._clock.phase("check"):
                check_batch(batch, self._env.spec)
            reward = batch.mean_reward
            with self._clock.phase("update"):
                learned = self.algorithm.update(batch, self._iteration, fraction)
        if not isinstance(learned, dict):
            raise UserError(
                f"{type(self.algorithm).__name__}.update returned a {type(learned).__name__}: return its figures as a "
                "dict of numbers, which may be empty"
            )
        with self._clock.phase("update"):
            learned |= self._pipeline.learn(self._iteration)
        if still := self._watch.saw(reward):
            self._echo(f"warning: {still}")
        self._episodes += episodes.count
        return {"reward": reward, **prefixed("episode", self._metrics(episodes)), **prefixed("learn", learned)}

    def _judge(self, generation: Generation) -> None:
        """Refuse scores that are none, and say where they tell nothing."""
        scores = generation.fitness
        check_scores(scores, "member")
        equal = bool(scores.min() == scores.max())
        if equal and not self._equal:
            self._echo(
                f"generation {self._current}: all {len(scores)} members score {float(scores[0]):.4g} in "
                f"{self.primary_metric}, so nothing is learned from it: a wider algorithm.sigma or easier worlds help"
            )
        self._equal = equal

    def _networks(self) -> Iterator[tuple[str, Iterable[Tensor]]]:
        yield "policy", self.algorithm.policy.parameters()
        critic = getattr(self.algorithm, "critic", None)
        if isinstance(critic, torch.nn.Module):
            yield "critic", critic.parameters()
        yield "predictor", self._pipeline.parameters()

    def _metrics(self, episodes: EpisodeMeans) -> Figures:
        means = episodes.means()
        names = (*self._env.spec.metrics, *self._pipeline.metrics)
        return {name: means.get(name, float("nan")) for name in names}

    def evaluate(self) -> Figures:
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

    def _workers(self) -> list[WorkerState]:
        return self._env.workers()

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
