"""What a configuration asks for: the maps, the number of agents, and given starts and goals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.grid import GridMap
from scenarios.lifelong_mapf.maps import check_capacity, load_map, load_maps
from scenarios.lifelong_mapf.tasks import load_tasks

#: Number of agents where neither the configuration nor a task file says one.
DEFAULT_AGENTS = 32

#: Pools of different seeds have no generator seed in common.
_SEEDS_PER_POOL = 1_000_000


class Instances(NamedTuple):
    """maps: the pool. agents: N. starts: given start cells int32 [N], or None if they are drawn.

    task int32 [N, K], task_count int32 [N]: given goals of each agent in order, K = 0 if there are none.
    """

    maps: tuple[GridMap, ...]
    agents: int
    starts: Tensor | None
    task: Tensor
    task_count: Tensor


def number_of_agents(config: MapfConfig) -> int:
    """N, for which a task file may have to be read."""
    if config.agents is None and config.tasks is not None:
        return _given(config, config.tasks).agents
    return config.agents or DEFAULT_AGENTS


def load_instances(config: MapfConfig) -> Instances:
    """``UserError`` where a file cannot be used or a map has fewer start cells than agents."""
    if config.tasks is not None:
        return _given(config, config.tasks)
    agents = number_of_agents(config)
    maps = tuple(load_maps(config.map)) if config.map is not None else tuple(_generate(config))
    for grid in maps:
        check_capacity(grid, agents)
    no_count = torch.zeros(agents, dtype=torch.int32)
    return Instances(maps, agents, None, torch.zeros(agents, 0, dtype=torch.int32), no_count)


def _generate(config: MapfConfig) -> list[GridMap]:
    first = config.map_seed * _SEEDS_PER_POOL
    return [config.generator[m % len(config.generator)].generate(first + m) for m in range(config.map_pool)]


def _given(config: MapfConfig, spec: str) -> Instances:
    tasks = load_tasks(spec, None if config.map is None else load_map(config.map), config.agents)
    counts = [goals.size for goals in tasks.goals]
    table = np.zeros((tasks.n_agents, max(counts)), np.int32)
    for row, goals in zip(table, tasks.goals, strict=True):
        row[: goals.size] = goals
    return Instances(
        (tasks.grid,),
        tasks.n_agents,
        torch.from_numpy(tasks.starts),
        torch.from_numpy(table),
        torch.tensor(counts, dtype=torch.int32),
    )
