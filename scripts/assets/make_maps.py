"""Write the shipped grids (maps/grids) with the generators: .venv/bin/python scripts/assets/make_maps.py [FOLDER]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scenarios.lifelong_mapf.maps.grid import GridMap
from scenarios.lifelong_mapf.maps.sources import (
    MazeMap,
    RandomMap,
    RoomsMap,
    WarehouseMap,
    save_movingai,
    save_pogema,
)

#: File name -> generator and seed. A warehouse needs start and goal cells, which only POGEMA's format holds.
SHIPPED: dict[str, tuple[RandomMap | MazeMap | RoomsMap | WarehouseMap, int]] = {
    "random.map": (RandomMap(size=20, density=0.2), 1),
    "maze.map": (MazeMap(size=21), 1),
    "rooms.map": (RoomsMap(rows=4, columns=4, room=5), 1),
    "warehouse.yaml": (WarehouseMap(shelf_rows=8, shelf_columns=3, shelf_length=10), 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "maps" / "grids")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, (generator, seed) in SHIPPED.items():
        path = folder / name
        made = generator.generate(seed)
        grid = GridMap(path.stem, made.blocked, made.starts, made.goals)
        if path.suffix == ".yaml":
            save_pogema([grid], path)
        else:
            save_movingai(grid, path)
        print(f"{path}: {grid.height} x {grid.width}, {grid.starts.sum()} starts, {grid.goals.sum()} goals")


if __name__ == "__main__":
    main()
