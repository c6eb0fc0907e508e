"""Instances and maps as other tools write them.

- libMultiRobotPlanning ``.yaml``: ``map`` (``dimensions`` [width, height], ``obstacles``) and ``agents`` (``start``,
  ``goal``), cells as [x, y], x the column. Source: whoenig/libMultiRobotPlanning, ``benchmark``.
- RHCR's ``kiva.map``: a line ``rows,columns``, three numbers, then the cells: ``@`` wall, ``e`` (and ``w``) where goals
  lie, ``r`` where robots start, anything else to drive on. Source: Jiaoyang-Li/RHCR, ``KivaGraph.cpp``.
- pibt2's instances ``.txt``: ``key=value`` lines, then ``x,y,x,y`` of start and goal. Source: Kei18/pibt2.
- PRIMAL's environments ``.npy``: int [2, H, W], first -1 walls, 0 free, n robot n, then n on the goal of robot n.
  Source: gsartoretti/distributedRL_MAPF.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from marl import files
from marl.errors import UserError
from scenarios.lifelong_mapf.maps.formats import MAX_BYTES, Row, read_text
from scenarios.lifelong_mapf.maps.grid import MAX_SIDE, GridMap

Cell = tuple[int, int]

_KEY = re.compile(r"^([A-Za-z_]\w*)\s*:", re.MULTILINE)
_KIVA = re.compile(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*")


class Instance(NamedTuple):
    """One start and goals of each robot, cells as (row, column). map: its file's name, where the map is not inside."""

    grid: GridMap | None
    map: str | None
    starts: list[Cell]
    goals: list[list[Cell]]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the fast one, where there is one
    """Reads cells that Python has written as tuples, too."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node))


def top_keys(text: str) -> set[str]:
    """The keys at the left edge of a YAML text."""
    return set(_KEY.findall(text))


def is_multi_robot(text: str) -> bool:
    """Whether a YAML text is an instance of libMultiRobotPlanning."""
    return {"map", "agents"} <= top_keys(text)


def refuse_other_yaml(path: Path, text: str) -> None:
    """``UserError`` for YAML files that are known, and hold neither a map nor an instance."""
    keys = top_keys(text)
    if "environment" in keys:
        raise UserError(
            f"{path} looks like an evaluation of POGEMA, which names maps of a set: play these with "
            "--map SET.yaml:NAME --agents 8,16 --seeds 0:10"
        )
    if {"scenario", "world", "system"} & keys:
        raise UserError(f"{path} looks like a configuration of marl, not like a map: give it to marl train --config")


def load_multi_robot(path: Path) -> Instance:
    """An instance of libMultiRobotPlanning."""
    try:
        values = yaml.load(read_text(path), Loader=_Loader)  # a safe loader and a tag for lists
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark: Any = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
        raise UserError(f"{where}: it cannot be read: {getattr(error, 'problem', None) or 'it is no YAML'}") from None
    grid, agents = values.get("map"), values.get("agents")
    if not isinstance(grid, dict) or not isinstance(agents, list) or not agents:
        raise UserError(
            f"{path} needs map (dimensions, obstacles) and agents (start, goal), as libMultiRobotPlanning has"
        )
    width, height = _pair(path, "map: dimensions", grid.get("dimensions"))
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise UserError(f"{path}: dimensions are {width} x {height}, use 1 to {MAX_SIDE} a side")
    blocked = np.zeros((height, width), np.bool_)
    for number, obstacle in enumerate(grid.get("obstacles") or []):
        x, y = _pair(path, f"obstacle {number}", obstacle)
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"{path}: obstacle {number} at [{x}, {y}] lies outside of {width} x {height} cells")
        blocked[y, x] = True
    starts, goals = [], []
    for number, agent in enumerate(agents):
        if not isinstance(agent, dict) or "goal" not in agent:
            kind = (
                "several possible goals, one of which would have to be chosen"
                if "potentialGoals" in (agent or {})
                else "no goal"
            )
            raise UserError(f"{path}, agent {number}: it has {kind}; give it 'start' and 'goal'")
        (x, y), (to_x, to_y) = (_pair(path, f"agent {number}, {key}", agent.get(key)) for key in ("start", "goal"))
        starts.append((y, x))
        goals.append([(to_y, to_x)])
    return Instance(GridMap.open_everywhere(path.stem, blocked), None, starts, goals)


def _pair(path: Path, what: str, value: Any) -> tuple[int, int]:
    """Two whole numbers; those of three dimensions are refused as well."""
    if not isinstance(value, list) or len(value) != 2 or not all(type(number) is int for number in value):
        raise UserError(f"{path}, {what}: {str(value)[:40]} is not [x, y]")
    return value[0], value[1]


def is_kiva(text: str) -> bool:
    """Whether a map begins as RHCR's do."""
    return _KIVA.fullmatch(text.partition("\n")[0]) is not None


def load_kiva(path: Path) -> GridMap:
    """RHCR's warehouse."""
    lines = read_text(path).splitlines()
    match = _KIVA.fullmatch(lines[0])
    assert match is not None
    height, width = int(match[1]), int(match[2])
    rows = [Row(text, number) for number, text in enumerate(lines[4:], start=5)]
    while rows and not rows[-1].text.strip():
        rows.pop()
    if len(rows) != height:
        raise UserError(
            f"{path} has {len(rows)} rows of cells after its four lines of numbers, its header says {height}"
        )
    if not (1 <= width <= MAX_SIDE and height <= MAX_SIDE):
        raise UserError(f"{path} is {height} x {width} cells, use 1 to {MAX_SIDE} a side")
    for text, number in rows:
        if len(text) != width:
            raise UserError(f"{path}, line {number}: the row has {len(text)} cells, the header says {width}")
    cells = np.array([list(text) for text, _ in rows])
    blocked, goals, homes = cells == "@", np.isin(cells, ("e", "w")), cells == "r"
    # Without marks robots may start, and goals may lie, anywhere.
    return GridMap(path.stem, blocked, homes if homes.any() else ~blocked, goals if goals.any() else ~blocked)


def load_pibt2(path: Path) -> Instance:
    """An instance of pibt2 with given starts and goals; the map is a file beside it."""
    values: dict[str, str] = {}
    starts, goals = [], []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        key, equals, value = text.partition("=")
        if equals:
            values[key.strip()] = value.strip()
            continue
        try:
            x, y, to_x, to_y = (int(word) for word in text.split(","))
        except ValueError:
            raise UserError(f"{path}, line {number}: expected key=value or x,y,x,y of a start and its goal") from None
        starts.append((y, x))
        goals.append([(to_y, to_x)])
    if "map_file" not in values:
        raise UserError(f"{path} names no map_file, so it is no instance of pibt2")
    wanted = values.get("agents", str(len(starts)))
    if not starts:
        raise UserError(f"{path} leaves starts and goals to chance: use --map {values['map_file']} --agents {wanted}")
    if wanted.isdecimal() and int(wanted) > len(starts):
        raise UserError(f"{path} has {len(starts)} starts and goals, and says agents={wanted}: add some, or say fewer")
    count = int(wanted) if wanted.isdecimal() else len(starts)
    return Instance(None, values["map_file"], starts[:count], goals[:count])


def load_primal(path: Path) -> Instance:
    """An environment of PRIMAL."""
    try:
        values = np.load(io.BytesIO(files.read_limited(path, MAX_BYTES)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is no array that numpy reads without running code: {error}") from None
    if values.ndim == 2:
        return Instance(GridMap.open_everywhere(path.stem, _walls(values)), None, [], [])
    if values.ndim != 3 or values.shape[0] != 2 or min(values.shape) < 1:
        shape = " x ".join(map(str, values.shape)) or "a number"
        raise UserError(f"{path} is {shape}, use [2, H, W] (robots and walls, goals) or [H, W] (walls)")
    world, aims = values
    starts, goals = [], []
    for number in range(1, int(world.max(initial=0)) + 1):
        places = [np.argwhere(plane == number) for plane in (world, aims)]
        for place, what in zip(places, ("start", "goal"), strict=True):
            if len(place) != 1:
                raise UserError(f"{path}: robot {number} has {len(place)} cells as its {what}, give it one")
        (row, column), (to_row, to_column) = (place[0].tolist() for place in places)
        starts.append((row, column))
        goals.append([(to_row, to_column)])
    return Instance(GridMap.open_everywhere(path.stem, world == -1), None, starts, goals)


def _walls(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Walls of a plain array: where it is not 0, or where it is negative if it has robots' numbers too."""
    negative: NDArray[np.bool_] = values < 0
    return negative if negative.any() else values != 0


def map_text(value: Any) -> Any:
    """An array (0 free, anything else a wall) or rows of text as the text of a map; anything else as it is.

    Raises ``ValueError`` for one that is not a rectangle.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return value
    if all(isinstance(row, str) for row in value):
        return "".join(f"{row}\n" for row in value)
    if not all(isinstance(row, Sequence) and len(row) == len(value[0]) for row in value):
        raise ValueError("rows of a map must be texts, or lists of 0 and 1, of one length")
    return "".join("".join("#" if cell else "." for cell in row) + "\n" for row in value)
