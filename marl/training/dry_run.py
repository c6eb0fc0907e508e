"""What a training run would do, found out without starting it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from marl.config import AnyRunConfig
from marl.coordination.pipeline import Pipeline
from marl.errors import UserError
from marl.scenario import load_scenario
from marl.systems.registry import load_system
from marl.training.language_trainer import language_plan
from marl.training.tensor_trainer import collector_of, steps_of


@dataclass(frozen=True)
class Plan:
    """What a training run would do.

    agent_steps_per_iteration: worlds x agents x rollout. parameters: of networks, by role. warnings: what will not be
    learned, or not as it seems.
    """

    agents: int
    iterations: int
    agent_steps_per_iteration: int
    parameters: Mapping[str, int]
    warnings: Sequence[str] = ()


def plan(config: AnyRunConfig, init: bool = False) -> Plan:
    """Build everything that a run needs, start nothing, and say what it would do. Raises ``UserError``.

    Args:
        config: of the run.
        init: it begins with the weights of another one.
    """
    device = device_of(config)
    if load_system(config.system).kind == "language":
        return Plan(**language_plan(config, imitates=not init))
    env = load_scenario(config.scenario).make(config.world, config.copies, device)
    try:
        pipeline = Pipeline(env, config.coordination)
        system = load_system(config.system)
        algorithm = system.algorithm(env.spec, pipeline.observation_space, config.algorithm, config.seed, device)
        collector = collector_of(pipeline, algorithm)
        each = steps_of(collector, config) * config.copies * env.spec.n_agents
        networks = {name: getattr(algorithm, name, None) for name in ("policy", "critic")}
        return Plan(
            agents=env.spec.n_agents,
            iterations=max(1, -(-config.total_steps // each)),
            agent_steps_per_iteration=each,
            parameters={
                name: sum(p.numel() for p in network.parameters())
                for name, network in networks.items()
                if isinstance(network, torch.nn.Module)
            },
        )
    finally:
        env.close()


def device_of(config: AnyRunConfig) -> torch.device:
    """Where a run computes. Raises ``UserError`` for a GPU that is not there."""
    device = torch.device(config.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={config.device}, but torch sees no such GPU here: set device=cpu")
    return device
