"""Playing the grid world at random, for tests."""

import hashlib

import torch

from marl.envs.batched import TimeStep
from marl.seeding import below, fold
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.world import LifelongMapf


def random_actions(timestep: TimeStep) -> torch.Tensor:
    """Uniform moves drawn from ``timestep.key``: those of a copy do not depend on its batch."""
    return below(fold(fold(timestep.key, 99).unsqueeze(1), torch.arange(timestep.alive.shape[1])), 5)


def leaves(tree: object, name: str = "") -> dict[str, torch.Tensor]:
    """Path -> tensor of everything in a time step or a plan."""
    if isinstance(tree, torch.Tensor):
        return {name: tree}
    if isinstance(tree, tuple):
        tree = tree._asdict()
    return {k: v for key, part in (tree or {}).items() for k, v in leaves(part, f"{name}.{key}").items()}


def episode_digest() -> str:
    """What a fixed world shows in 50 steps, restarts included."""
    world = LifelongMapf(MapfConfig(agents=8, map_pool=3, horizon=20), 2)
    timestep = world.reset(4)
    digest = hashlib.sha256()
    for _ in range(50):
        timestep = world.step(random_actions(timestep))
        for tensor in leaves(timestep).values():
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
