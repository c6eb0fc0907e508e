"""Map generators: ``random``, ``maze``, ``warehouse`` and ``rooms``.

A generator is a small pydantic model, so that it can stand in a configuration; ``generate(seed)`` makes the map. The
same parameters and seed give the same map on every machine (``marl.seeding``). Starts and goals lie in the largest
connected component; free cells outside of it stay free but are neither.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from marl.compiled import njit
from marl.errors import UserError
from marl.seeding import Stream, below_numba, fold, fold_int, fold_numba, uniform
from scenarios.lifelong_mapf.maps.grid import MAX_SIDE, BoolGrid, GridMap, largest_component


class _Draw(IntEnum):
    """What a random number of a generator is for."""

    OBSTACLES = Stream.WORLD + 100
    TREE = Stream.WORLD + 101
    OPENINGS = Stream.WORLD + 102
    DOORS = Stream.WORLD + 103
    SHELVES = Stream.WORLD + 104


def _uniforms(seed: int, draw: _Draw, count: int) -> NDArray[np.float32]:
    """``count`` independent uniform numbers in [0, 1)."""
    key = torch.tensor(fold_int(seed, draw))
    numbers: NDArray[np.float32] = uniform(fold(key, torch.arange(count))).numpy()
    return numbers


@njit
def _spanning_tree(rows: int, cols: int, key: np.int64) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A random spanning tree of the rows x cols lattice by depth-first search, which makes long winding passages.

    Returns ``down`` and ``right``, bool [rows, cols]: the edge from a node to its lower or right neighbour is in the
    tree.
    """
    down = np.zeros((rows, cols), np.bool_)
    right = np.zeros((rows, cols), np.bool_)
    seen = np.zeros(rows * cols, np.bool_)
    stack = np.empty(rows * cols, np.int64)
    choices = np.empty(4, np.int64)
    stack[0] = below_numba(fold_numba(key, np.int64(0)), np.int64(rows * cols))
    seen[stack[0]] = True
    depth = 1
    counter = np.int64(0)
    while depth > 0:
        node = stack[depth - 1]
        row, col = node // cols, node % cols
        count = 0
        if row > 0 and not seen[node - cols]:
            choices[count] = node - cols
            count += 1
        if row < rows - 1 and not seen[node + cols]:
            choices[count] = node + cols
            count += 1
        if col > 0 and not seen[node - 1]:
            choices[count] = node - 1
            count += 1
        if col < cols - 1 and not seen[node + 1]:
            choices[count] = node + 1
            count += 1
        if count == 0:
            depth -= 1
            continue
        counter += 1
        chosen = choices[below_numba(fold_numba(key, counter), np.int64(count))]
        if chosen // cols != row:
            down[min(row, chosen // cols), col] = True
        else:
            right[row, min(col, chosen % cols)] = True
        seen[chosen] = True
        stack[depth] = chosen
        depth += 1
    return down, right


def _passages(rows: int, cols: int, openings: float, seed: int) -> tuple[BoolGrid, BoolGrid]:
    """Open edges of a lattice of places: a spanning tree, and every other edge with probability ``openings``."""
    down, right = _spanning_tree(rows, cols, np.int64(fold_int(seed, _Draw.TREE)))
    extra = _uniforms(seed, _Draw.OPENINGS, 2 * rows * cols).reshape(2, rows, cols) < openings
    return down | extra[0], right | extra[1]


class _Generator(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def _shape(self) -> tuple[int, int]:
        """Rows and columns; each generator gives its own."""
        raise NotImplementedError

    def _check_size(self) -> None:
        height, width = self._shape()
        if max(height, width) > MAX_SIDE:
            raise UserError(f"the generated map would be {height} x {width} cells, use at most {MAX_SIDE} a side")


class _Sized(_Generator):
    size: int = Field(20, ge=2, le=1024, description="rows and columns, unless height or width say otherwise")
    height: int | None = Field(None, ge=2, le=1024, description="rows; default: size")
    width: int | None = Field(None, ge=2, le=1024, description="columns; default: size")

    def _shape(self) -> tuple[int, int]:
        return self.height or self.size, self.width or self.size


class RandomMap(_Sized):
    """Each cell is an obstacle with probability ``density``."""

    kind: Literal["random"] = "random"
    density: float = Field(0.2, ge=0.0, le=0.9, description="probability that a cell is an obstacle")

    def generate(self, seed: int) -> GridMap:
        height, width = self._shape()
        blocked = _uniforms(seed, _Draw.OBSTACLES, height * width).reshape(height, width) < self.density
        reachable = largest_component(blocked)
        return GridMap(f"random-{height}x{width}-{seed}", blocked, reachable, reachable)


class MazeMap(_Sized):
    """Corridors one cell wide between walls one cell thick: a random spanning tree plus extra openings.

    Corridor junctions lie on even rows and columns, and the border of the map is open corridor; with an even height
    (width) the last row (column) is wall.
    """

    kind: Literal["maze"] = "maze"
    size: int = Field(21, ge=3, le=1024, description="rows and columns, unless height or width say otherwise")
    openings: float = Field(0.25, ge=0.0, le=1.0, description="share of the walls between corridors that are opened")

    def generate(self, seed: int) -> GridMap:
        height, width = self._shape()
        rows, cols = (height + 1) // 2, (width + 1) // 2
        down, right = _passages(rows, cols, self.openings, seed)
        free = np.zeros((2 * rows, 2 * cols), np.bool_)
        free[::2, ::2] = True
        free[1::2, ::2] = down
        free[::2, 1::2] = right
        free[2 * rows - 1 :] = False
        free[:, 2 * cols - 1 :] = False
        blocked = np.ones((height, width), np.bool_)
        blocked[: 2 * rows, : 2 * cols] = ~free[:height, :width]
        return GridMap.open_everywhere(f"maze-{height}x{width}-{seed}", blocked)


class RoomsMap(_Generator):
    """Square rooms with walls one cell thick; doors join all rooms, and further neighbours by chance."""

    kind: Literal["rooms"] = "rooms"
    rows: int = Field(4, ge=1, le=256, description="rooms from top to bottom")
    columns: int = Field(4, ge=1, le=256, description="rooms from left to right")
    room: int = Field(5, ge=2, le=64, description="side of a room, in cells")
    door: int = Field(1, ge=1, le=64, description="width of a door, in cells, at most the side of a room")
    openings: float = Field(0.5, ge=0.0, le=1.0, description="probability of a door that connectivity does not need")

    def _shape(self) -> tuple[int, int]:
        return self.rows * (self.room + 1) - 1, self.columns * (self.room + 1) - 1

    def generate(self, seed: int) -> GridMap:
        self._check_size()
        height, width = self._shape()
        pitch, door = self.room + 1, min(self.door, self.room)
        down, right = _passages(self.rows, self.columns, self.openings, seed)
        blocked = np.zeros((height, width), np.bool_)
        blocked[self.room :: pitch] = True
        blocked[:, self.room :: pitch] = True
        places = _uniforms(seed, _Draw.DOORS, 2 * self.rows * self.columns) * (self.room - door + 1)
        offsets = places.astype(np.int64).reshape(2, self.rows, self.columns)
        for row, col in np.argwhere(down[:-1]):
            left = col * pitch + offsets[0, row, col]
            blocked[row * pitch + self.room, left : left + door] = False
        for row, col in np.argwhere(right[:, :-1]):
            top = row * pitch + offsets[1, row, col]
            blocked[top : top + door, col * pitch + self.room] = False
        return GridMap.open_everywhere(f"rooms-{height}x{width}-{seed}", blocked)


class WarehouseMap(_Generator):
    """A fulfilment warehouse: blocks of shelves between aisles, start stations on the left and on the right.

    Goals are the free cells directly above and below a shelf; starts are the station columns. Aisle and margin cells
    are neither, so that traffic can pass.
    """

    kind: Literal["warehouse"] = "warehouse"
    shelf_rows: int = Field(8, ge=1, le=256, description="shelf blocks from top to bottom")
    shelf_columns: int = Field(3, ge=1, le=256, description="shelf blocks from left to right")
    shelf_length: int = Field(10, ge=1, le=128, description="columns of one shelf block")
    shelf_depth: int = Field(1, ge=1, le=16, description="rows of one shelf block")
    aisle: int = Field(3, ge=1, le=16, description="free rows between shelf blocks")
    cross_aisle: int = Field(1, ge=1, le=16, description="free columns between shelf blocks")
    stations: int = Field(2, ge=1, le=16, description="station strips on each side, two columns each")
    missing: float = Field(0.0, ge=0.0, le=0.9, description="probability that a shelf block is left out")

    @property
    def _margin(self) -> int:
        return 1 + 3 * self.stations

    def _shape(self) -> tuple[int, int]:
        height = self.shelf_rows * (self.shelf_depth + self.aisle) + self.aisle
        shelves = self.shelf_columns * (self.shelf_length + self.cross_aisle) - self.cross_aisle
        return height, shelves + 2 * self._margin

    def generate(self, seed: int) -> GridMap:
        self._check_size()
        height, width = self._shape()
        blocked, goals, starts = (np.zeros((height, width), np.bool_) for _ in range(3))
        draws = _uniforms(seed, _Draw.SHELVES, self.shelf_rows * self.shelf_columns)
        present = draws.reshape(self.shelf_rows, self.shelf_columns) >= self.missing
        # Something has to be fetched somewhere: an empty warehouse has no goals.
        present.flat[draws.argmax()] = True
        for row, col in np.argwhere(present):
            top = self.aisle + row * (self.shelf_depth + self.aisle)
            left = self._margin + col * (self.shelf_length + self.cross_aisle)
            blocked[top : top + self.shelf_depth, left : left + self.shelf_length] = True
            goals[[top - 1, top + self.shelf_depth], left : left + self.shelf_length] = True
        for strip in range(self.stations):
            left = 1 + 3 * strip
            starts[1:-1, left : left + 2] = True
            starts[1:-1, width - left - 2 : width - left] = True
        return GridMap(f"warehouse-{height}x{width}-{seed}", blocked, starts, goals)


#: A generator in a configuration, told apart by ``kind``.
Generator = Annotated[RandomMap | MazeMap | RoomsMap | WarehouseMap, Field(discriminator="kind")]
