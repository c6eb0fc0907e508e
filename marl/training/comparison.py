"""Runs side by side: what tells them apart, their figures over seeds, and paired differences."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from marl.errors import UserError, nearest
from marl.evaluation.statistics import over_seeds
from marl.evaluation.tables import Cell, Table, number
from marl.training.run_folder import read_config
from marl.training.tracking import read_metrics

#: What every episode's figures begin with in a run's log.
_EPISODE = "episode/"
#: More differing keys than these do not make a name.
_MOST_KEYS = 3


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed. name: what tells them from the others; runs: seed -> folder."""

    name: str
    runs: Mapping[int, Path]


def groups_of(folders: Sequence[Path]) -> list[Group]:
    """The runs by what they were asked for, in the order of the folders.

    Raises ``UserError`` for a folder that is no run, runs of several scenarios, and a seed that comes twice.
    """
    configs = {folder: read_config(folder) for folder in dict.fromkeys(folders)}
    scenarios = {config.scenario: folder for folder, config in configs.items()}
    if len(scenarios) > 1:
        raise UserError(f"runs of one scenario can be compared; these are of {', '.join(sorted(scenarios))}")
    together: dict[str, dict[int, Path]] = {}
    flat: dict[str, dict[str, Any]] = {}
    for folder, config in configs.items():
        plain = config.model_dump(mode="json")
        seed = plain.pop("seed")
        mark = json.dumps(plain, sort_keys=True)
        flat[mark] = dict(_leaves(plain))
        runs = together.setdefault(mark, {})
        if seed in runs:
            raise UserError(f"{folder} and {runs[seed]} are the same run with the same seed {seed}: name one of them")
        runs[seed] = folder
    names = _names(flat, {mark: next(iter(runs.values())).name for mark, runs in together.items()})
    return [Group(names[mark], dict(sorted(runs.items()))) for mark, runs in together.items()]


def compare_runs(groups: Sequence[Group], metric: str | None = None, last: float = 0.1) -> Table:
    """A line for each group: its figure at the end of training over seeds, and its difference to the first group's.

    The intervals are Student's t over seeds; differences are paired by seed.

    Args:
        groups: of ``groups_of``.
        metric: of the episodes of training; None: the first that the runs have noted.
        last: the share of training whose mean is a run's figure.

    Raises ``UserError`` if a run has no such figure.
    """
    logs = {path: read_metrics(path / "metrics.csv") for group in groups for path in group.runs.values()}
    name = metric or first_metric(logs)
    ends = [{seed: _end(path, logs[path], name, last) for seed, path in group.runs.items()} for group in groups]
    body = []
    for group, figures in zip(groups, ends, strict=True):
        rows = [logs[path][-1] for path in group.runs.values()]
        shared = [seed for seed in figures if seed in ends[0]]
        against = over_seeds([figures[seed] - ends[0][seed] for seed in shared])
        cells = [group.name, f"{len(figures)}", _interval(*over_seeds(list(figures.values())))]
        if len(groups) > 1:
            cells.append("" if figures is ends[0] else _interval(*against, sign=True))
        steps, seconds = (np.mean([row[column] for row in rows]) for column in ("agent_steps", "cpu_seconds"))
        body.append(tuple(map(Cell, (*cells, f"{steps:,.0f}", f"{seconds:,.0f}"))))
    header = ("runs", "seeds", name, *(("against the first",) if len(groups) > 1 else ()), "agent-steps", "CPU-seconds")
    share = f"the last {100 * last:.0f} % of training"
    return Table(f"{share}; ±: 95 % interval over seeds (Student's t), differences paired by seed", header, tuple(body))


def first_metric(logs: Mapping[Path, Sequence[Mapping[str, float]]]) -> str:
    """The first figure of episodes that a log holds. Raises ``UserError`` if there is none.

    Args:
        logs: folder -> the rows of its log.
    """
    for rows in logs.values():
        for row in rows:
            for column in row:
                if column.startswith(_EPISODE):
                    return column.removeprefix(_EPISODE)
    raise UserError(
        f"{', '.join(map(str, logs))}: no episode has ended in training yet, so there is nothing to compare"
    )


def _end(folder: Path, rows: Sequence[Mapping[str, float]], metric: str, last: float) -> float:
    column = _EPISODE + metric
    noted = [row for row in rows if column in row]
    if not noted:
        known = {name.removeprefix(_EPISODE) for row in rows for name in row if name.startswith(_EPISODE)}
        raise UserError(f"{folder} has noted no '{metric}' of an episode{nearest(metric, sorted(known))}")
    after = (1.0 - last) * rows[-1]["agent_steps"]
    return float(np.mean([row[column] for row in noted if row["agent_steps"] > after] or [noted[-1][column]]))


def _interval(mean: float, half: float, sign: bool = False) -> str:
    known = math.isfinite(half)
    text = ("+" if sign and mean > 0 else "") + number(mean, half if known else 0.0)
    return f"{text} ± {number(half, half)}" if known else text


def _leaves(tree: Mapping[str, Any], head: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        found += _leaves(value, f"{head}{key}.") if isinstance(value, dict) else [(head + key, value)]
    return found


def _names(flat: Mapping[str, Mapping[str, Any]], folders: Mapping[str, str]) -> dict[str, str]:
    """Mark of a group -> a name: the values of the keys that differ, or the first folder's if these are many."""
    keys = list(dict.fromkeys(key for one in flat.values() for key in one))
    differing = [key for key in keys if len({json.dumps(one.get(key)) for one in flat.values()}) > 1]
    if not 0 < len(differing) <= _MOST_KEYS:
        taken = list(folders.values())
        return {
            mark: name if taken.count(name) == 1 else f"{name} ({i})" for i, (mark, name) in enumerate(folders.items())
        }
    return {mark: ", ".join(f"{key} {_short(one.get(key))}" for key in differing) for mark, one in flat.items()}


def _short(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
