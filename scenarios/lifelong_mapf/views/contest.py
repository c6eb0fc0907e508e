"""Who contests the cells around an agent: what guided agents tell their nearest neighbours about their plans.

Two agents in a corridor see the same picture of each other, so no rule of what they see alone can make one of them go
back; a rank that both know does. As in priority inheritance with backtracking (Okumura et al., IJCAI 2019, arXiv
1901.11282) whoever has been longer on the way to its goal outranks the other; of two that started together, the one
with the lower number.

The feature ``contest`` of one agent is float32 (25,), five flags for each move (stay, up, down, left, right) about the
cell that it leads to, 0 where the move is blocked:

    0, 1: an agent that outranks this one, or that this one outranks, has the cell as its sub-goal;
    2, 3: the cell is occupied by an agent that outranks this one, or that this one outranks;
    4: the agent on the cell has this agent's cell as its sub-goal.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.guidance.base import Present
from scenarios.lifelong_mapf.maps.fields import MOVES, Board, neighbour

FLAGS = 5
SPACE = spaces.Box(0.0, 1.0, (len(MOVES) * FLAGS,), np.float32)
_NOBODY = -1


@njit(inline="always")
def _outranks(age: NDArray[np.int32], i: int, j: int) -> bool:
    return age[i] > age[j] or (age[i] == age[j] and i < j)


@njit(nogil=True)
def write_contest(
    now: Present,
    subgoal: NDArray[np.int32],
    age: NDArray[np.int32],
    contest: NDArray[np.float32],
) -> None:
    """Write ``contest`` (``[B, N, 25]``) of all copies; subgoal, age: ``[B, N]``."""
    position, alive = now.position, now.alive
    copies, agents = position.shape
    here = np.full(now.exits.shape[1], _NOBODY, np.int32)
    first = np.full(now.exits.shape[1], _NOBODY, np.int32)  # of highest rank among those that want a cell
    last = np.full(now.exits.shape[1], _NOBODY, np.int32)
    contest[:] = 0.0
    for b in range(copies):
        ages, board = age[b], Board(now.exits[now.maps[b]], now.width)
        for i in range(agents):
            if not alive[b, i]:
                continue
            here[position[b, i]] = i
            cell = subgoal[b, i]
            if first[cell] == _NOBODY:
                first[cell] = last[cell] = i
            elif _outranks(ages, i, first[cell]):
                first[cell] = i
            elif _outranks(ages, last[cell], i):
                last[cell] = i
        for i in range(agents):
            if not alive[b, i]:
                continue
            origin = position[b, i]
            for move in range(5):
                cell = origin
                if move:
                    cell = neighbour(board, origin, move)
                    if cell == origin:
                        continue
                flags = contest[b, i, move * FLAGS : (move + 1) * FLAGS]
                if first[cell] != _NOBODY:
                    flags[0] = _outranks(ages, first[cell], i)
                    flags[1] = _outranks(ages, i, last[cell])
                other = here[cell]
                if other not in (_NOBODY, i):
                    flags[2] = _outranks(ages, other, i)
                    flags[3] = not flags[2]
                    flags[4] = subgoal[b, other] == origin
        for i in range(agents):
            if alive[b, i]:
                here[position[b, i]] = _NOBODY
                first[subgoal[b, i]] = last[subgoal[b, i]] = _NOBODY
