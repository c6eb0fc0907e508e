"""The swap rule of PIBT's authors: two agents that have to pass each other where there is no room go to where there is.

K. Okumura, "Improving LaCAM for Scalable Eventually Optimal Multi-Agent Pathfinding", IJCAI 2023, section 4. PIBT alone
lets them push each other to and fro for ever. Agent i, about to push j, looks ahead along the corridor behind j: if the
two would still want each other's cells where it ends, they must swap, and if the corridor behind i comes to a branch,
they can. Then i goes where it wants to go least, and j follows into the cell that i leaves. An agent that will have to
make way one step from now goes away in the same manner ("clear").

Cells count as corridors by their free neighbours; a dead end in which an agent stands at home is no way out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit
from scenarios.lifelong_mapf.guidance.base import NONE
from scenarios.lifelong_mapf.maps.fields import UNREACHED, Board, neighbour
from scenarios.lifelong_mapf.pibt.near_fields import NearFields, known_value


class Swap(NamedTuple):
    """How the swap rule is played. active: at all. stay: agents stay where they arrive, as the rule was made for.

    Otherwise whoever arrives on the way is out of it: it gets another goal, which nobody knows yet, or leaves. Two
    that would have to swap only beyond that go on. (As it was made, the rule let agents with goals in one corridor wait
    for each other for ever, and took half of their goals from rules that let near goals go first.)
    """

    active: bool
    stay: bool


#: PIBT as in its first paper.
NO_SWAP = Swap(False, False)


class Ways(NamedTuple):
    """What the swap rule reads of one copy; unless ``swap.active`` nothing is read and nobody swaps.

    goal: int32 ``[N]``. field: int32 ``[N, cells]``, distances; or none of them (``[0, 0]``), then they are ``near``
    ones, those of copy ``b``.
    """

    swap: Swap
    goal: NDArray[np.int32]
    field: NDArray[np.int32]
    near: NearFields
    b: int


@njit
def distance(ways: Ways, width: int, agent: int, cell: int) -> int:
    """The agent's distance from a cell, ``UNREACHED`` where it is not known."""
    if ways.field.size:
        return int(ways.field[agent, cell])
    value = known_value(ways.near, ways.b, agent, width, cell)
    return UNREACHED if value == NONE else int(value)


@njit
def swap_partner(
    i: int,
    cell: int,
    wanted: int,
    board: Board,
    ways: Ways,
    here: NDArray[np.int32],
    target: NDArray[np.int32],
) -> int:
    """The agent with which agent i, on ``cell`` and going to ``wanted``, has to change places and can; or ``NONE``.

    Args:
        here: int32 ``[cells]``, who stands on a cell.
        target: int32 ``[N]``, where agents go, ``NONE`` if not settled.
    """
    if wanted == cell:
        return NONE
    if not ways.swap.stay and _onward(wanted, cell, board, ways.goal, here)[0] >= 2:
        # There is room just ahead, for whoever comes: all that follows would say so one by one.
        return NONE
    j = here[wanted]
    if (
        j != NONE
        and target[j] == NONE
        and _must_swap(i, j, cell, wanted, board, ways, here)
        and _can_swap(wanted, cell, board, ways, here)
    ):
        return j
    # Clear: one step from now, on the wanted cell, this agent would be pushed back by k.
    for move in range(1, 5):
        beside = neighbour(board, cell, move)
        k = here[beside]
        if (
            beside != cell
            and beside != wanted
            and k != NONE
            and _must_swap(k, i, cell, wanted, board, ways, here)
            and _can_swap(wanted, cell, board, ways, here)
        ):
            return k
    return NONE


@njit
def _onward(cell: int, back: int, board: Board, goal: NDArray[np.int32], here: NDArray[np.int32]) -> tuple[int, int]:
    """How many neighbours a way from ``back`` over ``cell`` may go on to, 2 for more than one, and the last of them.

    Not ``back``, and no dead end with an agent at home in it.
    """
    count, onward = 0, cell
    for move in range(1, 5):
        beside = neighbour(board, cell, move)
        if beside in (cell, back):
            continue
        open_sides = board.exits[beside]
        if open_sides & (open_sides - 1) == 0:
            occupant = here[beside]
            if occupant != NONE and goal[occupant] == beside:
                continue
        count += 1
        onward = beside
        if count == 2:
            break
    return count, onward


@njit
def _must_swap(
    pusher: int,
    puller: int,
    pusher_cell: int,
    puller_cell: int,
    board: Board,
    ways: Ways,
    here: NDArray[np.int32],
) -> bool:
    """Whether the pusher, pushing the puller ahead of it until it need not, leaves both wanting to go the other way."""
    while distance(ways, board.width, pusher, puller_cell) < distance(ways, board.width, pusher, pusher_cell):
        if not ways.swap.stay and puller_cell == ways.goal[puller]:
            return False
        count, onward = _onward(puller_cell, pusher_cell, board, ways.goal, here)
        if count >= 2:
            return False
        if count == 0:
            break
        pusher_cell, puller_cell = puller_cell, onward
    towards = distance(ways, board.width, puller, pusher_cell) < distance(ways, board.width, puller, puller_cell)
    at_home = ways.swap.stay and pusher_cell == ways.goal[pusher]
    onwards = distance(ways, board.width, pusher, puller_cell) < distance(ways, board.width, pusher, pusher_cell)
    return towards and (at_home or onwards)


@njit
def _can_swap(
    pusher_cell: int,
    puller_cell: int,
    board: Board,
    ways: Ways,
    here: NDArray[np.int32],
) -> bool:
    """Whether the corridor behind the agent that gives way comes to a branch, where the other can pass."""
    start = pusher_cell
    while puller_cell != start:
        count, onward = _onward(puller_cell, pusher_cell, board, ways.goal, here)
        if count >= 2:
            return True
        if count == 0:
            return False
        pusher_cell, puller_cell = puller_cell, onward
    return False
