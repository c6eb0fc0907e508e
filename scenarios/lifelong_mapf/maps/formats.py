"""Map files: MovingAI ``.map`` and POGEMA map sets in YAML.

Every fault of a file raises ``UserError`` with the file and, where there is one, the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from marl import files
from marl.errors import UserError
from scenarios.lifelong_mapf.maps.grid import MAX_SIDE, GridMap

#: Large enough for a map of MAX_SIDE x MAX_SIDE cells.
MAX_BYTES = 20_000_000

_MOVINGAI_FREE, _MOVINGAI_BLOCKED = ".GSE", "@OTW"
_POGEMA_MARKS = "@$!"
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Row(NamedTuple):
    """One line of cells, and its number in the file."""

    text: str
    line: int


class PogemaMap(NamedTuple):
    """A map of a POGEMA set; ``starts`` and ``goals`` are the cells of lower and upper case letters, by letter."""

    grid: GridMap
    starts: dict[str, tuple[int, int]]
    goals: dict[str, tuple[int, int]]


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file, refused if it is larger than ``max_bytes``."""
    text = files.read_text(path, max_bytes)
    if not text.strip():
        raise UserError(f"{path} is empty")
    return text


def _cells(rows: Sequence[Row], path: Path, symbols: str) -> NDArray[np.uint8]:
    """Character codes [H, W] of rows that are all as long as the first one and hold only ``symbols``."""
    width = len(rows[0].text)
    if len(rows) > MAX_SIDE or width > MAX_SIDE:
        raise UserError(f"{path}: the map is {len(rows)} x {width} cells, use at most {MAX_SIDE} a side")
    known = np.zeros(256, np.bool_)
    known[list(symbols.encode())] = True
    codes = np.empty((len(rows), width), np.uint8)
    for index, (text, line) in enumerate(rows):
        if len(text) != width:
            raise UserError(f"{path}, line {line}: the row has {len(text)} cells, the rows above have {width}")
        codes[index] = np.frombuffer(text.encode("ascii", errors="replace"), np.uint8)
        if not known[codes[index]].all():
            column = int(np.argmin(known[codes[index]]))
            raise UserError(
                f"{path}, line {line}: {text[column]!r} in column {column} is not one of {' '.join(symbols)}"
            )
    return codes


def _is_any(codes: NDArray[np.uint8], symbols: str) -> NDArray[np.bool_]:
    return np.isin(codes, np.frombuffer(symbols.encode(), np.uint8))


def load_movingai(path: Path) -> GridMap:
    """A MovingAI ``.map``: '@ O T W' are blocked, '. G S' free, and so is 'E' of the League of Robot Runners.

    Source: Sturtevant, "Benchmarks for grid-based pathfinding", 2012; MAPF-Competition/Start-Kit v3.1.0.
    """
    return _parse_movingai(read_text(path), path)


def parse_map(text: str, path: Path) -> GridMap:
    """A map from its text: MovingAI's with its header, else rows in POGEMA's symbols. path: its name, for errors."""
    if text.lstrip().startswith("type "):
        return _parse_movingai(text.lstrip(), path)
    rows = [Row(line.strip(), number) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    return parse_pogema(path.stem, rows, path).grid


def _parse_movingai(text: str, path: Path) -> GridMap:
    lines = text.splitlines()
    header: dict[str, int] = {}
    body = None
    for number, line in enumerate(lines[:16], start=1):
        words = line.split()
        if words == ["map"]:
            body = number
            break
        if len(words) == 2 and words[0] in ("height", "width") and re.fullmatch("[0-9]{1,9}", words[1]):
            header[words[0]] = int(words[1])
        elif words and words != ["type", "octile"]:
            raise UserError(f"{path}, line {number}: expected 'type octile', 'height N', 'width N' or 'map'")
    if body is None or len(header) < 2:
        raise UserError(f"{path} has no MovingAI header, begin it with 'type octile', 'height N', 'width N' and 'map'")
    rows = [Row(text, number) for number, text in enumerate(lines[body:], start=body + 1)]
    while rows and not rows[-1].text.strip():
        rows.pop()
    height, width = header["height"], header["width"]
    if len(rows) != height:
        raise UserError(f"{path} has {len(rows)} rows of cells, its header says height {height}")
    if not rows:
        raise UserError(f"{path} holds no cells")
    if len(rows[0].text) != width:
        raise UserError(
            f"{path}, line {body + 1}: the row has {len(rows[0].text)} cells, the header says width {width}"
        )
    codes = _cells(rows, path, _MOVINGAI_FREE + _MOVINGAI_BLOCKED)
    return GridMap.open_everywhere(path.stem, _is_any(codes, _MOVINGAI_BLOCKED))


def save_movingai(grid: GridMap, path: Path) -> None:
    """Write the obstacles as a MovingAI ``.map``; the format has no place for start and goal cells."""
    rows = ["".join(row) for row in np.where(grid.blocked, "@", ".")]
    path.write_text("\n".join(["type octile", f"height {grid.height}", f"width {grid.width}", "map", *rows, ""]))


def load_pogema_set(path: Path) -> dict[str, list[Row]]:
    """The maps of a POGEMA set by name, as rows for ``parse_pogema``; see ``_read_pogema_set``."""
    try:
        changed = path.stat()
    except OSError:
        return _read_pogema_set(path)  # says what is wrong with it
    return _known_pogema_set(path, changed.st_mtime_ns, changed.st_size)


@lru_cache(maxsize=4)
def _known_pogema_set(path: Path, changed: int, size: int) -> dict[str, list[Row]]:
    """Many task files name maps of one set. changed, size: of the file, so that a new one is read again."""
    return _read_pogema_set(path)


def _read_pogema_set(path: Path) -> dict[str, list[Row]]:
    """The maps of a POGEMA set by name, as rows for ``parse_pogema``: the 'name: text' pairs of a YAML file.

    Read from the parser's events: nothing is built, so aliases, which can expand without bound, do no harm; they and
    nested data are refused where they stand.
    """
    texts: dict[str, list[Row]] = {}
    name: str | None = None
    depth = 0
    events: Iterator[Any] = yaml.parse(read_text(path), Loader=_YAML_LOADER)
    try:
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.MappingStartEvent) and depth == 0:
                depth = 1
            elif isinstance(event, yaml.ScalarEvent) and depth == 1 and name is None:
                name = event.value
                if name in texts:
                    raise UserError(f"{path}, line {line}: map '{name}' comes twice, rename one of them")
            elif isinstance(event, yaml.ScalarEvent) and depth == 1 and name is not None:
                first = line + (event.style == "|")
                texts[name] = [
                    Row(word, first + index if event.style == "|" else line)
                    for index, text in enumerate(event.value.splitlines())
                    for word in text.split()
                ]
                name = None
            elif isinstance(event, yaml.NodeEvent):
                raise UserError(f"{path}, line {line}: a map set holds only 'name: |-' followed by the rows of the map")
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        place = str(path) if mark is None else f"{path}, line {mark.line + 1}"
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is no YAML"
        raise UserError(f"{place}: the map set cannot be read: {reason}") from None
    if not texts:
        raise UserError(f"{path} holds no map")
    return texts


def parse_pogema(name: str, rows: Sequence[Row], path: Path) -> PogemaMap:
    """A map in POGEMA's symbols, by the rule of its release 1.4.0 (``GridConfig.str_map_to_list``).

    '#' is blocked and everything else free. '.' may be a start and a goal, '@' only a start, '$' only a goal, '!'
    neither. A lower case letter is the start of an agent, the same letter in upper case its goal; letters do not mix
    with '@ $ !'. Unlike POGEMA, which then falls back on all free cells, a map whose marks leave no start or no goals
    is refused.
    """
    if not rows:
        raise UserError(f"{path}: map '{name}' is empty")
    letters = "abcdefghijklmnopqrstuvwxyz"
    codes = _cells(rows, path, ".#" + _POGEMA_MARKS + letters + letters.upper())
    lettered = np.argwhere(_is_any(codes, letters + letters.upper()))
    if len(lettered) and _is_any(codes, _POGEMA_MARKS).any():
        raise UserError(f"{path}: map '{name}' mixes letters with '@ $ !', use one or the other")
    starts: dict[str, tuple[int, int]] = {}
    goals: dict[str, tuple[int, int]] = {}
    for row, col in lettered.tolist():
        letter = chr(codes[row, col])
        cells = starts if letter.islower() else goals
        if letter.lower() in cells:
            raise UserError(f"{path}, line {rows[row].line}: the letter '{letter}' comes twice in map '{name}'")
        cells[letter.lower()] = (row, col)
    if starts.keys() != goals.keys():
        odd = sorted(starts.keys() ^ goals.keys())[0]
        raise UserError(f"{path}: map '{name}' needs both '{odd}' (a start) and '{odd.upper()}' (its goal)")
    grid = GridMap(name, _is_any(codes, "#"), ~_is_any(codes, "#$!"), ~_is_any(codes, "#@!"))
    return PogemaMap(grid, starts, goals)


def save_pogema(grids: Sequence[GridMap], path: Path) -> None:
    """Write maps as a POGEMA set; start and goal cells are kept."""
    blocks = []
    for grid in grids:
        marks = np.select([grid.blocked, grid.starts & grid.goals, grid.starts, grid.goals], ["#", ".", "@", "$"], "!")
        rows = "\n".join("  " + "".join(row) for row in marks)
        blocks.append(f'"{grid.name}": |-\n{rows}\n')
    path.write_text("".join(blocks))
