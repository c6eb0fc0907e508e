"""``Tasks``: given starts and goals, from a task file, a problem of the League of Robot Runners, a MovingAI ``.scen``
or the letters of a POGEMA map.

A task file is JSON:
``{"schema_version": 1, "map": FILE, "agents": [{"start": [row, col], "goals": [[row, col], ...]}]}``;
``map`` may be left out where the map is given otherwise, and is looked for beside the task file, then as any map is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from marl.errors import UserError, nearest
from scenarios.lifelong_mapf.maps.foreign import Instance, is_multi_robot, load_multi_robot, load_pibt2, load_primal
from scenarios.lifelong_mapf.maps.formats import read_text
from scenarios.lifelong_mapf.maps.grid import GridMap
from scenarios.lifelong_mapf.maps.lorr import given_goals, is_problem, load_problem
from scenarios.lifelong_mapf.maps.sources import find_map, load_map

SCHEMA_VERSION = 1
MAX_BYTES = 50_000_000

Cell = tuple[int, int]


class _Agent(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    start: Cell
    goals: list[Cell] = Field(min_length=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    schema_version: Literal[1]
    map: str | None = None
    agents: list[_Agent] = Field(min_length=1)


@dataclass(frozen=True, eq=False)
class Tasks:
    """Starts and goals of N agents on a map; cells are ``row * grid.width + col``.

    grid: the map.
    starts: int32 [N], distinct.
    goals: per agent int32 [K_i], K_i >= 1, in order; each is in reach. A goal on the cell of the one before it (or of
        the start) is reached by staying there for a step.

    What an agent does after its last goal is the world's affair.
    """

    grid: GridMap
    starts: NDArray[np.int32]
    goals: tuple[NDArray[np.int32], ...]

    @property
    def n_agents(self) -> int:
        return len(self.goals)

    @classmethod
    def of_cells(
        cls, grid: GridMap, starts: Sequence[Cell], goals: Sequence[Sequence[Cell]], source: str = "tasks"
    ) -> Tasks:
        """Tasks from (row, col) cells; ``UserError`` names ``source``, the agent and the cell at fault."""
        taken: dict[Cell, int] = {}
        for agent, (start, sequence) in enumerate(zip(starts, goals, strict=True)):
            place = f"{source}, agent {agent}"
            _check_cell(grid, start, f"{place}: the start")
            if start in taken:
                raise UserError(
                    f"{place}: the start {_show(start)} is also that of agent {taken[start]}, move one of them"
                )
            taken[start] = agent
            for k, goal in enumerate(sequence):
                what = f"{place}: goal {k}"
                _check_cell(grid, goal, what)
                if grid.component[goal] != grid.component[start]:
                    raise UserError(f"{what} at {_show(goal)} cannot be reached from the start {_show(start)}, move it")
        return cls(
            grid,
            np.array([row * grid.width + col for row, col in starts], np.int32),
            tuple(np.array([row * grid.width + col for row, col in sequence], np.int32) for sequence in goals),
        )

    def check_distinct_ends(self, source: str) -> None:
        """``UserError`` if two agents have the same last goal, where both are to stay.

        Args:
            source: what the sentence calls the tasks.
        """
        ends: dict[int, int] = {}
        for agent, goals in enumerate(self.goals):
            end = int(goals[-1])
            if end in ends:
                cell = _show((end // self.grid.width, end % self.grid.width))
                raise UserError(
                    f"{source}, agent {agent}: the last goal {cell} is also that of agent {ends[end]}, and only one "
                    "can stay there (on_target=nothing): move one of them, or let agents leave with on_target=finish"
                )
            ends[end] = agent

    def save(self, path: Path, map_spec: str | None = None) -> None:
        """Write a task file; ``map_spec`` is what it says about the map (default: the map's name)."""

        def cell(flat: np.int32) -> list[int]:
            return [int(flat) // self.grid.width, int(flat) % self.grid.width]

        agents = [
            json.dumps({"start": cell(start), "goals": [cell(goal) for goal in goals]})
            for start, goals in zip(self.starts, self.goals, strict=True)
        ]
        name = json.dumps(self.grid.name if map_spec is None else map_spec)
        rows = ",\n".join(f"    {agent}" for agent in agents)
        path.write_text(
            f'{{\n  "schema_version": {SCHEMA_VERSION},\n  "map": {name},\n  "agents": [\n{rows}\n  ]\n}}\n'
        )


def _show(cell: Cell) -> str:
    return f"[{cell[0]}, {cell[1]}]"


def _check_cell(grid: GridMap, cell: Cell, what: str) -> None:
    row, col = cell
    if not (0 <= row < grid.height and 0 <= col < grid.width):
        raise UserError(
            f"{what} at {_show(cell)} lies outside of the map of {grid.height} rows and {grid.width} columns"
        )
    if grid.blocked[row, col]:
        raise UserError(f"{what} at {_show(cell)} lies inside a wall, move it to a free cell")


def task_files(spec: str) -> list[str]:
    """The ``.json`` and ``.scen`` files of a folder in the order of their names, or the one that ``spec`` is."""
    if not spec.strip() or is_text(spec) or not Path(spec).is_dir():
        return [spec]
    known = [(".json", ".scen"), (".yaml", ".yml", ".txt", ".npy")]  # the second kinds may also be something else
    for suffixes in known:
        if files := sorted(str(path) for path in Path(spec).iterdir() if path.suffix.lower() in suffixes):
            return files
    raise UserError(f"{spec} holds no task file: put some .json or .scen there, or name a file")


def load_equal_tasks(
    files: Sequence[str], grid: GridMap | None = None, n_agents: int | None = None, horizon: int = 1
) -> list[Tasks]:
    """The tasks of each file, which must be for equally many agents. grid, n_agents, horizon: see ``load_tasks``."""
    several = [load_tasks(file, grid, n_agents, horizon) for file in files]
    for file, tasks in zip(files, several, strict=True):
        if tasks.n_agents != several[0].n_agents:
            least = min(other.n_agents for other in several)
            raise UserError(
                f"{file} has tasks for {tasks.n_agents} agents and {files[0]} for {several[0].n_agents}: "
                f"ask for the first {least} of each with agents={least}"
            )
    return several


def load_tasks(spec: str, grid: GridMap | None = None, n_agents: int | None = None, horizon: int = 1) -> Tasks:
    """Tasks from a file.

    Args:
        spec: a task file (``.json``) or the text of one, a problem of the League of Robot Runners (``.json``), a
            MovingAI ``.scen``, a map with letters (``FILE.yaml`` or ``FILE.yaml:NAME``), or another tool's instance
            (``foreign``).
        grid: the map; None: the one that the file names.
        n_agents: how many of its agents to take, the first ones; None: all.
        horizon: steps for which there must be goals, where a file has goals without end.
    """
    lower = spec.lower()
    if is_text(spec):
        return _read_file(spec, "the tasks", Path(), grid, n_agents)
    if lower.endswith((".txt", ".npy")):
        return _of_instance(load_pibt2 if lower.endswith(".txt") else load_primal, Path(spec), grid, n_agents)
    if lower.endswith((".yaml", ".yml")) and is_multi_robot(read_text(Path(spec))):
        return _of_instance(load_multi_robot, Path(spec), grid, n_agents)
    if lower.endswith(".json"):
        return _load_json(Path(spec), grid, n_agents, horizon)
    if lower.endswith(".scen"):
        return _load_scen(Path(spec), grid, n_agents)
    if ".yaml" in lower or ".yml" in lower:
        return _load_letters(spec, grid, n_agents)
    raise UserError(
        f"{spec} is no task file, use a .json, a MovingAI .scen, a POGEMA .yaml with letters, or a folder of such files"
    )


def is_text(spec: str) -> bool:
    """Whether a specification is the text of a task file."""
    return spec.lstrip().startswith("{")


def _of_instance(load: Callable[[Path], Instance], path: Path, grid: GridMap | None, n_agents: int | None) -> Tasks:
    """Tasks of another tool's instance, on its own map unless another one is given."""
    instance = load(path)
    if not instance.starts:
        raise UserError(f"{path} holds no robots, only a map: use it as --map {path}")
    if grid is None:
        grid = instance.grid or load_map(instance.map or "", beside=path.parent)
    count = _first(len(instance.starts), n_agents, str(path))
    return Tasks.of_cells(grid, instance.starts[:count], instance.goals[:count], str(path))


def _first(count: int, n_agents: int | None, source: str) -> int:
    if n_agents is not None and n_agents > count:
        raise UserError(f"{source} has tasks for {count} agents, {n_agents} asked: use at most {count}")
    return count if n_agents is None else n_agents


def _load_json(path: Path, grid: GridMap | None, n_agents: int | None, horizon: int) -> Tasks:
    text = read_text(path, MAX_BYTES)
    if '"schema_version"' not in text:
        values = _parsed(text)
        if is_problem(values):
            problem = load_problem(path, grid, n_agents)
            return Tasks(problem.grid, problem.starts, given_goals(problem, horizon))
        if isinstance(values, dict) and "actualPaths" in values:
            raise UserError(f"{path} looks like a plan, not like tasks: judge it with evaluate --replay {path}")
    return _read_file(text, str(path), path.parent, grid, n_agents)


def _read_file(text: str, source: str, folder: Path, grid: GridMap | None, n_agents: int | None) -> Tasks:
    """The tasks of a task file's text. folder: where its map is looked for first."""
    try:
        file = _File.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error)}") from None
    if grid is None:
        if file.map is None:
            raise UserError(f'{source} names no map, add "map" to it or give a map')
        grid = load_map(file.map, beside=folder)
    agents = file.agents[: _first(len(file.agents), n_agents, source)]
    return Tasks.of_cells(grid, [agent.start for agent in agents], [agent.goals for agent in agents], source)


def tasks_text(value: Any) -> Any:
    """Starts and goals from Python as the text of a task file; anything else as it is.

    Args:
        value: a list with {"start": cell, "goals": cells} or (start, goal) of each agent, cells as (row, column), or
            the whole of a task file as a dict.
    """
    if isinstance(value, list | tuple):
        if not all(
            isinstance(agent, Mapping) or (isinstance(agent, list | tuple) and len(agent) == 2) for agent in value
        ):
            raise ValueError("each agent's tasks must be (start, goal) or {start, goals}")
        agents = [agent if isinstance(agent, Mapping) else {"start": agent[0], "goals": [agent[1]]} for agent in value]
        value = {"schema_version": SCHEMA_VERSION, "agents": agents}
    return json.dumps(value, default=lambda number: number.tolist()) if isinstance(value, Mapping) else value


def _parsed(text: str) -> object:
    """What a JSON text holds; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _sentence(error: ValidationError) -> str:
    """The first fault: the agent and key, and what is wrong."""
    first = error.errors(include_url=False, include_input=False)[0]
    location = list(first["loc"])
    message = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] == "too_short":
        message = "there are none, write one at least"
    if first["type"] == "extra_forbidden":
        known = (_Agent if len(location) > 1 else _File).model_fields
        return f"'{location[-1]}' is not a known key{nearest(str(location[-1]), list(known))}"
    if len(location) > 1 and location[0] == "agents":
        location[:2] = [f"agent {location[1]}"]
    return ", ".join(str(part) for part in location) + (": " if location else "") + message


def _load_scen(path: Path, grid: GridMap | None, n_agents: int | None) -> Tasks:
    """A MovingAI scenario: bucket, map, width, height, start x, start y, goal x, goal y, length; x is the column."""
    starts: list[Cell] = []
    goals: list[list[Cell]] = []
    for number, line in enumerate(read_text(path, MAX_BYTES).splitlines(), start=1):
        words = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or (number == 1 and words[0].startswith("version")):
            continue
        if n_agents is not None and len(starts) == n_agents:
            break
        try:
            width, height, start_x, start_y, goal_x, goal_y = (int(word) for word in words[2:8])
        except ValueError:
            raise UserError(
                f"{path}, line {number}: expected bucket, map, width, height, start x and y, goal x and y, length"
            ) from None
        if grid is None:
            grid = _map_of_scen(words[1], path)
        if (height, width) != (grid.height, grid.width):
            size = f"{grid.height} rows and {grid.width} columns"
            raise UserError(f"{path}, line {number}: made for {height} rows and {width} columns, the map has {size}")
        starts.append((start_y, start_x))
        goals.append([(goal_y, goal_x)])
    if grid is None or not starts:
        raise UserError(f"{path} holds no start and goal")
    _first(len(starts), n_agents, str(path))
    return Tasks.of_cells(grid, starts, goals, str(path))


def _map_of_scen(spec: str, path: Path) -> GridMap:
    """The map that a scenario names; where that is a path of another machine, the file of that name beside it."""
    beside = path.parent / re.split(r"[/\\\\]", spec)[-1]
    return load_map(str(beside)) if beside.is_file() else load_map(spec, beside=path.parent)


def _load_letters(spec: str, grid: GridMap | None, n_agents: int | None) -> Tasks:
    parsed = find_map(spec).lettered()
    letters = sorted(parsed.starts)[: _first(len(parsed.starts), n_agents, spec)]
    if not letters:
        raise UserError(f"{spec} has no letters that mark starts and goals, add some such as 'a' and 'A'")
    starts = [parsed.starts[letter] for letter in letters]
    goals = [[parsed.goals[letter]] for letter in letters]
    return Tasks.of_cells(parsed.grid if grid is None else grid, starts, goals, spec)
