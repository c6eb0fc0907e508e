"""What this world knows about conflicts: a joint move in which nobody gets into anybody's way.

What agents propose are their preferences in priority inheritance with backtracking (``pibt``): each gets the best move
that those before it leave, and may push along whoever stands there. Those who wait longest for their goal come first.
Those who block each other in a corridor swap (``pibt.swap``) where the configuration says so. The rules of the world
refuse more than collisions (``collision``): ``block_both`` every move into an occupied cell, ``priority`` those into
the cell of an agent with a higher index, which has not moved yet. Such moves are closed to PIBT as walls are, so no
executed move is refused.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.compiled import njit
from marl.seeding import Stream, fold
from scenarios.lifelong_mapf.guidance.base import NONE, GridWorld, Present, present
from scenarios.lifelong_mapf.guidance.paths import PathFields
from scenarios.lifelong_mapf.guidance.shared import GoalFields
from scenarios.lifelong_mapf.maps.fields import MOVES, Board, neighbour, open_moves_of
from scenarios.lifelong_mapf.maps.headings import AHEAD
from scenarios.lifelong_mapf.pibt.near_fields import NearFields
from scenarios.lifelong_mapf.pibt.preferences import NO_WAY
from scenarios.lifelong_mapf.pibt.rule import (
    NOT_NEAR,
    PibtTable,
    leads_to,
    pibt_table,
    put_agents,
    settle_moves,
    sort_by_urgency,
)
from scenarios.lifelong_mapf.pibt.swap import NO_SWAP, Swap, Ways


class _Config(Protocol):
    @property
    def collision(self) -> Literal["priority", "soft", "block_both"]: ...
    @property
    def on_target(self) -> str: ...
    @property
    def supervisor_swap(self) -> bool | None: ...


class CollidingWorld(GridWorld, Protocol):
    """What the resolver reads beyond ``GridWorld``. age: integer ``[B, N]``, steps since the goal was given."""

    age: Tensor

    @property
    def config(self) -> _Config: ...


class Resolver:
    """Joint moves for all copies of ``world``."""

    def __init__(self, world: CollidingWorld):
        self._world = world
        copies, agents = world.position.shape
        self._exits = open_moves_of(world.blocked, world.height, world.width)
        self._order = np.tile(np.arange(agents, dtype=np.int32), (copies, 1))
        self._table = pibt_table(world.height * world.width, agents)
        stay, asked = world.config.on_target == "nothing", world.config.supervisor_swap
        self._swap = Swap(stay if asked is None else asked, stay)
        self._paths: PathFields | None = None

    def resolve(
        self,
        key: Tensor,
        proposed: Tensor,
        scores: Tensor | None,
        urgency: NDArray[np.int64] | None = None,
        guided: GoalFields | None = None,
        heading: Tensor | None = None,
    ) -> Tensor:
        """Actions int64 ``[B, N]`` without conflict; see ``marl.envs.abilities.Resolves``.

        Args:
            key: int64 ``[B]``, decides between moves that an agent likes equally well.
            urgency: int64 ``[B, N]``, who goes first; by default the steps since the goal was given.
            guided: the fields that agents follow, by which they swap; by default plain distances.
            heading: int8 ``[B, N]``, of robots that drive ahead only; nobody swaps then, for that takes turns.
        """
        world = self._world
        executed = proposed.cpu().numpy().astype(np.int64)
        facing = np.full(executed.shape, NONE, np.int8) if heading is None else heading.cpu().numpy()
        liking = np.zeros((*executed.shape, 1), np.float32)
        if scores is not None:
            liking = scores.detach().to("cpu", torch.float32).contiguous().numpy()
        _resolve(
            fold(key, Stream.SAFETY).cpu().numpy(),
            present(world, self._exits),
            world.config.collision == "block_both",
            world.config.collision == "priority",
            world.age.cpu().numpy().astype(np.int64) if urgency is None else urgency,
            self._order,
            liking,
            facing,
            self._swap if heading is None else NO_SWAP,
            self._distances(guided),
            NOT_NEAR,
            self._table,
            executed,
        )
        return torch.from_numpy(executed).to(proposed.device)

    def _distances(self, guided: GoalFields | None) -> NDArray[np.int32]:
        """int32 ``[B, N, cells]``, distances to the goals, where the swap rule asks for them."""
        if not self._swap.active:
            return np.zeros((*self._order.shape, 0), np.int32)
        if guided is not None:
            return guided.field
        self._paths = self._paths or PathFields(self._world)
        return self._paths.current().field


@njit
def _resolve(
    key: NDArray[np.int64],
    now: Present,
    block_both: bool,
    by_index: bool,
    waited: NDArray[np.int64],
    order: NDArray[np.int32],
    liking: NDArray[np.float32],
    facing: NDArray[np.int8],
    swap: Swap,
    distances: NDArray[np.int32],
    near: NearFields,
    table: PibtTable,
    executed: NDArray[np.int64],
) -> None:
    """Replace the proposals in ``executed`` (int64 ``[B, N]``).

    liking: ``[B, N, 5]``, or ``[B, N, 1]`` if agents do not care. facing: ``[B, N]``, headings, or ``NONE``.
    """
    copies, agents = order.shape
    for b in range(copies):
        sort_by_urgency(waited[b], order[b])
        position, alive = now.position[b], now.alive[b]
        board = Board(now.exits[now.maps[b]], now.width)
        put_agents(position, alive, table)
        for n in range(agents):
            if alive[n]:
                _score_moves(n, executed[b, n], liking[b, n], position[n], board, block_both, by_index, table)
                if facing[b, n] != NONE:
                    _close_aside(facing[b, n], table.scores[n])
        ways = Ways(swap, now.goal[b], distances[b], near, b)
        settle_moves(key[b], position, alive, board, ways, order[b], table, executed[b])


@njit
def _close_aside(heading: int, scores: NDArray[np.int32]) -> None:
    """Leave a robot with that heading the move ahead, and staying."""
    for move in range(1, len(MOVES)):
        if move != AHEAD[heading]:
            scores[move] = NO_WAY


@njit
def _score_moves(
    agent: int,
    proposed: int,
    liking: NDArray[np.float32],
    cell: int,
    board: Board,
    block_both: bool,
    by_index: bool,
    table: PibtTable,
) -> None:
    """Write how much an agent dislikes its moves: 0 for what it proposed, then by liking, equals alike.

    Closed are moves that the rules refuse, whoever moves away in the same step.
    """
    scores = table.scores[agent]
    target = leads_to(proposed, cell, board)
    for move in range(len(MOVES)):
        option = cell if move == 0 else neighbour(board, cell, move)
        other = table.here[option]
        if move > 0 and (option == cell or (other != NONE and (block_both or (by_index and other > agent)))):
            scores[move] = NO_WAY
        elif option == target:
            scores[move] = 0
        else:
            scores[move] = 1
            for another in range(liking.size):
                scores[move] += liking[another] > liking[min(move, liking.size - 1)]
