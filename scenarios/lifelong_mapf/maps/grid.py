"""``GridMap``: a grid of free and blocked cells, and where agents may start and goals may lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from marl.errors import UserError

BoolGrid = NDArray[np.bool_]

#: Largest height and width of a map, in cells.
MAX_SIDE = 4096


@njit
def _label(blocked: NDArray[np.bool_], labels: NDArray[np.int32], queue: NDArray[np.int32]) -> int:
    """Flood fill with 4 neighbours; ``labels`` [H*W] comes in as -1, ``queue`` [H*W] is scratch. Returns the count."""
    height, width = blocked.shape
    count = 0
    for root in range(height * width):
        if labels[root] >= 0 or blocked[root // width, root % width]:
            continue
        labels[root] = count
        queue[0] = root
        head, tail = 0, 1
        while head < tail:
            row, col = queue[head] // width, queue[head] % width
            head += 1
            for move in range(4):
                next_row = row + (move == 1) - (move == 0)
                next_col = col + (move == 3) - (move == 2)
                if next_row < 0 or next_row >= height or next_col < 0 or next_col >= width:
                    continue
                cell = next_row * width + next_col
                if labels[cell] < 0 and not blocked[next_row, next_col]:
                    labels[cell] = count
                    queue[tail] = cell
                    tail += 1
        count += 1
    return count


def components(blocked: BoolGrid) -> NDArray[np.int32]:
    """Connected components (4 neighbours) of the free cells: int32 [H, W], 0, 1, ... in reading order, -1 blocked."""
    labels = np.full(blocked.size, -1, np.int32)
    _label(np.ascontiguousarray(blocked, dtype=np.bool_), labels, np.empty(blocked.size, np.int32))
    return labels.reshape(blocked.shape)


def largest_component(blocked: BoolGrid) -> BoolGrid:
    """The cells of the largest component (the first of equals), bool [H, W]; all False if no cell is free."""
    labels = components(blocked)
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    largest: BoolGrid = (labels == sizes.argmax()) & ~blocked
    return largest


@dataclass(frozen=True, eq=False)
class GridMap:
    """A map.

    name: what tables call it.
    blocked: bool [H, W], the obstacles.
    starts: bool [H, W], the cells where an agent may start.
    goals: bool [H, W], the cells that may be a goal.

    On construction ``starts`` loses what could never be served: blocked cells, and cells whose component has fewer
    than two goal cells (an agent standing on the only goal could not be given another one). ``goals`` loses blocked
    cells. The arrays are made read-only.
    """

    name: str
    blocked: BoolGrid
    starts: BoolGrid
    goals: BoolGrid

    def __post_init__(self) -> None:
        blocked = np.array(self.blocked, dtype=np.bool_)
        if blocked.ndim != 2 or min(blocked.shape) < 1 or max(blocked.shape) > MAX_SIDE:
            size = " x ".join(str(side) for side in blocked.shape)
            raise UserError(f"map '{self.name}' is {size} cells, use 1 to {MAX_SIDE} rows and columns")
        goals = np.array(self.goals, dtype=np.bool_) & ~blocked
        labels = components(blocked)
        served = np.bincount(labels[goals], minlength=int(labels.max()) + 2) >= 2
        starts = np.array(self.starts, dtype=np.bool_) & ~blocked & served[labels]
        if not starts.any():
            raise UserError(
                f"map '{self.name}' has no cell to start from with two goal cells in reach, open some cells"
            )
        for name, grid in (("blocked", blocked), ("starts", starts), ("goals", goals)):
            grid.setflags(write=False)
            object.__setattr__(self, name, grid)

    @property
    def height(self) -> int:
        return int(self.blocked.shape[0])

    @property
    def width(self) -> int:
        return int(self.blocked.shape[1])

    @cached_property
    def component(self) -> NDArray[np.int32]:
        """``components(blocked)``: int32 [H, W], -1 where blocked."""
        return components(self.blocked)

    @classmethod
    def open_everywhere(cls, name: str, blocked: BoolGrid) -> GridMap:
        """A map on which every free cell may be a start and a goal."""
        return cls(name, blocked, ~blocked, ~blocked)


def check_capacity(grid: GridMap, n_agents: int, distinct_goals: bool = False) -> None:
    """``UserError`` if the map has fewer start cells than agents.

    Args:
        grid: the map.
        n_agents: how many agents start on it.
        distinct_goals: every agent also needs a goal cell of its own within reach.
    """
    free = int(grid.starts.sum())
    if n_agents > free:
        raise UserError(f"map '{grid.name}' has {free} free start cells, {n_agents} agents asked: use at most {free}")
    if distinct_goals:
        sizes = (
            np.bincount(grid.component[cells], minlength=int(grid.component.max()) + 1)
            for cells in (grid.starts, grid.goals)
        )
        served = int(np.minimum(*sizes).sum())
        if n_agents > served:
            raise UserError(
                f"map '{grid.name}' has starts and goals of their own for {served} agents that stay on their goals, "
                f"{n_agents} asked: use at most {served}"
            )
