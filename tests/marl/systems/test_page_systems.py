"""The algorithms of ``docs/two_algorithms.md``: what they claim to compute, and that they resume exactly."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from interrupted import dying_after
from tiny_scenario import TINY, TinyConfig

from marl.config import AnyRunConfig, resolve
from marl.coordination.pipeline import Pipeline
from marl.plugins import trust
from marl.rollout.collector import Collector
from marl.systems.mappo import MAPPO
from marl.training.checkpoint import CheckpointStore
from marl.training.run import resume, train

PAGE = Path(__file__).parents[3] / "docs" / "two_algorithms.md"
CODE = dict(re.findall(r"# file: (\w+)\.py\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))


@pytest.fixture(params=["happo", "qmix"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded(request.param, monkeypatch)


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = ModuleType(f"{name}_of_the_page")
    exec(compile(CODE[name], f"{name}.py", "exec"), found.__dict__)
    monkeypatch.setitem(sys.modules, found.__name__, found)
    trust(found.__name__)
    return found


def configured(module: ModuleType, world: dict[str, Any], **algorithm: Any) -> AnyRunConfig:
    base = {
        "scenario": "tiny_scenario:TINY",
        "system": f"{module.__name__}:SYSTEM",
        "total_steps": 2 * 16 * 4 * 4,
        "copies": 4,
        "world": world,
        "coordination": {"guidance": {"enabled": False}},
        "algorithm": {"rollout": 16, "actor": {"hidden": [16]}, **algorithm},
        "checkpoint": {"every_iterations": 2},
    }
    return resolve(TinyConfig, module.SYSTEM.config, [base])


def played(system: Any, config: AnyRunConfig, seed: int = 0) -> tuple[Any, Any]:
    """A learner and a batch of it."""
    env = TINY.make(config.world, config.copies, torch.device("cpu"))
    pipeline = Pipeline(env, config.coordination)
    learner = system.algorithm(env.spec, pipeline.observation_space, config.algorithm, seed, env.device)
    collector = Collector(pipeline, learner.policy, learner.critic)
    collector.reset(3)
    return learner, collector.collect(16)[0]


def test_they_are_short_and_use_nothing_private() -> None:
    assert len(CODE["happo"].splitlines()) <= 60 and len(CODE["qmix"].splitlines()) <= 150
    for code in CODE.values():
        assert not re.findall(r"\w\._[a-z]|import _", code)


@pytest.mark.parametrize("world", [{}, {"masks": True, "terminates": True, "state": "shared"}, {"state": "none"}])
def test_they_resume_exactly(tmp_path: Path, module: ModuleType, world: dict[str, Any]) -> None:
    """Stopped after 3 of 4 iterations, one of them not in any checkpoint: all that is learned and kept is the same."""
    config = configured(module, world)
    whole, broken = train(config, tmp_path / "whole", live=False), tmp_path / "broken"
    with dying_after(3):
        train(config, broken, live=False)
    resume(broken, live=False)
    one, other = (CheckpointStore(folder).latest(lambda _: None)[0]["algorithm"] for folder in (whole, broken))
    assert one.keys() == other.keys()
    for part in set(one) - {"adam", "actor_adam", "critic_adam"}:
        assert one[part].keys() == other[part].keys()
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), f"{part} {name}"


def test_happo_with_one_agent_is_mappo(monkeypatch: pytest.MonkeyPatch) -> None:
    happo = loaded("happo", monkeypatch)
    config = configured(happo, {"agents": 1})
    one, batch = played(happo.SYSTEM, config)
    other, _ = played(MAPPO, config)
    one.update(batch, 0, 0.0)
    other.update(batch, 0, 0.0)
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(one.critic.parameters(), other.critic.parameters(), strict=True):
        assert torch.equal(a, b)


def test_happo_tells_later_agents_what_earlier_ones_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    happo = loaded("happo", monkeypatch)
    learner, batch = played(happo.SYSTEM, configured(happo, {"agents": 3}, actor_rate=0.02))
    seen: list[tuple[str, torch.Tensor]] = []
    learn = learner.learn

    def watched(rows: Any, number: int, units: Any, critic: bool) -> Any:
        seen.append((units[0].name, rows.advantage.clone()))
        before = [p.clone() for unit in learner.policy.units for p in learner.policy.actor(unit).parameters()]
        steps = learn(rows, number, units, critic=critic)
        after = [p for unit in learner.policy.units for p in learner.policy.actor(unit).parameters()]
        own = [id(p) for p in learner.policy.actor(units[0]).parameters()]
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old, new) == (id(new) not in own)
        return steps

    monkeypatch.setattr(learner, "learn", watched)
    learner.update(batch, 0, 0.0)
    assert sorted(name for name, _ in seen) == ["agent_0", "agent_1", "agent_2"]
    rows, _ = learner.prepare(batch)
    log_ratio = {unit.name: ratio for unit, _, ratio in learner.log_ratios(rows)}
    expected = seen[0][1]
    for (earlier, _), (_, advantage) in pairwise(seen):
        expected = expected * log_ratio[earlier].detach().exp()
        torch.testing.assert_close(advantage, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(seen[0][1], seen[2][1])


def test_qmix_rises_with_every_agents_value(monkeypatch: pytest.MonkeyPatch) -> None:
    qmix = loaded("qmix", monkeypatch)
    draw = torch.Generator().manual_seed(0)
    mixer = qmix.Mixer(3, 5, 8, draw)
    values = torch.randn(64, 3, generator=draw, requires_grad=True)
    mixer(values, torch.randn(64, 5, generator=draw)).sum().backward()
    assert values.grad is not None and bool((values.grad >= 0).all()) and bool((values.grad > 0).any())


def test_qmix_remembers_what_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Successors are those of the same episode; ends by the task bootstrap nothing; time limits are left out."""
    qmix = loaded("qmix", monkeypatch)
    learner, batch = played(qmix.SYSTEM, configured(qmix, {"terminates": True, "horizon": 6, "length": 3}))
    learner.remember(batch)
    memory = learner.memory
    rows = 0
    for t in range(15):
        for b in range(4):
            if bool((batch.cut & ~batch.terminated)[t, b].any()):
                continue
            assert torch.equal(memory["seen"][rows], batch.observation[t, b])
            assert torch.equal(memory["next_seen"][rows], batch.observation[t + 1, b])
            assert bool(memory["ended"][rows]) == bool(batch.terminated[t, b].all())
            rows += 1
    assert rows == len(memory["reward"]) and bool(memory["ended"].any()) and rows < 60
    learner.config = learner.config.model_copy(update={"capacity": 10})
    learner.remember(batch)
    assert len(learner.memory["reward"]) == 10


def test_qmix_explores_legally_and_is_greedy_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    qmix = loaded("qmix", monkeypatch)
    values = torch.tensor([[1.0, 3.0, 2.0]])
    mask = torch.tensor([[True, False, True]])
    head = qmix.EpsilonGreedy(values, torch.tensor(0.2), mask)
    torch.testing.assert_close(head.log_probs.exp(), torch.tensor([[0.1, 0.0, 0.9]]), atol=1e-6, rtol=1e-5)
    assert int(head.mode()) == 2
