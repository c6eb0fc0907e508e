"""SubPO: what weighs a step, against sums in plain Python."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from marl import api
from marl.errors import UserError
from marl.rollout.batch import Batch
from marl.systems.registry import load_system
from scenarios.miniatures.scenario import SCENARIO

NAME = "scenarios.miniatures.scenario:SCENARIO"


def learner(*overrides: str) -> Any:
    assert SCENARIO.default_preset == "coverage"  # loaded, so that it may be named
    config = api.configure(NAME, system="subpo", overrides=["world.coverage.horizon=5", *overrides])
    env = api.make(NAME, copies=2, coverage={"horizon": 5})
    system = load_system("subpo")
    return system.algorithm(env.spec, env.spec.observation_space, config.algorithm, 0, torch.device("cpu"))


def batch(reward: torch.Tensor, value: torch.Tensor) -> Batch:
    """Two episodes of five steps, one after the other, that terminate."""
    over = torch.zeros(reward.shape, dtype=torch.bool)
    over[4::5] = True
    fields: dict[str, Any] = dict.fromkeys(Batch.__dataclass_fields__)
    fields |= {
        "reward": reward,
        "value": value,
        "next_value": torch.cat((value[1:], value[:1])),
        "terminated": over,
        "cut": over,
    }
    return Batch(**fields)


@pytest.mark.parametrize("weight", ["to_go", "published"])
def test_what_weighs_a_step(weight: str) -> None:
    """The gains to go less the value; or the value of the set so far over twice the horizon and one, no baseline."""
    draw = torch.Generator().manual_seed(0)
    reward, value = torch.rand(10, 2, 1, generator=draw), torch.rand(10, 2, 1, generator=draw)
    found, returns = learner("algorithm.rollout=10", f"algorithm.weight={weight}").advantages(batch(reward, value))
    for copy in range(2):
        for step in range(10):
            first, last = step // 5 * 5, step // 5 * 5 + 5
            to_go = float(reward[step:last, copy].sum())
            assert float(returns[step, copy]) == pytest.approx(to_go, abs=1e-5)
            so_far = float(reward[first : step + 1, copy].sum()) / (2 * (5 + 1))
            want = to_go - float(value[step, copy]) if weight == "to_go" else so_far
            assert float(found[step, copy]) == pytest.approx(want, abs=1e-5)


def test_rollouts_are_whole_episodes() -> None:
    with pytest.raises(UserError, match=r"algorithm\.rollout=7 is no multiple of the horizon: .* set it to 5"):
        learner("algorithm.rollout=7")
