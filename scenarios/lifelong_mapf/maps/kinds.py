"""Which kind of map a map is: for the choice of numbers that were tuned for a kind."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["warehouse", "maze", "random"]
KINDS: tuple[Kind, ...] = ("warehouse", "maze", "random")

#: Aisles of a warehouse run from wall to wall: mean share of the map's side that the straight way through a cell has.
_STRAIGHT = 0.9
#: Mazes are corridors: share of the free cells that are walled in on both sides.
_WALLED_IN = 0.4


def _straight_runs(free: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many free cells lie side by side in the row of each cell."""
    lengths = np.zeros(free.shape, np.int64)
    for row, into in zip(free, lengths, strict=True):
        borders = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]])))
        for first, end in borders.reshape(-1, 2):
            into[first:end] = end - first
    return lengths


def kind_of_map(blocked: NDArray[np.uint8], height: int, width: int) -> Kind:
    """Which of the kinds that vectors were tuned for a map is most like."""
    rows, columns = np.flatnonzero((blocked.reshape(height, width) == 0).any(1)), np.arange(width)
    # Maps of a pool are padded with blocked cells below and on the right.
    free = blocked.reshape(height, width)[: rows[-1] + 1] == 0
    free = free[:, : columns[free.any(0)][-1] + 1]
    across, down = _straight_runs(free), _straight_runs(free.T).T
    straight = np.maximum(across / free.shape[1], down / free.shape[0])[free].mean()
    if straight >= _STRAIGHT:
        return "warehouse"
    return "maze" if ((across == 1) | (down == 1))[free].mean() >= _WALLED_IN else "random"
