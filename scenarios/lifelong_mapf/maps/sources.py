"""Where maps come from: a file, a shipped map, or a generator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from marl.errors import UserError, nearest
from scenarios.lifelong_mapf.maps.foreign import (
    is_kiva,
    is_multi_robot,
    load_kiva,
    load_multi_robot,
    load_primal,
    refuse_other_yaml,
)
from scenarios.lifelong_mapf.maps.formats import (
    PogemaMap,
    Row,
    load_movingai,
    load_pogema_set,
    parse_map,
    parse_pogema,
    read_text,
    save_movingai,
    save_pogema,
)
from scenarios.lifelong_mapf.maps.generators import Generator, MazeMap, RandomMap, RoomsMap, WarehouseMap
from scenarios.lifelong_mapf.maps.grid import MAX_SIDE, GridMap, check_capacity, components, largest_component

__all__ = [
    "MAX_SIDE",
    "Generator",
    "GridMap",
    "MapSource",
    "MazeMap",
    "RandomMap",
    "RoomsMap",
    "WarehouseMap",
    "check_capacity",
    "components",
    "find_map",
    "largest_component",
    "load_map",
    "load_maps",
    "maps_folder",
    "save_movingai",
    "save_pogema",
    "shipped_maps",
]

#: What tables call a map that was given as text or as an array.
INLINE = "inline"

_SUFFIXES = (".map", ".yaml", ".yml", ".npy")
_SUFFIXES_END = re.compile(r"\.(map|ya?ml|npy)$", re.IGNORECASE)
_SET = re.compile(r"(?P<file>.+\.ya?ml)(?::(?P<name>.+))?", re.DOTALL)


def maps_folder() -> Path:
    """The folder of the shipped grids: inside the package when installed, beside it in the repository."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "maps" / "grids"
    return installed if installed.is_dir() else package.parent / "maps" / "grids"


def shipped_maps() -> list[str]:
    """The names of the shipped maps, sorted."""
    return sorted(path.stem for path in maps_folder().iterdir() if path.suffix in _SUFFIXES)


def _existing_file(path: Path) -> bool:
    """Whether the path is a map file; ``UserError`` if it is something else."""
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder, name a map file in it")
        if not path.is_file():
            return False
    except (OSError, ValueError):
        return False
    if path.suffix.lower() not in _SUFFIXES:
        raise UserError(f"{path} is no map file, use a MovingAI .map, a POGEMA .yaml or an array .npy")
    return True


def _nearest_map(file: str) -> str:
    """The end of an error sentence: the nearest map file beside the one that is missing, or the shipped maps."""
    path = Path(file)
    try:
        siblings = [entry.name for entry in path.parent.iterdir() if entry.suffix in _SUFFIXES]
    except (OSError, ValueError):
        siblings = []
    hint = nearest(path.name, siblings)
    return hint if "did you mean" in hint else nearest(file, shipped_maps())


class MapSource(NamedTuple):
    """Where a specification of maps leads: an existing file, and the map's name in it where one is named.

    spec: the specification, for errors. text: the map itself, where the specification is one; path is then a name.
    """

    spec: str
    path: Path
    name: str | None
    text: str | None = None

    def maps(self) -> list[GridMap]:
        """All maps: several only of a set of which none is named."""
        if self.text is not None:
            return [parse_map(self.text, self.path)]
        if self.path.suffix.lower() == ".npy":
            grid = load_primal(self.path).grid
            assert grid is not None
            return [grid]
        text = read_text(self.path)
        if self.path.suffix.lower() == ".map":
            return [load_kiva(self.path) if is_kiva(text) else load_movingai(self.path)]
        if is_multi_robot(text):
            grid = load_multi_robot(self.path).grid
            assert grid is not None
            return [grid]
        refuse_other_yaml(self.path, text)
        return [parse_pogema(name, rows, self.path).grid for name, rows in self._rows().items()]

    def map(self) -> GridMap:
        """The one map; ``UserError`` if there are several."""
        maps = self.maps()
        self._check_one([grid.name for grid in maps])
        return maps[0]

    def lettered(self) -> PogemaMap:
        """The one map of a POGEMA set, with the letters on it."""
        rows = self._rows()
        self._check_one(list(rows))
        name = next(iter(rows))
        return parse_pogema(name, rows[name], self.path)

    def _rows(self) -> dict[str, list[Row]]:
        rows = load_pogema_set(self.path)
        if self.name is None:
            return rows
        if self.name not in rows:
            raise UserError(f"{self.path} has no map '{self.name}'{nearest(self.name, list(rows)[:20])}")
        return {self.name: rows[self.name]}

    def _check_one(self, names: list[str]) -> None:
        if len(names) > 1:
            raise UserError(f"{self.spec} holds {len(names)} maps, name one of them, such as {self.spec}:{names[0]}")


def find_map(spec: str, beside: Path | None = None) -> MapSource:
    """Where a specification leads. Only this asks the disk what there is; ``UserError`` if nothing is.

    Args:
        spec: a file (``.map``, ``.yaml``, ``.yml``, ``.npy``), one map of a set (``FILE.yaml:NAME``), a shipped map's
            name, or the rows of a map themselves.
        beside: a folder to look in first.
    """
    if "\n" in spec:
        return MapSource("the map", Path(INLINE), None, spec)
    match = _SET.fullmatch(spec)
    file, name = (match["file"], match["name"]) if match else (spec, None)
    if beside is not None and _SUFFIXES_END.search(file) and _existing_file(beside / file):
        return MapSource(spec, beside / file, name)
    for shipped in maps_folder().iterdir():
        if shipped.suffix in _SUFFIXES and file == shipped.stem:
            return MapSource(spec, shipped, name)
    if file.strip() and _existing_file(Path(file)):
        return MapSource(spec, Path(file), name)
    raise UserError(f"map {spec!r} does not exist{_nearest_map(file)} (shipped maps are in {maps_folder()})")


def load_maps(spec: str, beside: Path | None = None) -> list[GridMap]:
    """All maps that a specification names (``find_map``)."""
    return find_map(spec, beside).maps()


def load_map(spec: str, beside: Path | None = None) -> GridMap:
    """The one map that a specification names (``find_map``)."""
    return find_map(spec, beside).map()
