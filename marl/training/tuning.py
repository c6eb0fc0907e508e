"""``marl tune``: choose a scenario's numbers for one kind of instances, by evolution.

A generation is a set of candidates that all play the same instances, others in every generation; what the search
learns from is how much better they are than a reference there (``Tunable.score``). The result is the centre of the
search, judged beside the reference and the start on instances that the search has not met.

A tuning is a folder: ``tuning.yaml`` says what is tuned, ``generations.jsonl`` gets the scores of every generation.
They are all that the search depends on, so one that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from marl.config import AnyRunConfig, Frozen, dump, resolve
from marl.envs.batched import BatchedEnv
from marl.errors import NotFiniteError, UserError, nearest
from marl.evaluation.results import Results
from marl.evaluation.runner import evaluate, run_policy
from marl.files import read_text
from marl.learning.evolution import Cma, check_scores
from marl.policies.base import Baseline
from marl.scenario import Parameter, Scenario, Tunable, load_scenario
from marl.seeding import Stream, fold_int
from marl.systems.registry import load_system
from marl.training.run_folder import locked, replace_text, unused
from marl.yaml_io import dump_yaml, parse_yaml, read_yaml

SETTINGS = "tuning.yaml"
GENERATIONS = "generations.jsonl"
START, TUNED = "start", "tuned"
_DIGITS = 4
_MAX_BYTES = 50_000_000

Echo = Callable[[str], None]

#: Told (generations done, generations in all, mean score of the last one) as a tuning goes on.
OnGeneration = Callable[[int, int, float], None]


class SearchConfig(Frozen):
    """How long and how widely is searched."""

    generations: int = Field(default=40, ge=1, le=100_000, description="generations")
    population: int = Field(default=12, ge=4, le=10_000, description="candidates of a generation")
    instances: int = Field(default=4, ge=1, le=10_000, description="episodes that each plays, for each kind of world")
    step: float = Field(default=0.15, gt=0, le=1, description="first standard deviation, as a share of each range")
    judged: int = Field(default=16, ge=1, le=10_000, description="unseen instances that the result is judged on")


class _Settings(Frozen):
    schema_version: Literal[1] = 1
    tunable: str
    search: SearchConfig


@dataclass(frozen=True)
class Tuned:
    """What a tuning found.

    file: where the values are. values: by name. results: reference, start and tuned values on unseen instances.
    """

    file: Path
    values: Mapping[str, float]
    results: Results


def tune(
    config: AnyRunConfig,
    tunable: str,
    search: SearchConfig,
    out: Path | None = None,
    echo: Echo = lambda _: None,
    on_generation: OnGeneration = lambda done, total, score: None,
) -> Tuned:
    """Tune from the beginning, in the folder ``out`` (new or empty). Raises ``UserError``."""
    scenario = load_scenario(config.scenario)
    _find(scenario, tunable).worlds(config.world)
    name = re.sub(r"[^\w.:-]", "_", f"tune-{config.scenario}-{tunable}-s{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}")
    path = out or unused(Path("runs") / name)
    settings = _Settings(tunable=tunable, search=search)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with locked(path) as lock:
            if any(entry != Path(lock.name) for entry in path.iterdir()):
                hint = f"continue it with 'marl tune --resume {path}' or " if (path / SETTINGS).exists() else ""
                raise UserError(f"folder {path} is not empty: {hint}choose another --out")
            replace_text(path / SETTINGS, dump_yaml({**settings.model_dump(), "config": _plain(config)}))
            return _run(path, config, settings, echo, on_generation)
    except OSError as error:
        raise UserError(f"folder {path} cannot be written: {error.strerror or error}") from None


def resume(
    path: Path,
    echo: Echo = lambda _: None,
    on_generation: OnGeneration = lambda done, total, score: None,
) -> Tuned:
    """Continue the tuning in a folder, to the same end. Raises ``UserError``."""
    file = path / SETTINGS
    if not file.is_file():
        raise UserError(f"{path} is not the folder of a tuning: it has no {SETTINGS}")
    values = read_yaml(file)
    inner = values.pop("config", None)
    if not isinstance(inner, dict) or not isinstance(inner.get("scenario"), str):
        raise UserError(f"{file} has no configuration: start a new tuning")
    config = resolve(load_scenario(inner["scenario"]).config, load_system(str(inner.get("system"))).config, [inner])
    try:
        settings = _Settings.model_validate(values)
    except ValidationError as error:
        worst = error.errors()[0]
        place = ".".join(map(str, worst["loc"]))
        raise UserError(f"'{place}' in {file} is not valid: {worst['msg']}") from None
    try:
        with locked(path):
            return _run(path, config, settings, echo, on_generation)
    except OSError as error:
        raise UserError(f"folder {path} cannot be written: {error.strerror or error}") from None


def _plain(config: AnyRunConfig) -> dict[str, Any]:
    """The configuration as plain data."""
    plain: dict[str, Any] = parse_yaml(dump(config), "the configuration")
    return plain


def _find(scenario: Scenario, name: str) -> Tunable:
    if name not in scenario.tunables:
        known = list(scenario.tunables)
        what = nearest(name, known) if known else "; it has nothing that can be tuned"
        raise UserError(f"{scenario.name} has no tunable '{name}'{what}")
    return scenario.tunables[name]


def _run(path: Path, config: AnyRunConfig, settings: _Settings, echo: Echo, on_generation: OnGeneration) -> Tuned:
    torch.set_num_threads(1)
    scenario = load_scenario(config.scenario)
    tunable, search = _find(scenario, settings.tunable), settings.search
    parameters = tunable.parameters(config.world)
    worlds = tunable.worlds(config.world)
    for world in worlds:
        shown = ", ".join(f"{key} {value}" for key, value in scenario.instance(world).items())
        echo(f"tunes {settings.tunable} on: {shown}")
    begin = [parameter.place(parameter.start) for parameter in parameters]
    evolution = Cma(begin, search.step, search.population, seed=fold_int(config.seed, Stream.INIT) & (2**31 - 1))
    done = _known(path / GENERATIONS, search)
    judge = _Judge(scenario, tunable, parameters, worlds, config.seed, search)
    told = False  # that scores are equal
    try:
        with (path / GENERATIONS).open("a", encoding="utf-8") as log:
            for generation in range(search.generations):
                points = evolution.ask()
                if generation < len(done):
                    scores = np.array(done[generation])
                else:
                    scores = judge.scores(generation, points)
                    _refuse_none(generation, scores, path)
                    _append(log, {"generation": generation, "scores": scores.tolist()})
                equal = scores.min() == scores.max()
                if equal and not told:
                    echo(
                        f"generation {generation + 1}: all {len(scores)} candidates score {float(scores[0]):.4g}, so "
                        f"nothing is learned from it: a wider --step, more --instances or other worlds tell them apart"
                    )
                told = equal
                evolution.tell(points, scores)
                on_generation(generation + 1, search.generations, float(scores.mean()))
    finally:
        judge.close()
    values = _values(parameters, evolution.mean)
    results = _compare(scenario, tunable, config, values, search.judged)
    file = path / f"{settings.tunable}.yaml"
    replace_text(file, _result(scenario, tunable, config, settings, values, results))
    return Tuned(file, values, results)


def _refuse_none(generation: int, scores: NDArray[np.float64], path: Path) -> None:
    """Raise ``UserError`` for scores that are none; the generations before are kept."""
    try:
        check_scores(torch.from_numpy(scores), "candidate")
    except NotFiniteError as error:
        raise UserError(
            f"generation {generation + 1}: {error.what}; {error.mend}, then go on with 'marl tune --resume {path}'"
        ) from None


class _Judge:
    """Plays candidates; the worlds are built once."""

    def __init__(
        self,
        scenario: Scenario,
        tunable: Tunable,
        parameters: Sequence[Parameter],
        worlds: Sequence[Any],
        seed: int,
        search: SearchConfig,
    ):
        self._tunable, self._parameters = tunable, parameters
        self._reference = scenario.baselines[tunable.reference]
        self._seed, self._instances = fold_int(seed, Stream.TRAIN), search.instances
        self._envs: list[BatchedEnv] = []
        self._scenario, self._worlds = scenario, worlds

    def scores(self, generation: int, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean scores of the points ``[P, D]`` of a generation, ``[P]``."""
        if not self._envs:
            device = torch.device("cpu")
            self._envs = [self._scenario.make(world, self._instances, device) for world in self._worlds]
        first = generation * self._instances
        seeds = [fold_int(self._seed, first + i) & (2**63 - 1) for i in range(self._instances)]
        chosen = torch.tensor(seeds, dtype=torch.int64)
        found = np.zeros((len(points), len(self._envs)))
        for index, env in enumerate(self._envs):
            reference = run_policy(env, self._reference(env), chosen, 1).metrics
            for row, point in enumerate(points):
                policy = self._tunable.build(env, _values(self._parameters, point))
                found[row, index] = self._tunable.score(run_policy(env, policy, chosen, 1).metrics, reference).mean()
        return np.asarray(found.mean(1))

    def close(self) -> None:
        for env in self._envs:
            env.close()


def _values(parameters: Sequence[Parameter], point: NDArray[np.float64]) -> dict[str, float]:
    """The values at a point of the unit cube, as they are written to files."""
    found = {p.name: p.value(float(place)) for p, place in zip(parameters, point, strict=True)}
    return {name: float(f"{value:.{_DIGITS}g}") for name, value in found.items()}


def _known(file: Path, search: SearchConfig) -> list[list[float]]:
    """The scores of the generations that were played before; a last line that was being written is taken away."""
    if not file.exists():
        return []
    found: list[list[float]] = []
    kept = ""
    for line in read_text(file, _MAX_BYTES).splitlines(keepends=True):
        try:
            record = json.loads(line)
            scores = [float(score) for score in record["scores"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            break
        sound = line.endswith("\n") and record.get("generation") == len(found) and all(map(math.isfinite, scores))
        if not sound or len(scores) != search.population:
            break
        found.append(scores)
        kept += line
    replace_text(file, kept)
    return found


def _append(log: TextIO, record: dict[str, Any]) -> None:
    log.write(json.dumps(record) + "\n")
    log.flush()
    os.fsync(log.fileno())


def _compare(
    scenario: Scenario, tunable: Tunable, config: AnyRunConfig, values: Mapping[str, float], judged: int
) -> Results:
    """The reference, the start and the tuned values on instances that the search has not met."""
    start = {parameter.name: parameter.start for parameter in tunable.parameters(config.world)}
    policies: dict[str, Baseline] = {
        tunable.reference: scenario.baselines[tunable.reference],
        START: lambda env: tunable.build(env, start),
        TUNED: lambda env: tunable.build(env, values),
    }
    worlds = tunable.worlds(scenario.held_out(config.world))
    return evaluate(scenario, policies, [(scenario.instance(world), world) for world in worlds], range(judged))


def _result(
    scenario: Scenario,
    tunable: Tunable,
    config: AnyRunConfig,
    settings: _Settings,
    values: Mapping[str, float],
    results: Results,
) -> str:
    """The text of the file of values."""
    figures = [
        {
            **row.instances,
            "metric": row.metric,
            "mean": round(row.mean, _DIGITS),
            tunable.reference: round(other.mean, _DIGITS),
            "episodes": row.n,
        }
        for instances, rows, _ in results.by_instances()
        for row in rows
        for other in rows
        if row.policy == TUNED
        and (other.policy, other.metric) == (tunable.reference, row.metric)
        and row.metric in tunable.metrics
        and instances
    ]
    text = dump_yaml(
        {
            "schema_version": 1,
            "scenario": scenario.name,
            "tunable": settings.tunable,
            "values": dict(values),
            "about": {
                "preset": config.preset,
                "seed": config.seed,
                "search": settings.search.model_dump(),
                "world": json.loads(config.world.model_dump_json(exclude_defaults=True)),
                "unseen": figures,
            },
        }
    )
    return f"# Written by `marl tune {scenario.name} {settings.tunable}`; for the option {tunable.option}.\n{text}"
