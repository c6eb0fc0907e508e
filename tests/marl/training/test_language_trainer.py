"""Training language hierarchies: exact resume, figures, refusals, and that it learns."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from marl.api import configure, plan
from marl.config import AnyRunConfig
from marl.errors import UserError
from marl.policies.language.scripted import ScriptedPolicy
from marl.rollout.language.turns import TurnPlayer
from marl.scenario import load_scenario
from marl.systems.language.gradient import Reinforcement
from marl.systems.language.imitation import demonstrated
from marl.systems.language.reference import Reference
from marl.systems.registry import SYSTEMS
from marl.training import checkpoint
from marl.training.run import resume, train
from marl.training.run_folder import METRICS
from marl.training.tracking import read_metrics

LANGUAGE_SYSTEMS = [name for name, system in SYSTEMS.items() if system.kind == "language"]


def small(system: str = "m_grpo", **overrides: Any) -> AnyRunConfig:
    """A run of a few seconds: one-hop questions about few things, and a narrow model."""
    values = {
        "copies": 16,
        "total_steps": 500,
        "world.tasks.hops": [1],
        "world.tasks.entities": 4,
        "algorithm.group": 4,
        "algorithm.warm_start.steps": 25,
        "algorithm.warm_start.batch": 8,
        "algorithm.policy.transformer": "{width: 16, heads: 2, kv_heads: 1, hidden: 32}",
        "checkpoint.every_iterations": 1,
        "checkpoint.keep": 100,
        "evaluation.every_iterations": 0,
        **overrides,
    }
    return configure("agent_hierarchy", system=system, overrides=[f"{k}={v}" for k, v in values.items()])


def final_state(path: Path) -> dict[str, Any]:
    store = checkpoint.CheckpointStore(path)
    tree, _ = checkpoint.load(store.path(store.steps()[-1]))
    tree["counters"].pop("cpu_seconds")
    return tree


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return bool(a == b)


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = train(small(), tmp_path / "whole", live=False)
    steps = checkpoint.CheckpointStore(whole).steps()
    for stop in (1, steps[-2]):  # in the middle of imitation, and of reinforcement
        part = tmp_path / f"part-{stop}"
        train(small(), part, live=False)
        for later in [step for step in steps if step > stop]:
            for file in checkpoint.CheckpointStore(part).path(later).iterdir():
                file.unlink()
            checkpoint.CheckpointStore(part).path(later).rmdir()
        resume(part, live=False)
        assert equal(final_state(whole), final_state(part))
        timeless = [{k: v for k, v in row.items() if k != "cpu_seconds"} for row in read_metrics(part / METRICS)]
        assert timeless == [
            {k: v for k, v in row.items() if k != "cpu_seconds"} for row in read_metrics(whole / METRICS)
        ]


def test_weights_of_another_run_replace_imitation(tmp_path: Path) -> None:
    first = train(small(), tmp_path / "first", live=False)
    second = train(small(seed=3, total_steps=1), tmp_path / "second", live=False, init=first)
    store = checkpoint.CheckpointStore(second)
    begun, _ = checkpoint.load(store.path(0))
    assert equal(begun["algorithm"]["policy"], final_state(first)["algorithm"]["policy"])
    assert "learn/imitation_loss_level_0" not in read_metrics(second / METRICS)[0]
    wider = small(**{"algorithm.policy.transformer": "{width: 32, heads: 2, kv_heads: 1, hidden: 32}"})
    with pytest.raises(UserError, match="do not fit this run"):
        train(wider, tmp_path / "third", live=False, init=first)


def weights(path: Path, iteration: int) -> dict[str, Any]:
    return checkpoint.load(checkpoint.CheckpointStore(path).path(iteration))[0]["algorithm"]["policy"]


def test_frozen_sub_agents_are_shown_how_to_speak_and_then_stay(tmp_path: Path) -> None:
    run = train(small(**{"algorithm.frozen": "[north, south]"}), tmp_path / "run", live=False)
    last = checkpoint.CheckpointStore(run).steps()[-1]
    begun, shown, ended = (weights(run, iteration) for iteration in (0, 2, last))  # 25 steps, 20 an iteration
    assert not equal(begun["level_1"], shown["level_1"])
    assert equal(shown["level_1"], ended["level_1"]) and not equal(shown["level_0"], ended["level_0"])


def test_replay_fades_in_the_first_half_and_shares_its_weight_among_tokens() -> None:
    config = small(**{"algorithm.warm_start.replay": 0.2})
    warm = config.algorithm.warm_start
    assert [warm.replayed(f) for f in (0.0, 0.25, 0.5, 0.9)] == pytest.approx([0.2, 0.1, 0.0, 0.0])
    world = load_scenario("agent_hierarchy").language(config.world)  # type: ignore[misc]
    learner = SYSTEMS["m_grpo"].build(world, config.algorithm, 0, "cpu")
    teacher = ScriptedPolicy(world.expert, learner.speakers.tokenizer)
    shown = TurnPlayer(world.make, dict.fromkeys(world.roles, teacher)).play([-1, -2], 5)
    for unit in learner.speakers.units:
        rows = demonstrated(shown, unit, 3.0)
        assert sum(row.weight.sum() for row in rows) == pytest.approx(3.0)
        assert all((row.weight[row.learned] > 0).all() and (row.weight[~row.learned] == 0).all() for row in rows)
        assert demonstrated(shown, unit, 0.0) == []
    # What was shown was sampled by nobody: it has no ratio, also beside rows that were sampled by other weights.
    unit = learner.speakers.units[1]
    rows = demonstrated(shown, unit, 3.0)
    gradients = []
    for fresh in (True, False):
        reinforcement = Reinforcement([unit], config.algorithm, Reference([unit], config.algorithm))
        figures = reinforcement.learn(unit, [], 1.0, 1e-12, fresh, rows)
        gradients.append([parameter.grad.clone() for parameter in unit.model.parameters_of("")])
        assert figures.keys() == {f"grad_norm_{unit.name}"} and figures[f"grad_norm_{unit.name}"] > 0.0
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))
    # Every question is alone in its group, so that nothing is learned but what was shown, and that by sub-agents alone.
    before = copy.deepcopy(learner.state()["policy"])
    learner.update(shown, 0, 0.0, shown=shown)
    after = learner.state()["policy"]
    assert equal(before["level_0"], after["level_0"]) and not equal(before["level_1"], after["level_1"])


@pytest.mark.parametrize("system", LANGUAGE_SYSTEMS)
def test_every_system_trains(system: str, tmp_path: Path) -> None:
    overrides = {"algorithm.warm_start.steps": 2, "total_steps": 300, "evaluation.every_iterations": 3}
    config = small(system, **overrides, **{"evaluation.seeds": 8})
    rows = read_metrics(train(config, tmp_path / "run", live=False) / METRICS)
    assert rows[-1]["agent_steps"] >= 300
    for name in ("evaluation/success_greedy", "evaluation/success_sampled", "episode/calls"):
        assert name in rows[-1]
    for row in rows:  # with one epoch, too
        stepped = [name for name in row if name.startswith("learn/grad_norm_")]
        assert all(0.0 < row[name.replace("grad_norm", "log_ratio_max")] < 1e-4 for name in stepped)


def test_json_grammar_and_bytes(tmp_path: Path) -> None:
    overrides = {"world.grammar": "json", "world.context": 600, "algorithm.policy.max_tokens": 24}
    rows = read_metrics(train(small(**overrides), tmp_path / "run", live=False) / METRICS)
    assert rows[-1]["episode/tokens"] > 0


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ({"copies": 15}, "multiple of algorithm.group"),
        ({"algorithm.frozen": "[nobody]"}, "role 'nobody'"),
        ({"algorithm.frozen": "[planner, north, south]"}, "no role learns"),
        ({"world.graph": "nowhere"}, "role graph 'nowhere'"),
    ],
)
def test_mistakes_are_named(override: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=word):
        plan(small(**override))
    with pytest.raises(UserError, match=word):
        train(small(**override), tmp_path / "run", live=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.learning
@pytest.mark.timeout(1800)
def test_learns_what_imitation_cannot(tmp_path: Path) -> None:
    config = configure("agent_hierarchy", preset="quick")
    rows = read_metrics(train(config, tmp_path / "run", live=False) / METRICS)
    first, *_, last = [row for row in rows if "evaluation/success_greedy" in row]
    assert first["evaluation/success_greedy"] < 0.5
    assert last["evaluation/success_greedy"] >= 0.95 and last["evaluation/success_sampled"] >= 0.9
    assert last["evaluation/calls_greedy"] <= 1.1 * last["evaluation/optimal_calls_greedy"]
