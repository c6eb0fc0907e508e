"""Plays policies on paired instances and gathers their figures.

An instance is a seed: worlds draw tasks by counter (``marl.seeding``), so every policy meets the same ones, and the
difference of two policies is estimated from pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.envs.batched import BatchedEnv, EnvSpec, Metric, TimeStep
from marl.envs.forms import check_form
from marl.errors import NotFiniteError, UserError
from marl.evaluation.results import Pair, Results, Row
from marl.evaluation.statistics import Array, Statistic, estimate, interquartile_mean, mean, paired_difference
from marl.policies.base import Accounts, BoundPolicy
from marl.rollout.finite import MEND_WORLD, Watch
from marl.scenario import PlanRecorder, Scenario

#: Builds a policy for one world; called twice per world, once for a warm-up.
PolicyBuilder = Callable[[BatchedEnv], BoundPolicy]

#: Told (policy, episodes finished, episodes in all) as an evaluation goes on.
Progress = Callable[[str, int, int], None]

T = TypeVar("T")


@dataclass(frozen=True)
class EpisodeFigures:
    """What one policy did on one set of instances.

    metrics: name -> float64 ``[seeds * episodes]``, the episodes of a seed side by side.
    decisions: world steps times copies. act_seconds: time inside ``policy.act`` alone, of the process's CPU if the
        world is on the CPU, else of the clock with the device synchronised. wall: seconds for everything.
    """

    metrics: Mapping[str, Array]
    decisions: int
    act_seconds: float
    wall: float

    @property
    def ms_per_step(self) -> float:
        """Milliseconds to decide for all agents of one copy for one world step."""
        return 1e3 * self.act_seconds / self.decisions

    @classmethod
    def concatenate(cls, parts: Sequence[EpisodeFigures]) -> EpisodeFigures:
        """The figures of several batches of seeds as one."""
        return cls(
            metrics={name: np.concatenate([part.metrics[name] for part in parts]) for name in parts[0].metrics},
            decisions=sum(part.decisions for part in parts),
            act_seconds=sum(part.act_seconds for part in parts),
            wall=sum(part.wall for part in parts),
        )


def run_policy(
    env: BatchedEnv,
    policy: BoundPolicy,
    seeds: Tensor,
    episodes: int,
    on_finished: Callable[[int], None] | None = None,
    watcher: PlanRecorder | None = None,
) -> EpisodeFigures:
    """Play until every copy has finished ``episodes`` episodes and take the first ``episodes`` of each.

    seeds: int64 ``[B]``, one instance per copy; a copy's later episodes follow from its seed as well.
    on_finished: told how many of the wanted episodes ended, after each step in which some did.
    watcher: shown the first time step and each one that follows.
    Raises ``RuntimeError`` if a copy does not finish within its horizon, ``UserError`` if the first time steps are not
    as the world's spec says, ``NotFiniteError`` if a reward, an observation or a metric is none; a metric may be NaN
    where it is not defined.
    """
    clock = _Clock(env.device)
    figures = {name: np.full((env.copies, episodes), np.nan) for name in (*env.spec.metrics, *_own_metrics(policy))}
    counts, steps, began = np.zeros(env.copies, np.int64), 0, time.perf_counter()
    watch = Watch(env.spec, lambda copy: f"the instance of seed {int(seeds[copy])}")
    with torch.no_grad():
        timestep = env.reset(seeds)
        check_form(env, timestep)
        watch.see(timestep)
        if watcher is not None:
            watcher.add(timestep, None)
        while int(counts.min()) < episodes:
            if steps == episodes * env.spec.horizon:
                raise RuntimeError(f"{type(env).__name__} has not finished {episodes} episode(s) in {steps} steps")
            actions = clock.timed(policy.act, timestep)
            timestep = env.step(actions)
            if watcher is not None:
                watcher.add(timestep, actions)
            if steps == 0:
                check_form(env, timestep)
            steps += 1
            watch.see(timestep)
            shown = clock.timed(policy.account, timestep) if isinstance(policy, Accounts) else timestep
            ended = _note(shown, figures, counts, episodes)
            if ended and on_finished is not None:
                on_finished(ended)
    watch.check()
    _check_metrics(figures, seeds)
    return EpisodeFigures(
        metrics={name: values.reshape(-1) for name, values in figures.items()},
        decisions=steps * env.copies,
        act_seconds=clock.spent,
        wall=time.perf_counter() - began,
    )


def _note(timestep: TimeStep, figures: Mapping[str, Array], counts: NDArray[np.int64], episodes: int) -> int:
    """Write the metrics of the episodes that are done into the next column of their copies; how many these are.

    Args:
        timestep: its metrics are read where it is done.
        figures: by name, ``[B, episodes]``.
        counts: ``[B]``, episodes that each copy has finished; one more where one is noted.
        episodes: that are wanted of each copy; those after them are left out.
    """
    ended = np.flatnonzero(timestep.done.cpu().numpy() & (counts < episodes))
    if len(ended):
        for name, values in figures.items():
            values[ended, counts[ended]] = timestep.metrics[name].cpu().numpy()[ended]
        counts[ended] += 1
    return len(ended)


def evaluate(
    scenario: Scenario,
    policies: Mapping[str, PolicyBuilder],
    world_configs: Sequence[tuple[dict[str, Any], Any]],
    seeds: Sequence[int],
    episodes: int = 1,
    *,
    batch: int = 64,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    watch: Callable[[BatchedEnv], PlanRecorder] | None = None,
) -> Results:
    """All policies on all sets of instances, with intervals and paired differences.

    world_configs: (what distinguishes the instances in tables, the world's configuration), one per set.
    seeds: the instances of a set; ``episodes`` are played on each. batch: copies stepped together.
    watch: (world) -> what is shown each of its time steps.
    Raises ``UserError`` if there is nothing to play.
    """
    _check(policies, world_configs, seeds, episodes, batch)
    counted = _Counted(progress, len(policies) * len(world_configs) * len(seeds) * episodes)
    rows, paired = list[Row](), list[Pair]()
    figures: dict[tuple[int, str], EpisodeFigures] = {}
    meanings: dict[str, Metric] = {}
    for index, (instances, config) in enumerate(world_configs):
        for name, build in policies.items():
            parts = []
            for first in range(0, len(seeds), batch):
                chunk = torch.tensor(seeds[first : first + batch], dtype=torch.int64, device=device)
                env = scenario.make(scenario.judged(config, name), len(chunk), torch.device(device))
                spec = env.spec
                parts.append(_play(env, build, chunk, episodes, partial(counted, name), meanings, watch))
            figures[index, name] = EpisodeFigures.concatenate(parts)
            rows += _rows(name, instances, figures[index, name], spec)
        for a, b in combinations(policies, 2):
            paired += _pairs(a, b, instances, figures[index, a], figures[index, b], spec)
    return Results(
        scenario=scenario.name,
        primary_metric=spec.primary_metric,
        metrics={**spec.metrics, **meanings},
        rows=tuple(rows),
        paired=tuple(paired),
        raw={key: value.metrics for key, value in figures.items()},
        sets=tuple(instances for instances, _ in world_configs),
        seeds=tuple(seeds),
    )


def _play(
    env: BatchedEnv,
    build: PolicyBuilder,
    seeds: Tensor,
    episodes: int,
    on_finished: Callable[[int], None],
    meanings: dict[str, Metric],
    watch: Callable[[BatchedEnv], PlanRecorder] | None,
) -> EpisodeFigures:
    """``run_policy`` after a warm-up, then close the world; the policy's own metrics are added to ``meanings``."""
    try:
        _warm_up(env, build, seeds)
        policy = build(env)
        meanings.update(_own_metrics(policy))
        return run_policy(env, policy, seeds, episodes, on_finished, None if watch is None else watch(env))
    finally:
        env.close()


def _check_metrics(figures: Mapping[str, Array], seeds: Tensor) -> None:
    """An infinite metric has neither a mean nor an interval."""
    for name, values in figures.items():
        copies = np.flatnonzero(np.isinf(values).any(1))
        if len(copies):
            seed = int(seeds[copies[0]])
            raise NotFiniteError(f"the metric '{name}' of the instance of seed {seed} is infinite", MEND_WORLD)


class _Counted:
    """Tells ``progress`` how many episodes of all are over."""

    def __init__(self, progress: Progress | None, total: int):
        self._progress, self._total, self._finished = progress, total, 0

    def __call__(self, policy: str, count: int) -> None:
        self._finished += count
        if self._progress is not None:
            self._progress(policy, self._finished, self._total)


class _Clock:
    """Adds up seconds of CPU time of this process, or of the wall until an accelerator has finished.

    spent: of all that was timed.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self.spent = 0.0

    def timed(self, call: Callable[[TimeStep], T], timestep: TimeStep) -> T:
        """What ``call`` makes of the time step."""
        before = self._now()
        made = call(timestep)
        self.spent += self._now() - before
        return made

    def _now(self) -> float:
        if self._device.type == "cpu":
            return time.process_time()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _check(
    policies: Mapping[str, PolicyBuilder], world_configs: Sequence[Any], seeds: Sequence[int], episodes: int, batch: int
) -> None:
    for what, count in (("policy", len(policies)), ("set of instances", len(world_configs)), ("seed", len(seeds))):
        if count == 0:
            raise UserError(f"nothing to evaluate: name at least one {what}")
    if len(set(seeds)) < len(seeds):
        raise UserError("seeds: a seed is named twice; its episodes would be counted as independent, name each once")
    for name, number in (("episodes", episodes), ("batch", batch)):
        if number < 1:
            raise UserError(f"{name} is {number}; it must be at least 1")


def _warm_up(env: BatchedEnv, build: PolicyBuilder, seeds: Tensor) -> None:
    """One decision of a policy that is then thrown away, so that no timing holds a compilation."""
    with torch.no_grad():
        build(env).act(env.reset(seeds))


def _own_metrics(policy: BoundPolicy) -> Mapping[str, Metric]:
    return policy.metrics if isinstance(policy, Accounts) else {}


def _measures(spec: EnvSpec, found: Iterable[str]) -> list[tuple[str, str, Statistic]]:
    """(name of the row, metric, statistic) of the metrics found; the primary one first, then its interquartile mean."""
    primary = spec.primary_metric
    names = [primary] * bool(primary) + [name for name in found if name != primary]
    measures: list[tuple[str, str, Statistic]] = [(name, name, mean) for name in names]
    if primary:
        measures.insert(1, (f"{primary}_iqm", primary, interquartile_mean))
    return measures


def _rows(policy: str, instances: dict[str, Any], figures: EpisodeFigures, spec: EnvSpec) -> list[Row]:
    rows = []
    for name, metric, statistic in _measures(spec, figures.metrics):
        found = estimate(figures.metrics[metric], statistic)
        rows.append(Row(policy, instances, name, found.value, found.low, found.high, found.n, figures.ms_per_step))
    return rows


def _pairs(
    a: str, b: str, instances: dict[str, Any], of_a: EpisodeFigures, of_b: EpisodeFigures, spec: EnvSpec
) -> list[Pair]:
    pairs = []
    for name, metric, statistic in _measures(spec, [name for name in of_a.metrics if name in of_b.metrics]):
        found = paired_difference(of_a.metrics[metric], of_b.metrics[metric], statistic)
        pairs.append(Pair(a, b, instances, name, found.value, found.low, found.high, found.n))
    return pairs
