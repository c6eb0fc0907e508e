"""What this world knows about conflicts: a joint move in which nobody gets into anybody's way.

What agents propose are their preferences in priority inheritance with backtracking (``pibt``): each gets the best move
that those before it leave, and may push along whoever stands there. Those who wait longest for their goal come first.
The rules of the world refuse more than collisions (``collision``): ``block_both`` every move into an occupied cell,
``priority`` those into the cell of an agent with a higher index, which has not moved yet. Such moves are closed to PIBT
as walls are, so no executed move is refused.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.seeding import Stream, fold
from scenarios.lifelong_mapf.fields import MOVES, neighbour, open_moves_of
from scenarios.lifelong_mapf.guidance import GridWorld, Present, move_between, present
from scenarios.lifelong_mapf.pibt import PibtTable, forget_targets, joint_targets, pibt_table, sort_by_age


class _Config(Protocol):
    collision: Literal["priority", "soft", "block_both"]


class CollidingWorld(GridWorld, Protocol):
    """What the resolver reads beyond ``GridWorld``. age: integer ``[B, N]``, steps since the goal was given."""

    config: _Config
    age: Tensor


class Resolver:
    """Joint moves for all copies of ``world``; memory: 4 * N * cells bytes."""

    def __init__(self, world: CollidingWorld):
        self._world = world
        copies, agents = world.position.shape
        cells = world.height * world.width
        self._exits = open_moves_of(world.blocked, world.height, world.width)
        self._order = np.tile(np.arange(agents, dtype=np.int32), (copies, 1))
        self._table = pibt_table(cells, agents)
        self._ranks = np.zeros((agents, cells), np.int32)
        self._open = np.zeros(cells, np.uint8)

    def resolve(self, key: Tensor, proposed: Tensor, scores: Tensor | None) -> Tensor:
        """Actions int64 ``[B, N]`` without conflict; see ``marl.envs.abilities.Resolves``.

        key: int64 ``[B]``, decides between moves that an agent likes equally well.
        """
        world = self._world
        executed = proposed.cpu().numpy().astype(np.int64)
        liking = np.zeros((*executed.shape, 1), np.float32)
        if scores is not None:
            liking = scores.detach().to("cpu", torch.float32).contiguous().numpy()
        _resolve(
            fold(key, Stream.SAFETY).cpu().numpy(),
            present(world, self._exits),
            world.config.collision == "block_both",
            world.config.collision == "priority",
            world.age.cpu().numpy(),
            self._order,
            liking,
            self._ranks,
            self._open,
            self._table,
            executed,
        )
        return torch.from_numpy(executed).to(proposed.device)


@numba.njit(cache=True)
def _resolve(
    key: NDArray[np.int64],
    now: Present,
    block_both: bool,
    by_index: bool,
    age: NDArray[np.int32],
    order: NDArray[np.int32],
    liking: NDArray[np.float32],
    ranks: NDArray[np.int32],
    open_: NDArray[np.uint8],
    table: PibtTable,
    executed: NDArray[np.int64],
) -> None:
    """Replace the proposals in ``executed`` (int64 ``[B, N]``).

    liking: ``[B, N, 5]``, or ``[B, N, 1]`` if agents do not care. Scratch: ranks ``[N, cells]`` and open_ ``[cells]``,
    of which only what agents can reach in one move is used.
    """
    copies, agents = order.shape
    for b in range(copies):
        sort_by_age(age[b], order[b])
        position, alive = now.position[b], now.alive[b]
        exits = now.exits[now.maps[b]]
        for n in range(agents):
            if alive[n]:
                table.here[position[n]] = n
        for n in range(agents):
            if alive[n]:
                cell = position[n]
                open_[cell] = _open_moves(n, cell, exits, now.width, block_both, by_index, table.here)
                _rank_moves(cell, exits, now.width, executed[b, n], liking[b, n], ranks[n])
        joint_targets(key[b], position, alive, open_, now.width, ranks, order[b], table)
        for n in range(agents):
            # A proposal that leads to the same cell stays as it is, also one into a wall.
            if alive[n] and _leads_to(executed[b, n], position[n], exits, now.width) != table.target[n]:
                executed[b, n] = move_between(position[n], table.target[n], now.width)
        forget_targets(position, alive, table)


@numba.njit(cache=True)
def _leads_to(action: int, cell: int, exits: NDArray[np.uint8], width: int) -> int:
    return neighbour(exits, width, cell, action) if 0 < action < len(MOVES) else cell


@numba.njit(cache=True)
def _open_moves(
    agent: int,
    cell: int,
    exits: NDArray[np.uint8],
    width: int,
    block_both: bool,
    by_index: bool,
    here: NDArray[np.int32],
) -> np.uint8:
    """The moves of ``exits[cell]`` that the rules allow, whoever moves away in the same step."""
    result = exits[cell]
    for move in range(1, len(MOVES)):
        other = here[neighbour(exits, width, cell, move)]
        if other >= 0 and (block_both or (by_index and other > agent)):
            result = np.uint8(result & ~np.uint8(1 << (move - 1)))
    return result


@numba.njit(cache=True)
def _rank_moves(
    cell: int,
    exits: NDArray[np.uint8],
    width: int,
    proposed: int,
    liking: NDArray[np.float32],
    ranks: NDArray[np.int32],
) -> None:
    """Write the rank of every cell within one move: 0 for what was proposed, then by liking, equals alike."""
    target = _leads_to(proposed, cell, exits, width)
    for move in range(len(MOVES)):
        option = cell if move == 0 else neighbour(exits, width, cell, move)
        if move > 0 and option == cell:
            continue
        rank = 0
        if option != target:
            rank = 1
            for other in range(liking.size):
                rank += liking[other] > liking[min(move, liking.size - 1)]
        ranks[option] = rank
