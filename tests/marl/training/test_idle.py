"""Settings and runs without any gradient are said, once, and others are not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from test_language_trainer import small
from tiny_scenario import TINY, make_tiny, tiny_config

from marl import api
from marl.cli import main
from marl.training.idle import IdleWatch, StillWatch
from marl.training.run import train


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"copies": 4, "algorithm.group": 1}, "algorithm.group=1 plays every question once"),
        ({"copies": 1, "algorithm.group": 1}, "algorithm.group=1 plays every question once"),
        ({"algorithm.frozen": "[north]"}, "algorithm.frozen names north, whose weights are those of south"),
        ({"algorithm.frozen": "[north, planner]", "algorithm.sharing": "all"}, "names north, planner, whose weights"),
        ({"algorithm.warm_start": "{steps: 0, replay: 0.2}"}, "replay keeps up what"),
        ({}, None),
        ({"algorithm.frozen": "[north]", "algorithm.sharing": "role"}, None),
        ({"algorithm.frozen": "[north, south]"}, None),
        ({"system": "poad", "copies": 4, "algorithm.group": 1}, None),
    ],
)
def test_settings_that_teach_nothing_are_said_before_the_run(overrides: dict[str, Any], word: str | None) -> None:
    system = overrides.get("system", "m_grpo")
    config = small(system, **{key: value for key, value in overrides.items() if key != "system"})
    warnings = api.plan(config).warnings
    assert [word in warning for warning in warnings if word] == [True] * (word is not None)
    assert bool(warnings) == (word is not None)


def test_a_run_says_what_the_plan_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    config = small(copies=4, total_steps=1, **{"algorithm.group": 1, "algorithm.warm_start.steps": 1})
    train(config, tmp_path / "run", heard.append, live=False)
    assert sum("algorithm.group=1" in line for line in heard) == 1
    words = ["--set", "copies=4", "--set", "algorithm.group=1", "--dry-run"]
    assert main(["train", "agent_hierarchy", *words]) == 0
    assert "warning: algorithm.group=1" in capsys.readouterr().err


def test_updates_without_gradient_are_said_once(tmp_path: Path) -> None:
    """Two words for each turn are no call of this world: all rewards are equal."""
    heard: list[str] = []
    overrides = {
        "algorithm.warm_start.steps": 0,
        "algorithm.policy.max_tokens": 1,
        "algorithm.reward.invalid": 0.0,
        "total_steps": 4000,
    }
    train(small("grpo", **overrides), tmp_path / "run", heard.append, live=False)
    assert sum("none of the first 5 updates had a gradient" in line for line in heard) == 1


def test_a_gradient_ends_the_watch() -> None:
    watch = IdleWatch()
    assert [watch.saw({"zero_variance_groups": 1.0}) for _ in range(4)] == [""] * 4
    assert watch.saw({"grad_norm_level_0": 0.3}) == ""
    assert [watch.saw({}) for _ in range(20)] == [""] * 20
    idle = IdleWatch()
    assert [bool(idle.saw({"grad_norm_level_0": 0.0})) for _ in range(8)] == [False] * 4 + [True] + [False] * 3


def test_a_reward_that_never_varies_is_said_once() -> None:
    still, moving = StillWatch(), StillWatch()
    assert [bool(still.saw(0.25)) for _ in range(40)].index(True) == 19
    assert sum(bool(still.saw(0.25)) for _ in range(40)) == 0
    assert not any(list(map(moving.saw, [0.0, 0.0, 0.0, 1.0] + 60 * [0.0])))


def unpaid(config: Any, copies: int, device: torch.device) -> Any:
    env = make_tiny(config, copies, device)
    step = env.step

    def moved(actions: Any) -> Any:
        after = step(actions)
        return after._replace(reward=torch.zeros_like(after.reward))

    env.step = moved  # type: ignore[method-assign]
    return env


UNPAID = dataclasses.replace(TINY, name="unpaid", make=unpaid)


def test_a_tensor_run_without_reward_is_told_so(tmp_path: Path) -> None:
    for scenario, said in (("test_idle:UNPAID", 1), ("tiny_scenario:TINY", 0)):
        heard: list[str] = []
        config = tiny_config(scenario=scenario, copies=2, total_steps=2 * 2 * 16 * 22)
        train(config, tmp_path / str(said), heard.append, live=False)
        told = sum("the reward was exactly 0 in each of the first 20 iterations" in line for line in heard)
        assert told == said, heard
