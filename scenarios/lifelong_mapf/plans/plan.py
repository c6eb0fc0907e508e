"""``Plan``: where every robot is at every step, as a file says it, and what the file says of tasks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Headings, in the order of turns to the right.
HEADINGS = "ESWN"
#: Rows and columns that a robot moves on by driving, by heading.
AHEAD = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)], np.int32)


class Given(NamedTuple):
    """A task that a robot was given: its number, its cell [row, column], and the step after which it was given."""

    task: int
    cell: tuple[int, int]
    step: int


class Plan(NamedTuple):
    """A joint plan of N robots for T steps.

    source: the file, for errors.
    cells: int32 [T + 1, N, 2], row and column; nothing says that they lie on the map.
    headings: int8 [T + 1, N], places in ``HEADINGS``; None: robots do not turn.
    claimed: how many tasks the file says were finished; None: it does not say.
    given: each robot's tasks in the order in which it was given them; None: the file does not say.
    schedule: for errands, each robot's (step, task) pairs: from that step's end on it works on the task, -1 for none;
        None: the file does not say.
    """

    source: str
    cells: NDArray[np.int32]
    headings: NDArray[np.int8] | None = None
    claimed: int | None = None
    given: tuple[tuple[Given, ...], ...] | None = None
    schedule: tuple[tuple[tuple[int, int], ...], ...] | None = None

    @property
    def steps(self) -> int:
        return int(self.cells.shape[0]) - 1

    @property
    def n_agents(self) -> int:
        return int(self.cells.shape[1])
