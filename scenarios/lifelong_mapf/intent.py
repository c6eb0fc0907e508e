"""Where agents will be: the cell that a move leads to, then the planned path, one cell a step.

The path descends the fields of the shared guidance where agents are guided by it, else those of plain distances. Other
agents are not thought of: an announcement says what an agent would like to do.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.compiled import njit
from marl.envs.abilities import Prediction
from scenarios.lifelong_mapf.guidance.base import NONE, GridWorld, Present, best_neighbour, present
from scenarios.lifelong_mapf.guidance.paths import PathFields
from scenarios.lifelong_mapf.guidance.shared import GoalFields
from scenarios.lifelong_mapf.maps.fields import Board, neighbour

#: The action of agents that carry on: the first move of their path.
CARRY_ON = -1


class Announcer:
    """The next ``horizon`` cells of all agents, for their ``companions`` nearest others within ``radius`` cells.

    A coordinate is a row or a column. ``scale``: the farthest that a companion can be at first, twice the radius.
    """

    def __init__(self, world: GridWorld, radius: int, horizon: int, companions: int):
        self._world, self._shape = world, (horizon, companions)
        self.scale = (2.0 * radius, 2.0 * radius)
        around = [(abs(r) + abs(c), r, c) for r in range(-radius, radius + 1) for c in range(-radius, radius + 1)]
        self._around = np.array(sorted(around)[1:], np.int32)
        self._here = np.full(world.height * world.width, NONE, np.int32)
        self._plain: PathFields | None = None

    def predict(self, actions: Tensor | None, guided: GoalFields | None) -> Prediction:
        """Where ``actions`` (int64 ``[B, N]``; None: carry on) lead, on the fields ``guided`` or on plain distances."""
        world, (horizon, companions) = self._world, self._shape
        copies, agents = world.position.shape
        if guided is None:
            self._plain = self._plain or PathFields(world)
            guided = self._plain.current()
        moves = np.full((copies, agents), CARRY_ON) if actions is None else actions.cpu().numpy()
        trajectory = np.zeros((copies, agents, horizon, 2))
        origin = np.zeros((copies, agents, 2))
        who = np.full((copies, agents, companions), NONE, np.int64)
        _announce(present(world, guided.exits), guided.field, moves, self._around, self._here, trajectory, origin, who)
        return Prediction(*(torch.from_numpy(array).to(world.device) for array in (trajectory, who, origin)))


@njit
def _announce(
    now: Present,
    field: NDArray[np.int32],
    moves: NDArray[np.int64],
    around: NDArray[np.int32],
    here: NDArray[np.int32],
    trajectory: NDArray[np.float64],
    origin: NDArray[np.float64],
    who: NDArray[np.int64],
) -> None:
    """Write ``trajectory`` ``[B, N, H, 2]``, ``origin`` ``[B, N, 2]`` and ``who`` ``[B, N, K]`` of living agents.

    around: int32 ``[R, 3]``, the cells of a window in the order in which companions are looked for: any number, row
    and column from its centre. here: int32 ``[cells]`` scratch, -1 on entry and on return.
    """
    copies, agents, horizon, _ = trajectory.shape
    width = now.width
    height = here.size // width
    for b in range(copies):
        board = Board(now.exits[now.maps[b]], now.width)
        for n in range(agents):
            if now.alive[b, n]:
                here[now.position[b, n]] = n
        for n in range(agents):
            if not now.alive[b, n]:
                continue
            cell = now.position[b, n]
            row, column = cell // width, cell % width
            origin[b, n, 0], origin[b, n, 1] = row, column
            count = 0
            for k in range(len(around)):
                r, c = row + around[k, 1], column + around[k, 2]
                if r < 0 or r >= height or c < 0 or c >= width or here[r * width + c] < 0:
                    continue
                who[b, n, count] = here[r * width + c]
                count += 1
                if count == who.shape[2]:
                    break
            for step in range(horizon):
                move = moves[b, n]
                if step > 0 or move == CARRY_ON:
                    cell = best_neighbour(board, field[b, n], cell)
                elif move > 0:
                    cell = neighbour(board, cell, move)
                trajectory[b, n, step, 0], trajectory[b, n, step, 1] = cell // width, cell % width
        for n in range(agents):
            if now.alive[b, n]:
                here[now.position[b, n]] = NONE
