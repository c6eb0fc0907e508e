"""Worlds of one process do not influence each other: for every scenario, and so does an evaluation during training."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from marl import api
from marl.scenario import scenario_names
from marl.testing import check_independence
from marl.training.checkpoint import CheckpointStore
from scenarios.vmas_tasks.config import VmasConfig
from scenarios.vmas_tasks.scenario import SCENARIO as VMAS

needs_vmas = pytest.mark.skipif(importlib.util.find_spec("vmas") is None, reason="the extra 'vmas' is not installed")

#: Worlds of every scenario: what ``marl.api.make`` takes.
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "grids": ("lifelong_mapf", {"preset": "default", "agents": 8, "map_pool": 4, "horizon": 25}),
    "grids, one map": ("lifelong_mapf", {"map": "warehouse", "agents": 8, "horizon": 25}),
    "roads": ("cav_merging", {"preset": "hard"}),
    "roads in SUMO": ("cav_merging", {"preset": "medium", "backend": "sumo"}),
    "language": ("agent_hierarchy", {"preset": "quick"}),
    "language, discrete": ("agent_hierarchy", {"preset": "discrete"}),
    "traffic lights": ("traffic_signals", {}),
    "coverage": ("miniatures", {}),
    "words by numbers": ("miniatures", {"preset": "spelt"}),
    "somebody's": ("pettingzoo", {"env_arg": {"max_cycles": 6}, "workers": "none"}),
    "vmas": ("vmas_tasks", {"options": {"n_agents": 3}, "horizon": 12}),
}


def marked(name: str, scenario: str) -> Any:
    return pytest.param(name, marks=[needs_vmas] if scenario == "vmas_tasks" else [])


@needs_vmas
def test_so_does_a_task_of_vmas_that_draws_in_every_step() -> None:
    config = VmasConfig(task="football", horizon=12)
    report = check_independence(lambda copies: VMAS.make(config, copies, torch.device("cpu")), copies=2, steps=30)
    assert not report.findings, str(report)


def test_every_scenario_is_here() -> None:
    assert {scenario for scenario, _ in WORLDS.values()} == set(scenario_names())


@pytest.mark.parametrize("name", [marked(name, scenario) for name, (scenario, _) in WORLDS.items()])
def test_worlds_of_one_process_leave_each_other_alone(name: str) -> None:
    scenario, options = WORLDS[name]
    report = check_independence(lambda copies: api.make(scenario, copies=copies, **options), copies=2, steps=30)
    assert not report.findings, str(report)


#: Worlds that are trained in for a moment.
RUNS = {
    "lifelong_mapf": {"generator": {"kind": "random", "size": 10}, "map_pool": 2, "agents": 6, "horizon": 12},
    "cav_merging": {"cavs": [1, 3], "humans": [0, 1], "horizon": 12},
    "vmas_tasks": {"task": "football", "horizon": 6},
}


def tensors_of(tree: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        yield path, tree
    elif isinstance(tree, dict | list):
        for key, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from tensors_of(branch, f"{path}/{key}")


@pytest.mark.parametrize("scenario", [marked(name, name) for name in RUNS])
def test_evaluation_during_training_changes_nothing(scenario: str, tmp_path: Path) -> None:
    algorithm = {"rollout": 8, "minibatches": 1}
    base = {"world": RUNS[scenario], "copies": 4, "total_steps": 600, "algorithm": algorithm}
    base |= {"coordination": {"guidance": {"enabled": False}}, "checkpoint": {"every_iterations": 100}}
    ends = []
    for every in (0, 1):
        file = tmp_path / f"{every}.yaml"
        file.write_text(yaml.safe_dump(base | {"evaluation": {"every_iterations": every, "seeds": 2}}))
        folder = api.train(scenario, config=file, out=tmp_path / str(every))
        tree, _, _ = CheckpointStore(folder).latest(lambda _: None)
        ends.append(dict(tensors_of(tree["algorithm"], "")))
    assert ends[0] and set(ends[0]) == set(ends[1])
    different = [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])]
    assert not different
