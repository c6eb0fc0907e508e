"""``Scenario``: what a scenario package declares, and how the platform finds it.

A scenario is an entry point of the group ``marl.scenarios`` that names a ``Scenario`` object, so a package of one's own
is found like the shipped ones. The command line offers what is declared here without knowing any scenario.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Protocol, get_args, get_origin

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from marl.config import CoordinationConfig, read_options
from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.envs.chat import LanguageWorld
from marl.envs.random_play import RandomPolicy
from marl.errors import UserError, nearest
from marl.plugins import file_hint, is_reference, load_reference
from marl.policies.base import Baseline, BoundPolicy, TunableBaseline

GROUP = "marl.scenarios"


@dataclass(frozen=True)
class Option:
    """A command-line shorthand of this scenario for one configuration key: ``--map F`` for ``--set world.map=F``.

    switch: what the flag sets when it stands alone, by key; empty: it needs a value.
    also: what it sets besides, by key: what the value before it needed and this one may not know.
    endings: the end of a value, in small letters -> the key that is set instead where a value ends so.
    pairs: its value is KEY=VALUE, and it may be repeated; together they are the mapping that ``key`` gets.
    """

    flag: str
    key: str
    help: str
    switch: Mapping[str, Any] = field(default_factory=dict)
    also: Mapping[str, Any] = field(default_factory=dict)
    endings: Mapping[str, str] = field(default_factory=dict)
    pairs: bool = False

    def key_of(self, value: Any) -> str:
        """The configuration key that a value sets."""
        for ending, key in self.endings.items():
            if isinstance(value, str) and value.lower().endswith(ending):
                return key
        return self.key


@dataclass(frozen=True)
class Parameter:
    """One number that may be tuned.

    low, high: its limits. start: where the search begins. scale: how the stretch between the limits is searched.
        ``linear``; ``square``, finer towards ``low``; ``decay``, for a factor per step below 1, in equal ratios of its
        memory 1 / (1 - x).
    """

    name: str
    low: float
    high: float
    start: float
    scale: Literal["linear", "square", "decay"] = "linear"

    def value(self, place: float) -> float:
        """The value at a place of the stretch, 0 to 1."""
        place = min(max(place, 0.0), 1.0)
        if self.scale == "decay":
            memory = math.pow(1 - self.low, place - 1) * math.pow(1 - self.high, -place)
            return min(max(1 - 1 / memory, self.low), self.high)
        return self.low + (self.high - self.low) * (place**2 if self.scale == "square" else place)

    def place(self, value: float) -> float:
        """Where a value lies on the stretch, 0 to 1; the inverse of ``value``."""
        value = min(max(value, self.low), self.high)
        if self.scale == "decay":
            return math.log((1 - self.low) / (1 - value)) / math.log((1 - self.low) / (1 - self.high))
        share = (value - self.low) / (self.high - self.low)
        return math.sqrt(share) if self.scale == "square" else share


@dataclass(frozen=True)
class Tunable:
    """Numbers that ``marl tune`` chooses for one kind of instances.

    summary: as ``marl list tunables`` prints it.
    parameters: (world configuration) -> the numbers, and where to begin.
    worlds: (world configuration) -> the configurations that a choice is judged on, such as several numbers of agents.
        Raises ``UserError`` for those that cannot be tuned for.
    build: (world, values by name) -> the policy that plays with them.
    reference: a baseline that plays the same instances, for ``score`` to compare with.
    score: (metrics of episodes, those of the reference, each name -> float64 ``[episodes]``) -> float64 ``[episodes]``,
        higher is better.
    option: the scenario's command-line option that takes the file of values. metrics: what tables show.
    """

    summary: str
    parameters: Callable[[Any], Sequence[Parameter]]
    worlds: Callable[[Any], Sequence[Any]]
    build: Callable[[BatchedEnv, Mapping[str, float]], BoundPolicy]
    reference: str
    score: Callable[[Mapping[str, NDArray[np.float64]], Mapping[str, NDArray[np.float64]]], NDArray[np.float64]]
    option: str
    metrics: Sequence[str]


@dataclass(frozen=True)
class Axis:
    """A size that ``marl bench --vary`` runs through.

    unit: what the sizes count. settings: size -> configuration keys and the values they get.
    """

    unit: str
    settings: Mapping[float, Mapping[str, Any]]


@dataclass(frozen=True)
class Benchmark:
    """What ``marl bench`` measures of a scenario.

    settings: configuration keys and values, laid over the default preset: the size that is measured.
    steps: of the copies in one repeat, at most; an episode if it is shorter.
    axes: name -> the sizes to run through. ``copies`` is one of them wherever it is not named otherwise.
    alone: (world) -> what moves it by joint actions without looking at it; None: the world cannot do that.
    state_bytes: (world) -> bytes of state that a step of all copies reads and writes at the least.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 256
    axes: Mapping[str, Axis] = field(default_factory=dict)
    alone: Callable[[BatchedEnv], Callable[[Tensor], object]] | None = None
    state_bytes: Callable[[BatchedEnv], int] | None = None


@dataclass(frozen=True)
class Counterparts:
    """Two worlds that should be one: the fast one that is trained in, and the one that judges.

    worlds: name -> configuration of the world, the fast one first. rule: the baseline that drives in both.
    relative, absolute: metric -> how far the means may be apart, as a share of the judge's, or as they are.
    mend: what to do where they are further apart. doubtful: a training should look first, as on a user's own files.
    """

    worlds: Mapping[str, Any]
    rule: str
    relative: Mapping[str, float]
    absolute: Mapping[str, float]
    mend: str
    doubtful: bool = False


class Recorder(Protocol):
    """Collects copy 0 of an episode and shows it."""

    def add(self, timestep: TimeStep, actions: Tree | None) -> None:
        """Call after ``reset`` (actions None) and after each step, before the next one."""

    def html(self) -> str:
        """A self-contained HTML fragment that plays the recording with no network."""


class PlanRecorder(Protocol):
    """Collects copy 0 of an episode as a file that other tools read."""

    def add(self, timestep: TimeStep, actions: Tree | None) -> None:
        """Call after ``reset`` (actions None) and after each step, before the next one."""

    def write(self, path: Path) -> None:
        """Write the recorded episode."""


class Replayed(Protocol):
    """What a plan file turned out to be.

    figures: by name. faults: a sentence each, none of a valid plan. notes: what could not be checked, and why.
    """

    @property
    def figures(self) -> Mapping[str, float]: ...
    @property
    def faults(self) -> Sequence[str]: ...
    @property
    def notes(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Plans:
    """Episodes as plan files.

    recorder: (world) -> what writes them; raises ``UserError`` for a world that has no such form. replay: (file, world
    configuration) -> what the file holds, judged without the world.
    """

    recorder: Callable[[BatchedEnv], PlanRecorder]
    replay: Callable[[Path, Any], Replayed]


@dataclass(frozen=True)
class Scenario:
    """A family of worlds.

    name, summary: as ``marl list scenarios`` prints them.
    config: pydantic model of the world's options (the ``world:`` part of a run's configuration).
    make: (world configuration, copies B, device) -> the batched world.
    instance: (world configuration) -> what distinguishes its instances in tables, such as {"map", "agents"}.
    baselines: name -> builder of a policy that needs no training.
    presets: folder of ``NAME.yaml``, partial run configurations; ``default_preset`` and ``demo_preset`` are in it.
    demo_rule: the baseline that ``marl demo`` compares with. demo_reading: sentences below its table. demo_baselines:
        those that stand in its table; empty: all of them.
    options: command-line shorthands. system: the system that trains it unless told otherwise.
    gives_way: key -> keys whose values from a preset or a file are forgotten where it is set above them, such as the
        number of agents where a file of tasks has its own.
    recorder: (world) -> Recorder, or None if the world cannot show itself.
    maps: () -> the names of the shipped maps or networks. tunables: by name, for ``marl tune``.
    held_out: (world configuration) -> the same kind of world with instances that training never meets. Seeds of
        training and evaluation never overlap; a world that draws maps from a pool changes the pool here.
    shown: (world configuration) -> the one with which an episode is recorded, where a world keeps pictures only then.
    environment: (world configuration) -> what makes the PettingZoo environment within the world, which ``marl check``
        looks at too; None: there is none.
    judged: (world configuration, policy) -> the configuration in which ``evaluate`` judges that policy, the same world:
        what it writes, such as a simulator's files, goes into a folder of the policy's own.
    checkpoints: folder of shipped policies, each a folder as ``marl train`` writes them.
    language: (world configuration) -> the world as language systems see it; None if its agents do not talk.
    coordinated: (world configuration, the run's coordination) -> the world configuration; for worlds that guide, tell
        intentions and correct by themselves, as those of texts do. Raises ``UserError`` for what contradicts itself.
    bound: configuration keys that a trained policy cannot do without, such as the graph of its roles: ``evaluate``
        takes them from the runs that it judges where nobody names them.
    served: keys with the values under which ``evaluate`` judges a served model (``openai:URL,MODEL``) where nobody
        names them.
    plans: how episodes are written to and read from plan files; None: not at all.
    counterparts: (world configuration) -> the world that is trained in and the one that judges, for ``marl compare``
        and a warning of ``marl train``; None: it has but one. Raises ``UserError`` where the judge is not installed.
    inspect: (world configuration) -> lines that say what it makes of a user's files, for ``marl inspect``; None: it
        reads none. Raises ``UserError`` for files that cannot be run.
    extras: optional dependencies of the platform's package (or of the scenario's own) -> what needs them here.
    benchmark: what ``marl bench`` measures; by default the default preset, one copy up to ``copies`` of them.
    """

    name: str
    summary: str
    config: type[BaseModel]
    make: Callable[[Any, int, torch.device], BatchedEnv]
    instance: Callable[[Any], dict[str, Any]]
    presets: Path
    default_preset: str
    demo_preset: str | None = None
    demo_rule: str | None = None
    demo_reading: Sequence[str] = ()
    demo_baselines: Sequence[str] = ()
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    options: Sequence[Option] = ()
    gives_way: Mapping[str, Sequence[str]] = field(default_factory=dict)
    system: str = "mappo"
    recorder: Callable[[BatchedEnv], Recorder] | None = None
    maps: Callable[[], list[str]] = list
    tunables: Mapping[str, Tunable] = field(default_factory=dict)
    held_out: Callable[[Any], Any] = lambda config: config
    shown: Callable[[Any], Any] = lambda config: config
    environment: Callable[[Any], Callable[[], Any]] | None = None
    judged: Callable[[Any, str], Any] = lambda config, _: config
    checkpoints: Path | None = None
    language: Callable[[Any], LanguageWorld] | None = None
    coordinated: Callable[[Any, CoordinationConfig], Any] = lambda config, _: config
    bound: Sequence[str] = ()
    served: Mapping[str, Any] = field(default_factory=dict)
    plans: Plans | None = None
    counterparts: Callable[[Any], Counterparts] | None = None
    inspect: Callable[[Any], Sequence[str]] | None = None
    extras: Mapping[str, str] = field(default_factory=dict)
    benchmark: Benchmark = field(default_factory=Benchmark)

    def preset_names(self) -> list[str]:
        return sorted(path.stem for path in self.presets.glob("*.yaml"))

    def is_compound(self, key: str) -> bool:
        """Whether one value of a key of the world, such as ``world.edges``, is a list or a mapping by itself.

        Commas in such a value are its own: they do not separate values that are to be compared.
        """
        models: list[type[BaseModel]] = [self.config]
        annotations: list[Any] = []
        for part in key.split(".")[1:]:
            annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
            models = [kind for a in annotations for kind in _types_in(a) if issubclass(kind, BaseModel)]
        return any(issubclass(kind, Collection) and kind is not str for a in annotations for kind in _types_in(a))


def _types_in(annotation: Any) -> list[type]:
    """The classes that an annotation is a union of: ``dict`` and ``NoneType`` for ``dict[str, int] | None``."""
    origin = get_origin(annotation)
    if isinstance(origin or annotation, type) and not issubclass(origin or annotation, UnionType):
        return [origin or annotation]
    return [kind for argument in get_args(annotation) for kind in _types_in(argument)]


@cache
def _points() -> tuple[EntryPoint, ...]:
    """The entry points of the installed packages; reading them takes milliseconds."""
    return tuple(entry_points(group=GROUP))


def scenario_names() -> list[str]:
    return sorted(point.name for point in _points())


def load_scenario(name: str) -> Scenario:
    """The scenario of that name, or the one that ``module:object`` means.

    Raises ``UserError`` with the nearest known name if there is none.
    """
    if is_reference(name):
        return load_reference(name, Scenario)
    for point in _points():
        if point.name == name:
            scenario: Scenario = point.load()
            return scenario
    raise UserError(f"scenario '{name}' does not exist{file_hint(name) or nearest(name, scenario_names())}")


def baselines_of(scenario: Scenario) -> Mapping[str, Baseline]:
    """The scenario's baselines, and ``random``, which plays in every world."""
    return {**scenario.baselines, "random": scenario.baselines.get("random", RandomPolicy)}


def find_baseline(scenario: Scenario, name: str) -> Baseline | None:
    """The baseline ``NAME`` or ``NAME:key=value:...``; None if the scenario has none of that name.

    Raises ``UserError`` for options that it does not have.
    """
    own, *texts = name.split(":")
    rule = baselines_of(scenario).get(own)
    if rule is None or not texts:
        return rule
    if not isinstance(rule, TunableBaseline):
        tunable = [known for known, other in baselines_of(scenario).items() if isinstance(other, TunableBaseline)]
        those = f"; options are for {', '.join(tunable)}" if tunable else ""
        raise UserError(f"policy '{name}': {own} has no options{those}")
    return rule.with_options(read_options(rule.options, texts, f"policy '{name}'"))
