"""The discrete face is the language world, spelt by choices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from marl.api import configure
from marl.testing.batched import check_batched
from marl.training.run import train
from marl.training.run_folder import METRICS
from marl.training.tracking import read_metrics
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.discrete import DiscreteHierarchy
from scenarios.agent_hierarchy.graph import graph_names
from scenarios.agent_hierarchy.hierarchy import Hierarchy


def make(copies: int = 3, **options: object) -> DiscreteHierarchy:
    return DiscreteHierarchy(Hierarchy(HierarchyConfig.model_validate(options)), copies, torch.device("cpu"))


def test_conforms() -> None:
    report = check_batched(lambda copies: make(copies, max_turns=6), steps=20, batches=(1, 2, 5))
    assert not report.findings, str(report)


@pytest.mark.parametrize("graph", graph_names())
def test_every_graph_plays(graph: str) -> None:
    env = make(graph=graph, tasks={"hops": [0, 1, 2], "arithmetic": 0.5}, max_turns=10)
    timestep = env.reset(0)
    draw = torch.Generator().manual_seed(0)
    finished = 0
    for _ in range(80):
        assert isinstance(timestep.action_mask, torch.Tensor)
        assert bool(((timestep.action_mask.sum(2) > 1).sum(1) <= 1).all())  # the others can only wait
        action = torch.multinomial(timestep.action_mask.flatten(0, 1).float(), 1, generator=draw).view(3, -1)
        timestep = env.step(action)
        finished += int(timestep.done.sum())
    assert finished > 0


def test_a_question_by_choices() -> None:
    env = make(1, tasks={"hops": [1], "stale": []})
    env.reset(0)
    inner = env._envs[0]
    relation, start = inner.task.steps[0].name, inner.task.start
    knower = 0 if int(relation[1:]) < 5 else 1
    choose = lambda number: env.step(torch.full((1, 3), number))  # noqa: E731
    choose(knower)  # ask north or south
    choose(0)  # for the first step of the question
    choose(0)  # of its start
    worker = inner.turn()
    assert worker is not None and worker.messages[1]["content"] == f"{start} {relation}"
    for number in (0, 0, 0):  # cache, the step, the value
        choose(number)
    choose(2)  # answer
    choose(1)  # with what was found
    choose(3)  # the planner answers
    timestep = choose(1)
    assert bool(timestep.done[0]) and float(timestep.metrics["success"][0]) == 1.0
    assert float(timestep.reward[0, 0]) == pytest.approx(0.97)
    assert timestep.reward.unique().numel() == 1


def test_mappo_trains_on_it(tmp_path: Path) -> None:
    overrides = ["total_steps=1500", "copies=8", "algorithm.rollout=16"]
    config = configure("agent_hierarchy", preset="discrete", overrides=overrides)
    rows = read_metrics(train(config, tmp_path / "run", live=False) / METRICS)
    assert "episode/success" in rows[-1]
