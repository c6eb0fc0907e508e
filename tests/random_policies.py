"""Run folders with random weights, for tests of everything that loads one."""

from __future__ import annotations

from pathlib import Path

import torch

from marl.config import AnyRunConfig
from marl.coordination.pipeline import Pipeline
from marl.scenario import load_scenario
from marl.systems.registry import load_system
from marl.training.checkpoint import CheckpointStore
from marl.training.policy import LearnedPolicy, load_policy
from marl.training.run_folder import RunFolder


def untrained(config: AnyRunConfig, folder: Path, spread: float = 0.5) -> LearnedPolicy:
    """A run folder with random weights, of which some decide clearly; it is loaded as any other.

    spread: standard deviation of what is added to the first weights.
    """
    env = load_scenario(config.scenario).make(config.world, 2, torch.device("cpu"))
    space = Pipeline(env, config.coordination).observation_space
    algorithm = load_system(config.system).algorithm(env.spec, space, config.algorithm, 0, env.device)
    env.close()
    draw = torch.Generator().manual_seed(1)
    for parameter in algorithm.policy.parameters():
        parameter.data = parameter.data + spread * torch.randn(parameter.shape, generator=draw)
    with RunFolder.create(config, folder) as run:
        CheckpointStore(run.path).save(0, {"algorithm": algorithm.state(), "modules": {}})
    policy = load_policy(folder)
    assert isinstance(policy, LearnedPolicy)
    return policy
