"""Conformance of a PettingZoo ``ParallelEnv``, stricter than PettingZoo's own tests.

Those of 1.27 compare one step for determinism, never ask a space whether it contains an observation, and take text for
a reward. Here whole episodes are compared, in one process and across two, and every returned value is looked at.
"""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from gymnasium import spaces
from pettingzoo import ParallelEnv

from marl.envs.foreign_ends import declared_limit, ended_inside
from marl.testing.probes import (
    digest,
    global_generators,
    probe_flags,
    probe_info,
    probe_observation,
    probe_reward,
    told,
    vandalise,
)
from marl.testing.report import Report
from marl.testing.trace import (
    Moment,
    Record,
    compare_elsewhere,
    difference,
    factory_spec,
    moments,
    name_of,
    parallel_trace,
)
from marl.testing.turns import Turns

Env: TypeAlias = ParallelEnv[Any, Any, Any]

_MEND = "; from_parallel(..., truncate_at_horizon=True) reads it as a truncation"

#: Steps of the checks that need no whole episode.
_SHORT = 100


def check_parallel(
    factory: Callable[[], Env], steps: int = 500, seeds: Sequence[int] = (0, 1), spec: str | None = None
) -> Report:
    """Everything that can be found out about a ``ParallelEnv`` by playing it with random legal actions.

    Args:
        factory: makes a new environment at each call; where it is a function of a module, determinism is also
            checked against a new process.
        steps: of each play, over as many episodes as fit.
        seeds: every value is looked at in the plays of these.
        spec: MODULE:FACTORY, where the new process finds it if its own name does not tell.

    The names of the faults are in ``marl.testing.report.FAULTS``.
    """
    report = Report(spec or name_of(factory))
    made: list[Env] = []

    def make() -> Env:
        made.append(factory())
        return made[-1]

    reference: dict[int, list[Record]] = {}
    with _guarded(report, "making the environment"):
        _Inspection(report, make(), steps).run(seeds, reference)
    if reference:
        first = seeds[0]
        for check in (_same_process, _seeds_matter, _unseeded, _aliasing, _instances, _pickling):
            with _guarded(report, check.__name__.strip("_").replace("_", " ")):
                check(report, make, first, steps, reference[first])
        spec = spec or factory_spec(factory)
        if spec is None or "nondeterministic" not in report.faults:
            compare_elsewhere(report, spec, first, steps, lambda: reference[first])
    for env in made:
        with _guarded(report, "close()"):
            env.close()
        try:
            env.close()
        except Exception as error:
            report.add("close-twice", "close()", told(error))
    return report


@contextmanager
def _guarded(report: Report, where: str) -> Iterator[None]:
    """An exception of the environment is a finding, not the end of the check."""
    try:
        yield
    except Exception as error:
        report.add("raises", where, told(error))


class _Inspection:
    """Looks at every value of the plays of one environment."""

    def __init__(self, report: Report, env: Env, steps: int):
        self._report, self._env, self._steps = report, env, steps
        self._possible = getattr(env, "possible_agents", None)
        self._limit = declared_limit(env)
        self._ended: set[Any] = set()
        self._truncations = 0
        self._all_terminated: Counter[int] = Counter()
        self._kept: dict[str, tuple[Any, str]] = {}
        self._state_space = getattr(env, "state_space", None)
        self._turns = Turns(report)
        self._has_state = False

    def run(self, seeds: Sequence[int], reference: dict[int, list[Record]]) -> None:
        metadata = getattr(self._env, "metadata", None)
        if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
            self._report.add("metadata", "metadata", "expected a dict with at least a name")
        for seed in seeds:
            records = []
            with global_generators(seed + 1) as used:
                for moment in moments(self._env, seed, self._steps):
                    records.append(moment.record())
                    self._inspect(moment)
                    if moment.actions is not None and digest(moment.actions) != moment.given:
                        self._report.add("actions-changed", moment.where, "they are not what was passed to step")
                    self._report.steps += moment.actions is not None
            if used:
                self._report.add("global-randomness", f"seed {seed}", f"{' and '.join(used)} drawn from or seeded")
            reference[seed] = records
        self._judge_limits()
        self._turns.judge()

    def _inspect(self, moment: Moment) -> None:
        report, where = self._report, moment.where
        if not moment.named or not all(isinstance(values, Mapping) for values in moment.named.values()):
            count = 2 if moment.actions is None else 5
            report.add("return-form", where, f"expected {count} dicts by agent")
            return
        self._agents(moment)
        expected = set(moment.after) if moment.actions is None else set(moment.before) | set(moment.after)
        for name, values in moment.named.items():
            if set(values) != expected:
                odd = sorted(map(str, set(values) ^ expected))
                report.add("keys", where, f"{name} is missing or has too many of {', '.join(odd)}")
        for agent, value in moment.named["observation"].items():
            place = f"{where}, {agent}"
            probe_observation(report, place, value, self._env.observation_space(agent))
        self._turns.inspect(moment, self._env)
        for agent, value in moment.named["info"].items():
            probe_info(report, f"{where}, {agent}", value)
        if moment.actions is not None:
            self._outcome(moment)
        state = self._state(moment)
        self._reuse(moment, state)

    def _agents(self, moment: Moment) -> None:
        report, where, after = self._report, moment.where, moment.after
        if len(set(after)) != len(after):
            report.add("agents", where, f"agents repeats a name: {after}")
        if self._possible is not None and not set(after) <= set(self._possible):
            extra = sorted(map(str, set(after) - set(self._possible)))
            report.add("agents", where, f"{', '.join(extra)} not in possible_agents")
        if moment.actions is None:
            self._ended = set()
            if not after:
                report.add("agents", where, "no agents after reset")
        for agent in after:
            for call in (self._env.observation_space, self._env.action_space):
                if call(agent) is not call(agent):
                    report.add("space-changes", f"{where}, {agent}", f"{call.__name__} makes a new space at each call")

    def _outcome(self, moment: Moment) -> None:
        report, where = self._report, moment.where
        terminated, truncated = moment.named["termination"], moment.named["truncation"]
        for agent, value in moment.named["reward"].items():
            probe_reward(report, f"{where}, {agent}", value)
        for agent in moment.before:
            place = f"{where}, {agent}"
            term, trunc = terminated.get(agent, False), truncated.get(agent, False)
            probe_flags(report, place, term, trunc)
            over = bool(term) or bool(trunc)
            if over:
                self._ended.add(agent)
            if over and agent in moment.after:
                report.add("agent-stays", place, "an agent that ended must leave agents")
            if not over and agent not in moment.after:
                report.add("agent-vanished", place, "it left agents, but neither flag is set")
        for agent in set(moment.after) - set(moment.before):
            if agent in self._ended:
                report.add("agent-revived", f"{where}, {agent}", "it had ended in this episode")
        if ended_inside(self._env):
            report.add("end-late", where, "no agent is left in the environment inside, but its wrapper lists some")
        self._truncations += sum(map(bool, truncated.values()))
        if not moment.after and not any(truncated.values()):
            self._all_terminated[moment.index] += 1
        if self._limit is not None and moment.index > self._limit and moment.after:
            report.add("horizon-exceeded", where, f"the declared limit is {self._limit} steps")

    def _judge_limits(self) -> None:
        """A fixed length whose ends are all terminations is a time limit in disguise."""
        report, lengths = self._report, self._all_terminated
        if self._truncations:
            return
        if self._limit is not None and lengths[self._limit]:
            place = f"step {self._limit}, {lengths[self._limit]} episodes"
            report.add("time-limit-terminated", place, f"the declared time limit is flagged as termination{_MEND}")
        elif len(lengths) == 1 and sum(lengths.values()) >= 3:
            (length,) = lengths
            report.add(
                "time-limit-suspected", f"step {length}", f"all {lengths[length]} episodes terminate here{_MEND}"
            )

    def _state(self, moment: Moment) -> Any:
        try:
            state = self._env.state()
        except Exception as error:
            # An environment may have no state, but then it never has.
            if self._has_state or not isinstance(error, NotImplementedError | AttributeError):
                self._report.add("raises", f"{moment.where}, state()", told(error))
            return None
        self._has_state = True
        space = self._state_space
        if isinstance(space, spaces.Space):
            inner = Report("state")
            probe_observation(inner, moment.where, state, space)
            for finding in inner.findings:
                self._report.add("state-outside-space", moment.where, finding.sentence)
        return state

    def _reuse(self, moment: Moment, state: Any) -> None:
        """What was returned a call ago must not have changed since."""
        for name, (value, before) in self._kept.items():
            if digest(value) != before:
                self._report.add("returned-data-reused", moment.where, f"{name} of the call before has changed")
        kept = {**moment.named, "state": state}
        self._kept = {name: (value, digest(value)) for name, value in kept.items()}


def _same_process(report: Report, make: Callable[[], Env], seed: int, steps: int, reference: list[Record]) -> None:
    """A new environment repeats the episodes, so does one that was played; the global generators do not matter."""
    env = make()
    with global_generators(seed + 2):
        place = difference(reference, parallel_trace(env, seed, steps))
    if place is not None:
        report.add("nondeterministic", place, f"a new environment with seed {seed} plays another episode")
        return
    with global_generators(seed + 3):
        for moment in moments(env, seed + 17, 1 + steps // 7):
            del moment
        place = difference(reference, parallel_trace(env, seed, steps))
    if place is not None:
        report.add("reset-not-clean", place, f"after other episodes, reset(seed={seed}) does not start the same one")


def _seeds_matter(report: Report, make: Callable[[], Env], seed: int, steps: int, reference: list[Record]) -> None:
    with global_generators(seed + 1):
        records = [moment.record() for moment in moments(make(), seed + 12345, min(steps, _SHORT), action_seed=seed)]
    if difference(reference[: len(records)], records) is None:
        report.add("seed-ignored", f"seeds {seed} and {seed + 12345}", "the same actions give the same episodes")


def _unseeded(report: Report, make: Callable[[], Env], seed: int, steps: int, reference: list[Record]) -> None:
    if "nondeterministic" in report.faults:
        return
    with global_generators(seed + 4):
        first = parallel_trace(make(), seed, steps, seed_all=False)
    with global_generators(seed + 5):
        place = difference(first, parallel_trace(make(), seed, steps, seed_all=False))
    if place is not None:
        report.add("unseeded-reset", place, "the episodes after the first are drawn from elsewhere")


def _aliasing(report: Report, make: Callable[[], Env], seed: int, steps: int, reference: list[Record]) -> None:
    """Play while overwriting everything that was returned and given."""
    if "nondeterministic" in report.faults:
        return
    records = []
    with global_generators(seed + 1):
        for moment in moments(make(), seed, min(steps, _SHORT)):
            records.append(moment.record())
            vandalise(moment.named)
            vandalise(moment.actions)
    place = difference(reference[: len(records)], records)
    if place is not None:
        report.add("returned-data-aliased", place, "after the values returned before were overwritten")


def _instances(report: Report, make: Callable[[], Env], seed: int, steps: int, reference: list[Record]) -> None:
    """Two environments, turn by turn."""
    if "nondeterministic" in report.faults:
        return
    records = []
    with global_generators(seed + 1):
        pair = zip(
            moments(make(), seed, min(steps, _SHORT)), moments(make(), seed + 1, 2 * min(steps, _SHORT)), strict=False
        )
        for ours, _ in pair:
            records.append(ours.record())
    place = difference(reference[: len(records)], records)
    if place is not None:
        report.add("instances-share-state", place, "while another environment was played beside it")


def _pickling(report: Report, make: Callable[[], Env], seed: int, steps: int, reference: list[Record]) -> None:
    env = make()
    env.reset(seed=seed)
    try:
        twin = pickle.loads(pickle.dumps(env))
        copied = copy.deepcopy(env)
    except Exception as error:
        report.add("not-picklable", "pickle.dumps(env)", told(error))
        return
    for name, other in (("unpickled", twin), ("copied", copied)):
        with global_generators(seed + 1):
            records = parallel_trace(other, seed, min(steps, _SHORT))
        place = difference(reference[: len(records)], records)
        if place is not None and "nondeterministic" not in report.faults:
            report.add("not-picklable", place, f"the {name} environment plays another episode")
        other.close()
