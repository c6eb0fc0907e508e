"""``replay``: a plan of any origin, validated and counted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from marl.errors import UserError
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.grid import GridMap
from scenarios.lifelong_mapf.maps.lorr import Problem, is_problem_file, load_problem
from scenarios.lifelong_mapf.maps.sources import load_map
from scenarios.lifelong_mapf.maps.tasks import load_tasks
from scenarios.lifelong_mapf.plans.conflicts import conflicts
from scenarios.lifelong_mapf.plans.counting import Count, count_problem, count_sequences
from scenarios.lifelong_mapf.plans.plan import Plan
from scenarios.lifelong_mapf.plans.text_files import read_plan


class Replay(NamedTuple):
    """What a plan turned out to be.

    figures: by name, such as ``tasks_finished``. faults: a sentence each; empty for a valid plan. notes: what could not
    be checked, and why.
    """

    figures: dict[str, float]
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def replay(path: Path, config: MapfConfig) -> Replay:
    """Validate and count a plan file on the map (and the tasks) of a configuration. Raises ``UserError``."""
    plan = read_plan(path)
    problem, grid, starts, goals = None, None, None, None
    if config.tasks is not None and is_problem_file(config.tasks):
        problem = load_problem(Path(config.tasks), None if config.map is None else load_map(config.map), config.agents)
        grid, starts = problem.grid, problem.starts
    elif config.tasks is not None:
        given = None if config.map is None else load_map(config.map)
        tasks = load_tasks(config.tasks, given, config.agents, config.horizon)
        grid, starts, goals = tasks.grid, tasks.starts, tasks.goals
    elif config.map is not None:
        grid = load_map(config.map)
    if grid is None:
        raise UserError(f"which map is {path} on? Name it with --problem FILE or --map FILE")
    if starts is not None and starts.size != plan.n_agents:
        raise UserError(f"{path} has {plan.n_agents} robots, {config.tasks} has {starts.size}")
    found = [fault.sentence() for fault in conflicts(plan, grid.blocked, starts)]
    count = _count(plan, problem, grid, goals)
    figures = {"steps": float(plan.steps), "robots": float(plan.n_agents), "conflicts": float(len(found))}
    if plan.headings is not None and plan.steps:
        drove = (np.diff(plan.cells, axis=0) != 0).any(-1)
        figures["forward_share"] = float(drove.mean())
    if count is not None:
        found += count.faults
        figures["tasks_finished"] = float(count.finished)
        figures["tasks_per_step"] = count.finished / max(plan.steps, 1)
        if count.stops != count.finished:
            figures["stops_visited"] = float(count.stops)
        if plan.claimed is not None and plan.claimed != count.finished:
            found.append(f"the file says that {plan.claimed} tasks were finished, {count.finished} were")
    notes = () if count is not None else (_uncounted(plan, problem),)
    return Replay(figures, tuple(found), notes)


def _uncounted(plan: Plan, problem: Problem | None) -> str:
    claim = "" if plan.claimed is None else f"; the file claims {plan.claimed}"
    if problem is None:
        return f"tasks are not counted, as neither the plan nor an option says what they are{claim}"
    return (
        f"tasks are not counted, as {plan.source} has no 'actualSchedule' (the kit writes it with outputScreen=1) and "
        f"nothing else says which robot worked on which errand{claim}"
    )


def _count(plan: Plan, problem: Problem | None, grid: GridMap, goals: tuple[np.ndarray, ...] | None) -> Count | None:
    """By the problem; else by the plan's own record of what was given to whom; else by the goals of a task file."""
    if problem is not None:
        return None if problem.errands and plan.schedule is None else count_problem(plan, problem)
    if plan.given is not None:
        rows = [[row * grid.width + column for _, (row, column), _ in robot] for robot in plan.given]
        return count_sequences(plan, [np.array(row, np.int32) for row in rows], grid.width)
    return None if goals is None else count_sequences(plan, goals, grid.width)
