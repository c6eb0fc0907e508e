"""Where maps come from: a file, a shipped map, or a generator."""

from __future__ import annotations

import re
from pathlib import Path

from marl.errors import UserError, nearest
from scenarios.lifelong_mapf.maps.formats import (
    load_movingai,
    load_pogema_set,
    parse_pogema,
    save_movingai,
    save_pogema,
)
from scenarios.lifelong_mapf.maps.generators import Generator, MazeMap, RandomMap, RoomsMap, WarehouseMap
from scenarios.lifelong_mapf.maps.grid import MAX_SIDE, GridMap, check_capacity, components, largest_component

__all__ = [
    "MAX_SIDE",
    "Generator",
    "GridMap",
    "MazeMap",
    "RandomMap",
    "RoomsMap",
    "WarehouseMap",
    "check_capacity",
    "components",
    "largest_component",
    "load_map",
    "load_maps",
    "maps_folder",
    "save_movingai",
    "save_pogema",
    "shipped_maps",
    "split_spec",
]

_SUFFIXES = (".map", ".yaml", ".yml")
_SUFFIXES_END = re.compile(r"\.(map|ya?ml)$", re.IGNORECASE)
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
        raise UserError(f"{path} is no map file, use a MovingAI .map or a POGEMA .yaml")
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


def split_spec(spec: str, beside: Path | None = None) -> tuple[Path, str | None]:
    """The existing file of a map specification, and the map's name in it if the specification has one.

    spec: a file (``.map``, ``.yaml``, ``.yml``), one map of a set (``FILE.yaml:NAME``), or the name of a shipped map.
    beside: a folder to look in first.
    """
    match = _SET.fullmatch(spec)
    file, name = (match["file"], match["name"]) if match else (spec, None)
    if beside is not None and _SUFFIXES_END.search(file) and _existing_file(beside / file):
        return beside / file, name
    for shipped in maps_folder().iterdir():
        if shipped.suffix in _SUFFIXES and file == shipped.stem:
            return shipped, name
    if file.strip() and _existing_file(Path(file)):
        return Path(file), name
    raise UserError(f"map {spec!r} does not exist{_nearest_map(file)} (shipped maps are in {maps_folder()})")


def load_maps(spec: str, beside: Path | None = None) -> list[GridMap]:
    """All maps that a specification (see ``split_spec``) names: several only for a set without a name."""
    path, name = split_spec(spec, beside)
    if path.suffix.lower() == ".map":
        return [load_movingai(path)]
    texts = load_pogema_set(path)
    if name is not None and name not in texts:
        raise UserError(f"{path} has no map '{name}'{nearest(name, list(texts)[:20])}")
    chosen = texts if name is None else {name: texts[name]}
    return [parse_pogema(key, rows, path).grid for key, rows in chosen.items()]


def load_map(
    source: str | RandomMap | MazeMap | RoomsMap | WarehouseMap, seed: int = 0, beside: Path | None = None
) -> GridMap:
    """One map: of a specification (see ``split_spec``), or made by a generator from ``seed``."""
    if not isinstance(source, str):
        return source.generate(seed)
    maps = load_maps(source, beside)
    if len(maps) > 1:
        raise UserError(f"{source} holds {len(maps)} maps, name one of them, such as {source}:{maps[0].name}")
    return maps[0]
