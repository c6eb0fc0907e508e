"""What a configuration asks for: the maps, the number of agents, and given starts and goals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.errors import UserError
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.grid import GridMap
from scenarios.lifelong_mapf.maps.lorr import Problem, is_problem_file, load_problem
from scenarios.lifelong_mapf.maps.sources import check_capacity, load_map, load_maps
from scenarios.lifelong_mapf.maps.tasks import Tasks, load_equal_tasks, task_files

#: Number of agents where neither the configuration nor a task file says one.
DEFAULT_AGENTS = 32

#: Pools of different seeds have no generator seed in common.
_SEEDS_PER_POOL = 1_000_000


class Instances(NamedTuple):
    """maps: the pool of M. agents: N. starts: given start cells on each map int32 [M, N], or None if they are drawn.

    errands: the problem of the one map, where a scheduler gives tasks to robots.
    task int32 [M, N, K], task_count int32 [M, N]: given goals of each agent in order, K = 0 if there are none.
    Cells are row * W + column, W the width of the widest map.
    """

    maps: tuple[GridMap, ...]
    agents: int
    starts: Tensor | None
    task: Tensor
    task_count: Tensor
    errands: Problem | None = None


def number_of_agents(config: MapfConfig) -> int:
    """N, for which a task file may have to be read."""
    if config.agents is None and config.tasks is not None:
        if (problem := _scheduled(config)) is not None:
            return problem.n_agents
        return _read_tasks(config, task_files(config.tasks)[:1])[0].n_agents
    return config.agents or DEFAULT_AGENTS


def load_instances(config: MapfConfig) -> Instances:
    """``UserError`` where a file cannot be used or a map has fewer start cells than agents."""
    if config.tasks is not None:
        return _given(config, config.tasks)
    agents = number_of_agents(config)
    maps = tuple(load_maps(config.map)) if config.map is not None else tuple(_generate(config))
    for grid in maps:
        check_capacity(grid, agents, distinct_goals=config.on_target == "nothing")
    no_count = torch.zeros(len(maps), agents, dtype=torch.int32)
    return Instances(maps, agents, None, torch.zeros(len(maps), agents, 0, dtype=torch.int32), no_count)


def _generate(config: MapfConfig) -> list[GridMap]:
    first = config.map_seed * _SEEDS_PER_POOL
    return [config.generator[m % len(config.generator)].generate(first + m) for m in range(config.map_pool)]


def _scheduled(config: MapfConfig) -> Problem | None:
    """The problem of the configuration, if its tasks do not belong to robots."""
    if config.tasks is None or not is_problem_file(config.tasks):
        return None
    problem = load_problem(Path(config.tasks), None if config.map is None else load_map(config.map), config.agents)
    if not problem.errands and problem.strategy != "greedy":
        return None
    if problem.delayed:
        raise UserError(
            f"{config.tasks} delays robots at random, which is not played: take delayConfig out to play it without, a "
            f"step being {problem.ticks} ticks"
        )
    for option, wrong in (
        ("on_target=restart", config.on_target != "restart"),
        ("bound_share=false", config.bound_share),
    ):
        if wrong:
            raise UserError(f"{config.tasks} has tasks that a scheduler gives to robots: they are played with {option}")
    return problem


def _given(config: MapfConfig, spec: str) -> Instances:
    if (problem := _scheduled(config)) is not None:
        none = torch.zeros(1, problem.n_agents, 0, dtype=torch.int32)
        starts = torch.from_numpy(problem.starts).unsqueeze(0)
        return Instances((problem.grid,), problem.n_agents, starts, none, none.sum(2, dtype=torch.int32), problem)
    files = task_files(spec)
    several = _read_tasks(config, files)
    if config.on_target == "nothing":
        for file, tasks in zip(files, several, strict=True):
            tasks.check_distinct_ends(file)
    width = max(tasks.grid.width for tasks in several)
    counts = np.array([[goals.size for goals in tasks.goals] for tasks in several], np.int32)
    table = np.zeros((*counts.shape, counts.max()), np.int32)
    for tasks, agents in zip(several, table, strict=True):
        for row, goals in zip(agents, tasks.goals, strict=True):
            row[: goals.size] = _on_width(goals, tasks, width)
    return Instances(
        tuple(tasks.grid for tasks in several),
        several[0].n_agents,
        torch.from_numpy(np.stack([_on_width(tasks.starts, tasks, width) for tasks in several])),
        torch.from_numpy(table),
        torch.from_numpy(counts),
    )


def _read_tasks(config: MapfConfig, files: Sequence[str]) -> list[Tasks]:
    """The tasks of each file, on the configured map or else on the one that the file names."""
    grid = None if config.map is None else load_map(config.map)
    return load_equal_tasks(files, grid, config.agents, config.horizon)


def _on_width(cells: NDArray[np.int32], tasks: Tasks, width: int) -> NDArray[np.int32]:
    """Cells of the tasks' map as cells of a grid that is ``width`` wide."""
    narrow = tasks.grid.width
    return (cells // narrow * width + cells % narrow).astype(np.int32)
