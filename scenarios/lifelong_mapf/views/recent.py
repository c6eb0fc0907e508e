"""What a guided agent remembers of the step before, and who in its sight has a lower number: nothing is communicated.

A policy without memory cannot tell a neighbour that comes towards it from one that leaves, nor its first refused move
from the tenth; and two agents in a corridor see the same picture of each other. Two features of one agent help:

- ``before``: ``BitWindow(2, D, D)`` around the agent. Plane 0: cells where it saw another agent one step ago, from
  where it stood then. Plane 1: agents in its window now whose number is lower than its own: a number painted on the
  robot is enough for any two to agree who goes first.
- ``past``: float32 (7,): the move it made in the last step, one-hot (all 0 at the beginning); whether a move to a free
  cell was refused to it; the steps w it has stood still, as w / (w + 4).
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
from scenarios.lifelong_mapf.guidance.base import NONE, GridWorld, move_between
from scenarios.lifelong_mapf.maps.fields import MOVES

_REFUSED, _WAITED = len(MOVES), len(MOVES) + 1
N_PAST = len(MOVES) + 2
_PATIENCE = np.float32(4.0)


class RecentWorld(GridWorld, Protocol):
    """refused: bool ``[B, N]``, the last move led to a free cell and was not made because of other agents."""

    refused: Tensor


class Recent:
    """Features ``before`` and ``past`` of all agents of ``world``; call as ``Guidance`` says."""

    def __init__(self, world: RecentWorld, radius: int):
        self._world, self._radius = world, radius
        side = 2 * radius + 1
        self.spaces: dict[str, spaces.Space[Any]] = {
            "before": BitWindow(2, side, side),
            "past": spaces.Box(0.0, 1.0, (N_PAST,), np.float32),
        }
        copies, agents = world.position.shape
        self._previous = np.full((copies, agents), NONE, np.int32)
        self._now = np.full((copies, agents), NONE, np.int32)
        self._waited = np.zeros((copies, agents), np.int32)
        self._occupied = np.full((2, world.height * world.width), NONE, np.int32)

    def restart(self, restarted: NDArray[np.bool_]) -> None:
        """Forget the past of copies that began a new episode (bool ``[B]``)."""
        self._previous[restarted] = NONE
        self._waited[restarted] = 0
        self._now[restarted] = self._positions()[restarted]

    def advance(self) -> None:
        """Take in the step that all copies just made."""
        self._previous, self._now = self._now, self._positions()
        self._waited = np.where(self._now == self._previous, self._waited + 1, 0).astype(np.int32)

    def features(self) -> dict[str, Tensor]:
        """Both features at the present moment, zeros for agents that are not alive."""
        world, side = self._world, 2 * self._radius + 1
        before = np.zeros((*self._now.shape, 2, side), np.int16)
        past = np.zeros((*self._now.shape, N_PAST), np.float32)
        alive, refused = world.alive.cpu().numpy(), world.refused.cpu().numpy()
        shape = (world.height, world.width)
        _write(self._previous, self._now, self._waited, alive, refused, shape, self._occupied, before, past)
        return {"before": torch.from_numpy(before).to(world.device), "past": torch.from_numpy(past).to(world.device)}

    def state(self) -> dict[str, NDArray[Any]]:
        """The memory of all copies by name, arrays that may be written to."""
        return {"previous": self._previous, "now": self._now, "waited": self._waited}

    def _positions(self) -> NDArray[np.int32]:
        return np.where(self._world.alive.cpu().numpy(), self._world.position.cpu().numpy(), NONE).astype(np.int32)


@njit
def _write(
    previous: NDArray[np.int32],
    now: NDArray[np.int32],
    waited: NDArray[np.int32],
    alive: NDArray[np.bool_],
    refused: NDArray[np.bool_],
    shape: tuple[int, int],
    occupied: NDArray[np.int32],
    before: NDArray[np.int16],
    past: NDArray[np.float32],
) -> None:
    """occupied: int32 ``[2, cells]``, all ``NONE`` on entry and on return: who stood and who stands on a cell."""
    (height, width), radius = shape, before.shape[3] // 2
    then, here = occupied
    for b in range(now.shape[0]):
        for n in range(now.shape[1]):
            if previous[b, n] != NONE:
                then[previous[b, n]] = n
            if alive[b, n]:
                here[now[b, n]] = n
        for n in range(now.shape[1]):
            if not alive[b, n]:
                continue
            cell = now[b, n]
            row, column = cell // width, cell % width
            last = previous[b, n]
            # Nothing was seen before the first step: an empty stretch of rows.
            last_row, last_column = (-2 * height, -2 * width) if last == NONE else (last // width, last % width)
            for r in range(max(row - radius, 0), min(row + radius + 1, height)):
                seen_row = abs(r - last_row) <= radius
                bits = lower = 0
                for c in range(max(column - radius, 0), min(column + radius + 1, width)):
                    place = r * width + c
                    bit = 1 << (c - column + radius)
                    if seen_row and abs(c - last_column) <= radius and then[place] != NONE and then[place] != n:
                        bits |= bit
                    if here[place] != NONE and here[place] < n:
                        lower |= bit
                before[b, n, 0, r - row + radius] = bits
                before[b, n, 1, r - row + radius] = lower
            if last != NONE:
                past[b, n, move_between(last, cell, width)] = 1.0
            past[b, n, _REFUSED] = refused[b, n]
            still = np.float32(waited[b, n])
            past[b, n, _WAITED] = still / (still + _PATIENCE)
        for n in range(now.shape[1]):
            if previous[b, n] != NONE:
                then[previous[b, n]] = NONE
            if alive[b, n]:
                here[now[b, n]] = NONE
