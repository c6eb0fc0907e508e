"""The declaration of the scenario: what the platform and the command line know about it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from marl.envs.adapters.kinds import EnvironmentFactory
from marl.envs.batched import BatchedEnv
from marl.envs.foreign import from_parallel
from marl.plugins import check_code
from marl.scenario import Benchmark, Option, Scenario
from scenarios.pettingzoo.config import PettingZooConfig
from scenarios.pettingzoo.recorder import FrameRecorder


def _factory(config: PettingZooConfig) -> EnvironmentFactory:
    """What makes one environment. Raises ``UserError`` if only a file, and not the user, named its code."""
    texts = [value for value in config.env_args.values() if isinstance(value, str)]
    if config.env != _DEFAULT:
        check_code([config.env, *texts], "world.env")
    here = str(Path.cwd())
    if here not in sys.path:  # workers get the path of this process
        sys.path.insert(0, here)
    return EnvironmentFactory(config.env, config.env_args, config.common_reward, config.image_size, config.render)


def _make(config: PettingZooConfig, copies: int, device: torch.device) -> BatchedEnv:
    return from_parallel(
        _factory(config),
        copies,
        workers=None if config.worker_count is None else min(config.worker_count, copies),
        where=config.workers,
        horizon=config.horizon,
        deterministic=config.deterministic,
        state=config.state,
        truncate_at_horizon=config.truncate_at_horizon,
        by_name=config.groups == "names",
        render=config.render,
        device=device,
        timeout_s=config.timeout_s,
    )


def _instance(config: PettingZooConfig) -> dict[str, Any]:
    return {"env": config.env, **{name: str(value) for name, value in config.env_args.items()}}


def _environment(config: PettingZooConfig) -> Callable[[], Any]:
    return _factory(config)


_DEFAULT = PettingZooConfig.model_fields["env"].default
#: Keys that say how, not what, is played.
_OF_THE_MACHINE = ("workers", "worker_count", "timeout_s", "render")
_PRESETS = Path(__file__).parent / "presets"

SCENARIO = Scenario(
    name="pettingzoo",
    summary="any PettingZoo, Gymnasium or marlenv environment, by the name of what makes it",
    config=PettingZooConfig,
    make=_make,
    instance=_instance,
    presets=_PRESETS,
    default_preset="default",
    options=(
        Option("--env", "world.env", "MODULE:FACTORY, or MODULE:ID of what the module registers with Gymnasium"),
        Option("--env-arg", "world.env_args", "KEY=VALUE of what the factory takes; may be repeated", pairs=True),
        Option("--horizon", "world.horizon", "steps of an episode, where the environment has no limit of its own"),
        Option("--common-reward", "world.common_reward", "sum or mean: one reward for all, until all have ended"),
        Option("--groups", "world.groups", "names: agents of unlike names are in groups of their own"),
        Option("--image-size", "world.image_size", "pixels to which larger images are scaled down"),
        Option("--workers", "world.workers", "processes, ray or ray://HOST:PORT (actors of a cluster), none"),
        Option(
            "--truncate-at-horizon",
            "world.truncate_at_horizon",
            "an end at the horizon is a truncation, whatever the environment calls it",
            switch={"world.truncate_at_horizon": True},
        ),
    ),
    system="mappo",
    extras={"worlds": "mpe2, whose worlds the examples name"},
    recorder=FrameRecorder,
    shown=lambda config: config.model_copy(update={"render": True, "workers": "none"}),
    bound=tuple(f"world.{name}" for name in PettingZooConfig.model_fields if name not in _OF_THE_MACHINE),
    environment=_environment,
    benchmark=Benchmark(settings={"copies": 8}, steps=100),
)
