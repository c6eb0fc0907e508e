"""A system owns its policy: with a network of its own, in one file, it trains, is judged, resumes and loads."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_scenario import TINY, TinyConfig, make_tiny
from torch import nn

from marl import api
from marl.config import AnyRunConfig, resolve
from marl.coordination.pipeline import Pipeline
from marl.errors import UserError
from marl.plugins import trust
from marl.policies.joint import JointPolicy
from marl.systems.es import EsConfig
from marl.systems.mappo import MAPPO, Mappo
from marl.systems.registry import load_system
from marl.systems.system import System, joint_policy
from marl.training.checkpoint import CheckpointStore
from marl.training.run import resume, train

PAGE = Path(__file__).parents[3] / "docs" / "your_own.md"


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the page's own network."""
    (code,) = re.findall(r"# file: gated.py\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    module = ModuleType("gated_of_the_page")
    exec(compile(code, "gated.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    trust(module.__name__)
    return module


def configured(system: str, options: type, **algorithm: Any) -> AnyRunConfig:
    base = {
        "scenario": "tiny_scenario:TINY",
        "system": system,
        "total_steps": 2 * 16 * 8 * 4,
        "copies": 8,
        "coordination": {"guidance": {"enabled": False}},
        "algorithm": {"rollout": 16, **algorithm},
        "checkpoint": {"every_iterations": 2},
        "evaluation": {"every_iterations": 2, "seeds": 2},
    }
    return resolve(TinyConfig, options, [base])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    tree, _, _ = CheckpointStore(folder).latest(lambda _: None)
    return tree["algorithm"]["policy"]


def test_an_own_network_trains_is_judged_resumes_and_loads(tmp_path: Path, gated: ModuleType) -> None:
    config = configured("gated_of_the_page:SYSTEM", gated.GatedConfig, width=6)
    whole = train(config, tmp_path / "whole", live=False)
    assert "actors.walker.gate.weight" in weights(whole)

    half = config.model_copy(update={"total_steps": config.total_steps // 2})
    broken = train(half, tmp_path / "broken", live=False)
    text = (broken / "config.yaml").read_text("utf-8")
    (broken / "config.yaml").write_text(text.replace(f"total_steps: {half.total_steps}", "total_steps: 1024"), "utf-8")
    resume(broken, live=False)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(broken)[name]), name

    policy = api.load(str(whole))
    env = make_tiny(config.world, 3, torch.device("cpu"))
    drawn = policy.bind(env)._policy
    assert isinstance(drawn.actors["walker"], gated.Gated) and drawn.actors["walker"].scores.in_features == 6
    assert int(policy.act(env.reset(0).observation[0, 0].numpy())) in (0, 1, 2)
    results = api.evaluate("tiny_scenario:TINY", [str(whole)], seeds=range(2))
    assert len(results.rows) > 0


def algorithm_of(system: System, options: AnyRunConfig) -> Any:
    env = make_tiny(options.world, 2, torch.device("cpu"))
    space = Pipeline(env, options.coordination).observation_space
    return system.algorithm(env.spec, space, options.algorithm, 0, torch.device("cpu"))


def test_a_policy_that_no_loader_would_make_is_refused_before_training() -> None:
    class Stubborn(Mappo):
        def __init__(self, spec: Any, space: Any, config: Any, seed: int, device: Any, policy: Any):
            super().__init__(spec, space, config, seed, device, policy)
            self.policy = JointPolicy(spec, space, config.actor, "none", generator=torch.Generator())

    options = configured("mappo", MAPPO.config)
    algorithm_of(replace(MAPPO, name="obedient"), options)
    with pytest.raises(UserError, match=r"'stubborn' learns a policy that its System\.policy did not make"):
        algorithm_of(replace(MAPPO, name="stubborn", build=Stubborn), options)


def test_a_build_without_a_place_for_the_policy_is_named() -> None:
    def build(spec: Any, space: Any, config: Any, seed: int, device: Any) -> None: ...

    with pytest.raises(UserError, match="system 'old': its 'build' is called with"):
        algorithm_of(replace(MAPPO, name="old", build=build), configured("mappo", MAPPO.config))


def test_options_without_a_network_get_the_usual_one() -> None:
    class Bare:
        pass

    env = TINY.make(TinyConfig(), 1, torch.device("cpu"))
    policy = joint_policy(env.spec, env.spec.observation_space, Bare(), torch.Generator())
    assert isinstance(policy, nn.Module) and len(policy.units) == 1


def test_a_population_takes_actors_only(gated: ModuleType) -> None:
    with pytest.raises(UserError, match="derive the own one from it"):
        system = replace(load_system("es"), policy=gated.policy)
        options = configured("mappo", gated.GatedConfig)
        narrow = SimpleNamespace(**EsConfig().model_dump(), width=4)
        algorithm_of(system, options.model_copy(update={"algorithm": narrow}))
