"""The declaration of the scenario: what the platform and the command line know about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from marl.envs.batched import BatchedEnv
from marl.scenario import Axis, Benchmark, Option, Scenario
from scenarios.vmas_tasks.config import VmasConfig
from scenarios.vmas_tasks.world import VmasWorld, make_simulator


def _make(config: VmasConfig, copies: int, device: torch.device) -> BatchedEnv:
    return VmasWorld(config, make_simulator(config, copies, device), copies, device)


def _instance(config: VmasConfig) -> dict[str, Any]:
    return {"task": config.task, **{name: str(value) for name, value in config.options.items()}}


def _alone(env: BatchedEnv) -> Callable[[Tensor], object]:
    return cast(VmasWorld, env).move


SCENARIO = Scenario(
    name="vmas_tasks",
    summary="tasks of VMAS, the vectorised multi-agent simulator, with VMAS itself as the engine",
    config=VmasConfig,
    make=_make,
    instance=_instance,
    presets=Path(__file__).parent / "presets",
    default_preset="navigation",
    extras={"vmas": "all of it"},
    options=(
        Option(
            "--task",
            "world.task",
            "a VMAS scenario as it is, such as navigation, balance or transport; a preset's options are left out",
            also={"world.options": None},
        ),
        Option("--horizon", "world.horizon", "steps of an episode"),
    ),
    system="mappo",
    benchmark=Benchmark(
        settings={"copies": 60},
        steps=100,
        axes={"copies": Axis("copies", {copies: {"copies": copies} for copies in (1, 60, 600)})},
        alone=_alone,
    ),
)
