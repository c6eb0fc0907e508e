"""Robots that turn: their headings and actions, and what these are as moves of a grid.

Headings are 0 east, 1 south, 2 west, 3 north; a turn to the right adds one. Actions and their order are those of the
League of Robot Runners.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scenarios.lifelong_mapf.maps.fields import MOVES

#: Actions: drive ahead, turn to the right (clockwise), turn to the left, wait.
FORWARD, RIGHT, LEFT, WAIT = range(4)
N_TURNING_ACTIONS = 4

#: The move of ``MOVES`` that leads ahead, by heading.
AHEAD = (4, 2, 3, 1)

#: The heading of each move; none of staying.
HEADING_OF = (-1, 3, 1, 2, 0)

#: Turns from a heading to that of a move, ``[4, 5]``: 0, 1 or 2; none for staying.
TURNS = np.array(
    [[0 if h < 0 else min((h - at) % 4, (at - h) % 4) for h in HEADING_OF] for at in range(4)],
    np.int32,
)
assert len(HEADING_OF) == len(MOVES)


def moves_of(heading: Tensor, actions: Tensor) -> Tensor:
    """The moves int64 ``[B, N]`` that actions make: the one ahead, or to stay. heading, actions: integer ``[B, N]``."""
    ahead = torch.tensor(AHEAD, device=actions.device)[heading.long()]
    return torch.where(actions == FORWARD, ahead, 0)


def turned(heading: Tensor, actions: Tensor) -> Tensor:
    """The headings after the actions, int8 ``[B, N]``."""
    change = (actions == RIGHT).to(torch.int8) - (actions == LEFT).to(torch.int8)
    return (heading + change) % 4


def actions_towards(heading: Tensor, moves: Tensor) -> Tensor:
    """What robots do that want to make ``moves``: turn the shorter way until they face it, then drive.

    Args:
        heading, moves: integer ``[B, N]``; returns int64 ``[B, N]``. Half a turn begins to the right.
    """
    wanted = torch.tensor(HEADING_OF, device=moves.device)[moves.long()]
    quarter = (wanted - heading.long()) % 4
    action = torch.tensor((FORWARD, RIGHT, RIGHT, LEFT), device=moves.device)[quarter]
    return torch.where(moves == 0, WAIT, action)
