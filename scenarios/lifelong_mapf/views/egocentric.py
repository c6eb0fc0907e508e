"""What a guided agent sees, turned so that its path leads up: the same situation looks the same on all eight sides.

The picture is turned until the next cell of the path lies above the agent, and mirrored where the path's first turn
(where it has none in the window, the goal) lies to the left, so that it lies to the right. A network then learns once
what it would have to learn for four directions and two hands. It decides among moves that are turned alike:

- ``ahead``: ``BitWindow(5, D, D)`` around the agent, turned. Planes: walls, and what lies beyond the map; other agents;
  those of them whose number is lower than its own; its path, its own cell included; where it saw another agent one step
  ago (``recent``).
- ``own``: float32 (17,): ``moves`` (``guidance``) of the turned moves; the last move, turned, one-hot; whether a move
  to a free cell was refused; w / (w + 4), w steps it has stood still; the direction of the goal, turned, and its
  distance as in ``observation``; a / (a + 32), a steps since the goal was given; share of the window's free cells where
  others stand.
- ``turned``: int8 (5,): which of the turned moves (stay, up, down, left, right) each move of the map is. Actors read it
  as ``relabel``.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from marl.compiled import njit
from marl.envs.spaces import BitWindow
from scenarios.lifelong_mapf.guidance.base import NONE, Guidance, Present, move_between, present
from scenarios.lifelong_mapf.maps.fields import MOVES, open_moves_of
from scenarios.lifelong_mapf.views.recent import Recent, RecentWorld

PLANES = 5
N_OWN = 2 * len(MOVES) + 7
_WALLS, _OTHERS, _LOWER, _PATH, _BEFORE = range(PLANES)
_LAST, _REFUSED = len(MOVES), 2 * len(MOVES)
_PATIENCE, _PATIENCE_GOAL = np.float32(4.0), np.float32(32.0)
_MOVES = np.array(MOVES)


class AgedWorld(RecentWorld, Protocol):
    """age: int32 ``[B, N]``, steps since the goal was given."""

    age: Tensor


class Egocentric:
    """The features of all agents of ``world`` under ``guidance``; call as ``Guidance`` says, after it."""

    def __init__(self, world: AgedWorld, guidance: Guidance, radius: int):
        self._world, self._guidance, self._radius = world, guidance, radius
        side = 2 * radius + 1
        self.spaces: dict[str, spaces.Space[Any]] = {
            "ahead": BitWindow(PLANES, side, side),
            "own": spaces.Box(-1.0, 1.0, (N_OWN,), np.float32),
            "turned": spaces.Box(0, len(MOVES) - 1, (len(MOVES),), np.int8),
        }
        self._recent = Recent(world, radius)
        self._exits = open_moves_of(world.blocked, world.height, world.width)
        self._occupied = np.full((2, world.height * world.width), NONE, np.int32)

    def restart(self, restarted: NDArray[np.bool_]) -> None:
        """Forget the past of copies that began a new episode (bool ``[B]``)."""
        self._recent.restart(restarted)

    def advance(self) -> None:
        """Take in the step that all copies just made."""
        self._recent.advance()

    def state(self) -> dict[str, NDArray[Any]]:
        """The memory of all copies by name, arrays that may be written to."""
        return self._recent.state()

    def features(self) -> dict[str, Tensor]:
        """At the present moment; agents that are not alive see nothing, and their moves are not turned."""
        world, side = self._world, 2 * self._radius + 1
        plan = self._guidance.arrays()
        agents = world.position.shape
        ahead = np.zeros((*agents, PLANES, side), np.int16)
        own = np.zeros((*agents, N_OWN), np.float32)
        turned = np.empty((*agents, len(MOVES)), np.int8)
        refused, age = world.refused.cpu().numpy(), world.age.cpu().numpy()
        memory = self._recent.state()
        _write(
            present(world, self._exits),
            world.blocked,
            self._guidance.subgoal,
            plan["path"][:, :, 0],
            plan["moves"],
            memory["previous"],
            memory["waited"],
            refused,
            age,
            self._occupied,
            ahead,
            own,
            turned,
        )
        features = {"ahead": ahead, "own": own, "turned": turned}
        return {name: torch.from_numpy(array).to(world.device) for name, array in features.items()}


@njit
def _right_hand(up_row: int, up_column: int, rows: NDArray[np.int16], goal_row: int, goal_column: int) -> int:
    """1 if right is a quarter turn clockwise from up, -1 if the picture is to be mirrored.

    rows: the path in the window, not turned. goal_row, goal_column: of the goal, from the agent.
    """
    radius = rows.size // 2
    row, column = up_row, up_column
    while abs(row) <= radius and abs(column) <= radius:
        if not (rows[row + radius] >> (column + radius)) & 1:
            break
        # Clockwise from up (r, c) on a grid whose rows run downwards is (c, -r).
        for hand in (1, -1):
            r, c = row + hand * up_column, column - hand * up_row
            if abs(r) <= radius and abs(c) <= radius and (rows[r + radius] >> (c + radius)) & 1:
                return hand
        row += up_row
        column += up_column
    return -1 if goal_row * up_column - goal_column * up_row < 0 else 1


@njit
def _write(
    now: Present,
    blocked: NDArray[np.uint8],
    subgoal: NDArray[np.int32],
    path: NDArray[np.int16],
    moves: NDArray[np.float32],
    previous: NDArray[np.int32],
    waited: NDArray[np.int32],
    refused: NDArray[np.bool_],
    age: NDArray[np.int32],
    occupied: NDArray[np.int32],
    ahead: NDArray[np.int16],
    own: NDArray[np.float32],
    turned: NDArray[np.int8],
) -> None:
    """occupied: int32 ``[2, cells]``, all ``NONE`` on entry and on return: who stood and who stands on a cell."""
    width = now.width
    radius = ahead.shape[3] // 2
    then, here = occupied
    height = here.size // width
    near, far = np.float32(radius), np.float32(4 * radius)
    for b in range(subgoal.shape[0]):
        walls = blocked[now.maps[b]]
        for n in range(subgoal.shape[1]):
            if previous[b, n] != NONE:
                then[previous[b, n]] = n
            if now.alive[b, n]:
                here[now.position[b, n]] = n
        for n in range(subgoal.shape[1]):
            for move in range(len(MOVES)):
                turned[b, n, move] = move
            if not now.alive[b, n]:
                continue
            cell = now.position[b, n]
            row, column = cell // width, cell % width
            goal_row, goal_column = now.goal[b, n] // width - row, now.goal[b, n] % width - column
            up = move_between(cell, subgoal[b, n], width)
            up_row, up_column = _MOVES[max(up, 1)]
            hand = _right_hand(up_row, up_column, path[b, n], goal_row, goal_column)
            right_row, right_column = hand * up_column, -hand * up_row
            for move in range(1, len(MOVES)):
                along = _MOVES[move, 0] * up_row + _MOVES[move, 1] * up_column
                aside = _MOVES[move, 0] * right_row + _MOVES[move, 1] * right_column
                turned[b, n, move] = 1 if along == 1 else 2 if along == -1 else 3 if aside == -1 else 4
            last = previous[b, n]
            last_row, last_column = (-2 * height, -2 * width) if last == NONE else (last // width, last % width)
            free = others = 0
            for i in range(-radius, radius + 1):
                bits_walls = bits_others = bits_lower = bits_path = bits_before = 0
                for j in range(-radius, radius + 1):
                    bit = 1 << (j + radius)
                    down, aside = -i * up_row + j * right_row, -i * up_column + j * right_column
                    r, c = row + down, column + aside
                    if r < 0 or r >= height or c < 0 or c >= width or walls[r * width + c]:
                        bits_walls |= bit
                        continue
                    place = r * width + c
                    free += 1
                    if here[place] != NONE and here[place] != n:
                        others += 1
                        bits_others |= bit
                        if here[place] < n:
                            bits_lower |= bit
                    if (path[b, n, down + radius] >> (aside + radius)) & 1:
                        bits_path |= bit
                    seen = abs(r - last_row) <= radius and abs(c - last_column) <= radius
                    if seen and then[place] != NONE and then[place] != n:
                        bits_before |= bit
                ahead[b, n, _WALLS, i + radius] = bits_walls
                ahead[b, n, _OTHERS, i + radius] = bits_others
                ahead[b, n, _LOWER, i + radius] = bits_lower
                ahead[b, n, _PATH, i + radius] = bits_path
                ahead[b, n, _BEFORE, i + radius] = bits_before
            facts = own[b, n]
            for move in range(len(MOVES)):
                facts[turned[b, n, move]] = moves[b, n, move]
            if last != NONE:
                facts[_LAST + turned[b, n, move_between(last, cell, width)]] = 1.0
            facts[_REFUSED] = refused[b, n]
            still = np.float32(waited[b, n])
            facts[_REFUSED + 1] = still / (still + _PATIENCE)
            along = np.float32(goal_row * up_row + goal_column * up_column)
            aside = np.float32(goal_row * right_row + goal_column * right_column)
            distance = abs(along) + abs(aside)
            facts[_REFUSED + 2] = along / (abs(along) + near)
            facts[_REFUSED + 3] = aside / (abs(aside) + near)
            facts[_REFUSED + 4] = distance / (distance + far)
            waiting = np.float32(age[b, n])
            facts[_REFUSED + 5] = waiting / (waiting + _PATIENCE_GOAL)
            facts[_REFUSED + 6] = np.float32(others) / np.float32(free)
        for n in range(subgoal.shape[1]):
            if previous[b, n] != NONE:
                then[previous[b, n]] = NONE
            if now.alive[b, n]:
                here[now.position[b, n]] = NONE
