"""The chain of modules: a fourth one is a file and its name; what two modules may not share; an own safety rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shy_module
import torch
from tiny_scenario import TinyConfig, make_guarded, make_tiny, tiny_config

from marl import api
from marl.config import AnyRunConfig, CoordinationConfig
from marl.coordination import registry
from marl.coordination.module import Module, ModuleKind
from marl.coordination.pipeline import Pipeline
from marl.errors import UserError
from marl.plugins import trust
from marl.training import checkpoint
from marl.training.run import resume, train
from marl.training.run_folder import METRICS
from marl.training.tracking import read_metrics

BY_FILE = {"shy_module:SHY": {"pause": 2}}


@pytest.fixture(autouse=True)
def _named() -> None:
    trust("shy_module", "test_registry")


def shy(scenario: str = "tiny_scenario:TINY", **coordination: Any) -> AnyRunConfig:
    every = {"guidance": {"enabled": False}, "modules": BY_FILE, **coordination}
    return tiny_config(scenario=scenario, coordination=every, checkpoint={"every_iterations": 1, "keep": 100})


def test_a_fourth_module_trains_resumes_exactly_and_is_judged(tmp_path: Path) -> None:
    whole = train(shy(), tmp_path / "whole", live=False)
    rows = read_metrics(whole / METRICS)
    assert [row["learn/shyness"] for row in rows] == [float(number) for number in range(len(rows))]
    assert rows[-1]["episode/rests"] > 0
    part = train(shy(), tmp_path / "part", live=False)
    store = checkpoint.CheckpointStore(part)
    for later in store.steps()[2:]:
        for file in store.path(later).iterdir():
            file.unlink()
        store.path(later).rmdir()
    resume(part, live=False)
    assert equal(final_state(whole), final_state(part))
    results = api.evaluate("tiny_scenario:TINY", [str(whole)], seeds=range(4), overrides=["world.horizon=16"])
    assert next(row.mean for row in results.rows if row.metric == "rests") > 0


def final_state(path: Path) -> dict[str, Any]:
    store = checkpoint.CheckpointStore(path)
    return checkpoint.load(store.path(store.steps()[-1]))[0]


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a if key != "cpu_seconds")
    return bool(a == b)


def test_one_registration_gives_it_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_tiny(TinyConfig(), 2, torch.device("cpu"))
    by_name = CoordinationConfig.model_validate({"guidance": {"enabled": False}, "modules": {"shy": {"pause": 2}}})
    with pytest.raises(UserError, match="names 'shy', which does not exist"):
        Pipeline(env, by_name)
    monkeypatch.setattr(registry, "FURTHER", (shy_module.SHY,))
    pipeline = Pipeline(env, by_name)
    assert [type(module).__name__ for module in pipeline.modules] == ["Shy"]
    assert set(pipeline.metrics) == {"rests"}
    assert all("shy" in space.spaces for space in pipeline.observation_space.values())  # type: ignore[attr-defined]
    pipeline.schedule(0.5)
    assert pipeline.modules[0].fractions == [0.5]  # type: ignore[attr-defined]


def test_safety_has_the_last_word() -> None:
    """The world allows nobody to go left in even steps, and whoever is tired has to rest before that is asked."""
    env = make_guarded(TinyConfig(), 1, torch.device("cpu"))
    config = shy(safety={"enabled": True}).coordination
    pipeline = Pipeline(env, config)
    assert [type(module).__name__ for module in pipeline.modules] == ["Shy", "Safety"]
    asked = []
    resolve = env.resolve
    env.resolve = lambda proposed, scores: (asked.append(proposed.clone()), resolve(proposed, scores))[1]  # type: ignore[method-assign]
    seen = pipeline.view(env.reset(0))
    pipeline.modules[0].moved[:] = 2  # type: ignore[attr-defined]
    executed = torch.ones(1, 2, dtype=torch.int64)
    for module in pipeline.modules:
        executed = module.execute(seen, executed, None)  # type: ignore[assignment]
    assert asked[0].tolist() == [[0, 0]]


def test_two_modules_may_not_keep_something_under_one_name() -> None:
    class Twin(Module):
        def state(self) -> dict[str, torch.Tensor]:
            return {"shy_moved": torch.zeros(1)}

    env = make_tiny(TinyConfig(), 1, torch.device("cpu"))
    pipeline = Pipeline(env, shy().coordination)
    pipeline.modules.append(Twin())
    with pytest.raises(ValueError, match="'shy_moved'"):
        pipeline.state()


@pytest.mark.parametrize(
    ("modules", "word"),
    [
        ({"shy_module:SHY": {"pause": 0}}, "'pause' is 0 in coordination.modules.shy_module:SHY: it should be greater"),
        ({"shy_module:SHY": {"paus": 2}}, "unknown key 'paus' in coordination.modules.shy_module:SHY; did you mean"),
        ({"shy_module:Shy": {}}, "'Shy' in module 'shy_module' is not a ModuleKind"),
        ({"shy": {}}, "which does not exist; name one of your own as module:object"),
        ({"shy_module:SHY": 3}, "coordination.modules"),
    ],
)
def test_mistakes_are_sentences(modules: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        api.configure("tiny_scenario:TINY", overrides=[f"coordination.modules={json.dumps(modules)}"])


def test_worlds_that_coordinate_by_themselves_refuse_them() -> None:
    config = api.configure("agent_hierarchy", overrides=['coordination.modules={"shy_module:SHY": {}}'])
    with pytest.raises(UserError, match=r"coordination\.modules are for worlds of tensors"):
        api.plan(config)
    with pytest.raises(UserError, match=r"coordination\.safety\.rule"):
        api.configure("agent_hierarchy", overrides=["coordination.safety.rule=test_registry:Still"])


class Still:
    """An own rule, for a world that has no supervisor: nobody goes right."""

    def __init__(self, env: Any):
        self.env = env

    def resolve(self, proposed: torch.Tensor, scores: torch.Tensor | None) -> torch.Tensor:
        return torch.where(proposed == 2, 0, proposed)


NOTHING = object()


def nobody(env: Any) -> str:
    return "nothing that judges"


def test_an_own_safety_rule_judges_in_the_place_of_the_world(tmp_path: Path) -> None:
    ruled = {"enabled": True, "rule": "test_registry:Still", "penalty": 0.5}
    for make in (make_tiny, make_guarded):  # one without a supervisor, one whose own is then not asked
        env = make(TinyConfig(), 1, torch.device("cpu"))
        safety = Pipeline(env, shy(modules={}, safety=ruled).coordination).modules[0]
        executed = safety.execute(env.reset(0), torch.tensor([[2, 1]]), None)
        assert executed.tolist() == [[0, 1]]  # type: ignore[union-attr]
    run = train(shy(modules={}, safety=ruled), tmp_path / "run", live=False)
    assert read_metrics(run / METRICS)[-1]["episode/interventions_per_step"] > 0
    for rule, word in (
        ("test_registry:NOTHING", "is not a function"),
        ("test_registry:nobody", "makes a str, which has neither resolve"),
    ):
        with pytest.raises(UserError, match=word):
            Pipeline(env, shy(modules={}, safety={"enabled": True, "rule": rule}).coordination)


def test_the_kinds_that_come_with_the_platform() -> None:
    for kind in (registry.GUIDANCE, registry.INTENT, registry.SAFETY):
        assert isinstance(kind, ModuleKind) and isinstance(getattr(CoordinationConfig(), kind.name), kind.config)
