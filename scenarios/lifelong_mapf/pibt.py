"""PIBT, priority inheritance with backtracking: one conflict-free joint step from distance fields.

K. Okumura, M. Machida, X. Défago, Y. Tamura, "Priority Inheritance with Backtracking for Iterative Multi-agent Path
Finding", Artificial Intelligence 310, 2022, algorithm 1. Agents choose in the order of their priority; one that wants an
occupied cell lends its priority to the occupant, who has to move first; whoever finds no cell stays and sends the lender
to its next choice. No two agents end on one cell and none swap. In a biconnected map the first agent always reaches its
goal; elsewhere PIBT is a strong rule without that promise.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.seeding import Stream, fold, fold_numba
from scenarios.lifelong_mapf.fields import neighbour
from scenarios.lifelong_mapf.guidance import NONE, GridWorld, move_between
from scenarios.lifelong_mapf.shared_guidance import GoalFields


class Pibt:
    """PIBT for all copies of ``world``, on the fields of ``GoalFields``.

    Priority: steps since the goal was given, most first, then the lower index. Preference: smaller field value, then
    cells where nobody stands now, then by chance (by counter, from the step's key).
    """

    def __init__(self, world: GridWorld, fields: GoalFields):
        self._world = world
        self._fields = fields
        copies, agents = world.position.shape
        cells = world.height * world.width
        self._goal = np.full((copies, agents), NONE, np.int32)
        self._age = np.zeros((copies, agents), np.int32)
        self._order = np.tile(np.arange(agents, dtype=np.int32), (copies, 1))
        self._now = np.full(cells, NONE, np.int32)
        self._next = np.full(cells, NONE, np.int32)
        self._choices = np.empty((agents, 5), np.int32)
        self._ranks = np.empty(5, np.int64)
        self._cursor = np.empty((agents, 2), np.int32)
        self._stack = np.empty(agents, np.int32)
        self._target = np.full(agents, NONE, np.int32)

    def restart(self, restarted: NDArray[np.bool_]) -> None:
        """Reset the priorities of copies that began a new episode (bool ``[B]``)."""
        self._age[restarted] = 0
        self._goal[restarted] = self._world.goal.cpu().numpy()[restarted]

    def act(self, key: Tensor) -> Tensor:
        """Actions int64 ``[B, N]`` at the present positions; key: int64 ``[B]``. Call once per step."""
        world = self._world
        goal = world.goal.cpu().numpy()
        self._age = np.where(goal == self._goal, self._age + 1, 0).astype(np.int32)
        self._goal = goal.copy()
        actions = np.zeros(goal.shape, np.int64)
        _decide(
            fold(key, Stream.POLICY).cpu().numpy(),
            world.map_index.cpu().numpy(),
            world.position.cpu().numpy(),
            world.alive.cpu().numpy(),
            self._age,
            self._fields.exits,
            world.width,
            self._fields.field,
            self._order,
            self._now,
            self._next,
            self._choices,
            self._ranks,
            self._cursor,
            self._stack,
            self._target,
            actions,
        )
        return torch.from_numpy(actions).to(world.device)


@numba.njit(cache=True)
def _decide(
    key: NDArray[np.int64],
    maps: NDArray[np.int32],
    position: NDArray[np.int32],
    alive: NDArray[np.bool_],
    age: NDArray[np.int32],
    exits: NDArray[np.uint8],
    width: int,
    field: NDArray[np.int32],
    order: NDArray[np.int32],
    now: NDArray[np.int32],
    later: NDArray[np.int32],
    choices: NDArray[np.int32],
    ranks: NDArray[np.int64],
    cursor: NDArray[np.int32],
    stack: NDArray[np.int32],
    target: NDArray[np.int32],
    actions: NDArray[np.int64],
) -> None:
    """All copies. ``now`` and ``later`` ``[cells]`` (who stands there, who will) and ``target`` hold -1 between copies."""
    copies, agents = position.shape
    for b in range(copies):
        sort_by_age(age[b], order[b])
        for n in range(agents):
            if alive[b, n]:
                now[position[b, n]] = n
        for rank in range(agents):
            n = order[b, rank]
            if alive[b, n] and target[n] == NONE:
                _move_chain(
                    key[b], n, position[b], exits[maps[b]], width, field[b], now, later, choices, ranks, cursor, stack, target
                )
        for n in range(agents):
            if alive[b, n]:
                actions[b, n] = move_between(position[b, n], target[n], width)
                now[position[b, n]] = NONE
                later[target[n]] = NONE
                target[n] = NONE


@numba.njit(cache=True)
def sort_by_age(age: NDArray[np.int32], order: NDArray[np.int32]) -> None:
    """Sort agents by age, oldest first, then by index. By insertion: the last step's order is almost right."""
    for i in range(1, order.size):
        n = order[i]
        j = i - 1
        while j >= 0 and (age[order[j]] < age[n] or (age[order[j]] == age[n] and order[j] > n)):
            order[j + 1] = order[j]
            j -= 1
        order[j + 1] = n


@numba.njit(cache=True)
def _move_chain(
    key: np.int64,
    first: int,
    position: NDArray[np.int32],
    exits: NDArray[np.uint8],
    width: int,
    field: NDArray[np.int32],
    now: NDArray[np.int32],
    later: NDArray[np.int32],
    choices: NDArray[np.int32],
    ranks: NDArray[np.int64],
    cursor: NDArray[np.int32],
    stack: NDArray[np.int32],
    target: NDArray[np.int32],
) -> None:
    """Find a target for agent ``first`` and for all whom it has to push. The stack is the line of inheritance."""
    top = 0
    stack[0] = first
    _rank_choices(key, first, position[first], exits, width, field[first], now, choices[first], ranks, cursor[first])
    while top >= 0:
        agent = stack[top]
        if cursor[agent, 0] == cursor[agent, 1]:
            target[agent] = position[agent]
            later[position[agent]] = agent
            top -= 1
            continue
        cell = choices[agent, cursor[agent, 0]]
        cursor[agent, 0] += 1
        occupant = now[cell]
        if later[cell] != NONE or (occupant != NONE and target[occupant] == position[agent] and occupant != agent):
            continue
        later[cell] = agent
        target[agent] = cell
        if occupant == NONE or target[occupant] != NONE:
            # The last of the line has its cell, and with it everybody who waited for that.
            return
        top += 1
        stack[top] = occupant
        _rank_choices(
            key, occupant, position[occupant], exits, width, field[occupant], now, choices[occupant], ranks, cursor[occupant]
        )


@numba.njit(cache=True)
def _rank_choices(
    key: np.int64,
    agent: int,
    cell: int,
    exits: NDArray[np.uint8],
    width: int,
    field: NDArray[np.int32],
    now: NDArray[np.int32],
    choices: NDArray[np.int32],
    ranks: NDArray[np.int64],
    cursor: NDArray[np.int32],
) -> None:
    """Write the free cells that the agent can go to, best first, and set its cursor to (0, their number)."""
    chance = np.uint64(fold_numba(key, np.int64(agent)))
    count = 0
    for move in range(5):
        option = cell if move == 0 else neighbour(exits, width, cell, move)
        if move > 0 and option == cell:
            continue
        occupied = np.int64(move > 0 and now[option] != NONE)
        noise = np.int64((chance >> np.uint64(8 * move)) & np.uint64(255))
        rank = ((np.int64(field[option]) * 2 + occupied) << 8) | noise
        place = count
        while place > 0 and ranks[place - 1] > rank:
            ranks[place] = ranks[place - 1]
            choices[place] = choices[place - 1]
            place -= 1
        ranks[place] = rank
        choices[place] = option
        count += 1
    cursor[0], cursor[1] = 0, count
