"""Problems of the League of Robot Runners: a ``.json`` that names a map, starts and tasks.

The files of 2023, 2024 and 2026 are read (MAPF-Competition/Start-Kit, tags 2023-archive, v2.1.2 and v3.1.0). Cells are
flat, row * width + column. Lines that begin with ``#`` are comments; the first other line is a count, then comes a
start, or a task, on each line. A task of 2024 and 2026 is an errand: several cells, separated by commas, that one robot
visits in order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from marl.errors import UserError, nearest
from scenarios.lifelong_mapf.maps.formats import read_text
from scenarios.lifelong_mapf.maps.grid import GridMap
from scenarios.lifelong_mapf.maps.sources import load_map

MAX_BYTES = 200_000_000

Strategy = Literal["roundrobin", "roundrobin_fixed", "greedy"]


class _Header(BaseModel):
    """The keys that are read; the league's files hold others, which do not change the problem."""

    model_config = ConfigDict(extra="ignore", strict=True)

    mapFile: str = Field(min_length=1)  # noqa: N815  # the league's names
    agentFile: str = Field(min_length=1)  # noqa: N815
    taskFile: str = Field(min_length=1)  # noqa: N815
    teamSize: int = Field(ge=1)  # noqa: N815
    numTasksReveal: float = Field(1.0, gt=0)  # noqa: N815
    taskAssignmentStrategy: Strategy = "roundrobin"  # noqa: N815
    version: str = "2023 LoRR"
    agentCounter: int = Field(1, ge=1)  # noqa: N815
    delayConfig: dict[str, Any] | None = None  # noqa: N815


class Problem(NamedTuple):
    """A problem of N robots and T tasks.

    source: the file, for errors. grid: the map. starts: int32 [N], distinct free cells; all face east.
    stops: int32, the cells of all tasks, one task after the other; task t has ``stops[first[t] : first[t + 1]]``.
    first: int64 [T + 1].
    strategy: who gets which task (2023). roundrobin: robot k's j-th is task (j N + k) modulo T; roundrobin_fixed: the
        same, but each task once; greedy: whoever has none takes the next, robots in order of their numbers.
    revealed: tasks that are open at the same time (2024 and later; a scheduler assigns them).
    errands: tasks are errands that a scheduler assigns.
    ticks: ticks of a move (2026). delayed: robots are held up at random (2026).
    """

    source: str
    grid: GridMap
    starts: NDArray[np.int32]
    stops: NDArray[np.int32]
    first: NDArray[np.int64]
    strategy: Strategy
    revealed: int
    errands: bool
    ticks: int
    delayed: bool

    @property
    def n_agents(self) -> int:
        return int(self.starts.size)

    @property
    def n_tasks(self) -> int:
        return int(self.first.size) - 1


def is_problem(values: Any) -> bool:
    """Whether a parsed JSON file looks like a problem."""
    return isinstance(values, dict) and len({"mapFile", "agentFile", "taskFile", "teamSize"} & values.keys()) >= 2


def is_problem_file(spec: str) -> bool:
    """Whether a specification of tasks is a problem file. Raises ``UserError`` for a file that cannot be read."""
    if not spec.lower().endswith(".json") or Path(spec).is_dir():
        return False
    try:
        return is_problem(json.loads(read_text(Path(spec), MAX_BYTES)))
    except (ValueError, RecursionError):
        return False


def _check_apart(path: Path, grid: GridMap, starts: NDArray[np.int32], lines: NDArray[np.int64]) -> None:
    """Raise ``UserError`` for two robots that start on one cell; lines: of the file, by robot."""
    order = np.argsort(starts, kind="stable")
    twice = np.flatnonzero(np.diff(starts[order]) == 0)
    if twice.size:
        one, other = order[twice[0]], order[twice[0] + 1]
        raise UserError(
            f"{path}, line {lines[other]}: robot {other} starts on {_show(grid, starts[other])} as robot {one} does, "
            "move one of them"
        )


def load_problem(path: Path, grid: GridMap | None = None, n_agents: int | None = None) -> Problem:
    """A problem file. Raises ``UserError``.

    Args:
        path: the ``.json``; the files that it names are looked for beside it.
        grid: the map; None: the one that the file names.
        n_agents: how many of its robots to take, the first ones; None: all of the team.
    """
    header = _read_header(path)
    own = None
    if grid is None or (path.parent / header.mapFile).is_file():
        own = load_map(header.mapFile, beside=path.parent)
    grid = grid or own
    assert grid is not None
    if own is not None and own.blocked.shape != grid.blocked.shape:
        raise UserError(
            f"{path} is for a map of {own.height} rows and {own.width} columns, '{grid.name}' has {grid.height} and "
            f"{grid.width}: leave the other map out"
        )
    team = header.teamSize if n_agents is None else n_agents
    if team > header.teamSize:
        raise UserError(f"{path} has a team of {header.teamSize} robots, {team} asked: use at most {header.teamSize}")
    free = int((~grid.blocked).sum())
    if team > free:
        raise UserError(f"{path}: map '{grid.name}' has {free} free cells, too few for a team of {team} robots")
    starts, _, lines = _read_cells(path.parent / header.agentFile, grid, header.teamSize, "starts")
    starts = starts[:team]
    _check_apart(path.parent / header.agentFile, grid, starts, lines)
    stops, first, _ = _read_cells(path.parent / header.taskFile, grid, None, "tasks")
    errands = header.version >= "2024" or bool((np.diff(first) > 1).any())
    revealed = int(header.numTasksReveal * team)
    if errands and revealed < 1:
        raise UserError(f"{path}: numTasksReveal={header.numTasksReveal:g} reveals no task, use at least {1 / team:g}")
    return Problem(
        str(path),
        grid,
        starts,
        stops,
        first,
        header.taskAssignmentStrategy,
        revealed,
        errands,
        header.agentCounter if header.version >= "2026" else 1,
        bool(header.delayConfig) and header.version >= "2026",
    )


def _read_header(path: Path) -> _Header:
    try:
        values = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is no problem file, write an object with mapFile, agentFile, taskFile, teamSize")
    try:
        return _Header.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            hint = nearest(key, [name for name in values if name not in _Header.model_fields])
            raise UserError(f"{path} has no '{key}'{hint if 'did you mean' in hint else ''}, add it") from None
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise UserError(f"{path}, {key}: {message}") from None


def _read_cells(
    path: Path, grid: GridMap, wanted: int | None, what: str
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """The cells of a file of starts or tasks, where each of its lines begins among them [L + 1], and their numbers [L].

    wanted: lines to take; None: as many as the file's own count says.
    """
    numbered = [
        (number, line)
        for number, line in enumerate(read_text(path, MAX_BYTES).splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    (number, head), *rest = numbered or [(1, "")]
    if not head.strip().isdecimal():
        raise UserError(f"{path}, line {number}: expected the number of {what}, found {head.strip()[:40]!r}")
    wanted = int(head) if wanted is None else wanted
    if len(rest) < wanted or wanted < 1:
        raise UserError(f"{path} has {len(rest)} {what}, {max(wanted, 1)} are needed: add some, or say fewer")
    rest = rest[:wanted]
    counts = np.fromiter((line.count(",") + 1 for _, line in rest), np.int64, len(rest))
    lines = np.fromiter((number for number, _ in rest), np.int64, len(rest))
    first = np.concatenate([[0], np.cumsum(counts)])
    try:
        cells = np.array(",".join(line for _, line in rest).split(","), np.int64)
    except (ValueError, OverflowError):
        _name_no_number(path, rest)
        raise
    outside = (cells < 0) | (cells >= grid.blocked.size)
    blocked = ~outside & grid.blocked.reshape(-1)[np.where(outside, 0, cells)]
    for wrong, why in ((outside, "lies outside of the map"), (blocked, "lies inside a wall")):
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            line = int(lines[np.searchsorted(first, place, side="right") - 1])
            shown = f"{cells[place]} of {grid.height} x {grid.width} cells"
            if why.endswith("wall"):
                shown = f"{cells[place]}, {_show(grid, int(cells[place]))},"
            raise UserError(f"{path}, line {line}: cell {shown} {why}, move it to a free cell")
    return cells.astype(np.int32), first, lines


def _name_no_number(path: Path, rows: list[tuple[int, str]]) -> None:
    """Raise ``UserError`` for the first line that holds something else than numbers."""
    for number, line in rows:
        for word in line.split(","):
            if not word.strip().lstrip("-").isdecimal() or len(word.strip()) > 18:
                raise UserError(f"{path}, line {number}: {word.strip()[:40]!r} is not a cell's number")


def _show(grid: GridMap, cell: int | np.int32) -> str:
    return f"[{int(cell) // grid.width}, {int(cell) % grid.width}]"


def given_goals(problem: Problem, horizon: int) -> tuple[NDArray[np.int32], ...]:
    """Each robot's tasks in order, as many as it could finish within ``horizon`` steps: int32 arrays, N of them.

    A task takes at least as many steps as it is cells away, and one at least. Raises ``UserError`` for errands and for
    ``greedy``, whose order is not known beforehand.
    """
    n, total = problem.n_agents, problem.n_tasks
    if problem.errands or problem.strategy == "greedy":
        kind = "errands that a scheduler assigns" if problem.errands else "tasks for whoever comes first (greedy)"
        raise UserError(f"{problem.source} has {kind}, no tasks that belong to robots")
    width = problem.grid.width
    rounds = np.arange(-(-total // n) if problem.strategy == "roundrobin_fixed" else horizon + 1)
    given = []
    for robot in range(n):
        here, left, taken = problem.starts[robot], horizon, 0
        goals: list[NDArray[np.int32]] = []
        while left > 0 and taken < rounds.size:
            chunk = rounds[taken : taken + 64] * n + robot
            if problem.strategy == "roundrobin_fixed":
                chunk = chunk[chunk < total]
            cells = problem.stops[chunk % total]
            before = np.concatenate([[here], cells[:-1]])
            steps = np.abs(cells // width - before // width) + np.abs(cells % width - before % width)
            spent = np.cumsum(np.maximum(steps, 1))
            within = int(np.searchsorted(spent, left)) + 1
            goals.append(cells[:within])
            taken += 64
            if within <= cells.size or cells.size < 64:
                break
            left -= int(spent[-1])
            here = cells[-1]
        given.append(np.concatenate(goals) if goals else np.empty(0, np.int32))
    for robot, cells in enumerate(given):
        _check_reach(problem, robot, cells)
    return tuple(given)


def _check_reach(problem: Problem, robot: int, goals: NDArray[np.int32]) -> None:
    component = problem.grid.component.reshape(-1)
    if goals.size == 0:
        raise UserError(f"{problem.source}: robot {robot} has no task, give each robot one at least")
    apart = np.flatnonzero(component[goals] != component[problem.starts[robot]])
    if apart.size:
        grid = problem.grid
        raise UserError(
            f"{problem.source}, robot {robot}: task {apart[0]} at {_show(grid, goals[apart[0]])} cannot be reached "
            f"from the start {_show(grid, problem.starts[robot])}, move it"
        )
