"""PIBT, priority inheritance with backtracking: one conflict-free joint step from distance fields.

K. Okumura, M. Machida, X. Défago, Y. Tamura, "Priority Inheritance with Backtracking for Iterative Multi-agent Path
Finding", Artificial Intelligence 310, 2022, algorithm 1. Agents choose in the order of their priority. One that wants
an occupied cell lends its priority to the occupant, who has to move first; an occupant that finds no cell stays and
sends the lender to its next choice. No two agents end on one cell and none swap. On a biconnected map the first agent
always gets nearer to its goal; elsewhere PIBT is a strong rule without that promise. Where two would push each other to
and fro for ever, the authors' swap rule helps (``swap``).

``reference`` is the same in the papers' letters. Here ``table.here`` and ``table.there`` are who is and who will be on
a vertex (occupied_now, occupied_next), ``table.target`` is Q_to, ``table.choices`` the candidates C of each agent, and
``table.line`` the stack of the agents that wait for the one they push: what is recursion there is a loop here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.compiled import njit
from marl.seeding import Stream, fold, fold_numba
from scenarios.lifelong_mapf.guidance.base import NONE, GridWorld, Present, move_between, present
from scenarios.lifelong_mapf.guidance.prices import Prices
from scenarios.lifelong_mapf.guidance.shared import GoalFields
from scenarios.lifelong_mapf.maps.fields import MOVES, Board, neighbour
from scenarios.lifelong_mapf.pibt.near_fields import NearFields, no_fields
from scenarios.lifelong_mapf.pibt.preferences import (
    NO_WAY,
    Scale,
    add_turns,
    scale_of,
    write_field_scores,
    write_preferences,
    write_urgency,
)
from scenarios.lifelong_mapf.pibt.swap import NO_SWAP, Swap, Ways, swap_partner


class Pibt:
    """PIBT for all copies of ``world``, on the fields of ``GoalFields``.

    Priority: the sum of the steps since the goal was given (0 for those who stay on theirs) and, weighted by
    ``closer_first``, of minus the guided distance; most first, then the lower index. Preference: smaller score
    (``preferences``), then cells where nobody stands now, then by chance (by counter, from the step's key). swap:
    whether and how the swap rule is played. heading: the world's int8 ``[B, N]``, of robots that turn, to whom turns
    cost something too; the actions are moves all the same.
    """

    def __init__(self, world: GridWorld, fields: GoalFields, swap: Swap = NO_SWAP, heading: Tensor | None = None):
        self._world, self._heading = world, heading
        self._swap = swap
        self._fields = fields
        copies, agents = world.position.shape
        cells = world.height * world.width
        self._goal = np.full((copies, agents), NONE, np.int32)
        self._age = np.zeros((copies, agents), np.int32)
        self._order = np.tile(np.arange(agents, dtype=np.int32), (copies, 1))
        self._urgency = np.zeros((copies, agents), np.int64)
        self._table = pibt_table(cells, agents)
        self._scale = scale_of(fields.weights, fields.units)
        self._wanted = np.zeros(cells, np.int32)

    def restart(self, restarted: NDArray[np.bool_]) -> None:
        """Reset the priorities of copies that began a new episode (bool ``[B]``)."""
        self._age[restarted] = 0
        self._goal[restarted] = self._world.goal.cpu().numpy()[restarted]

    @property
    def scores(self) -> NDArray[np.int32]:
        """int32 ``[N, 5]``: what the agents of the last copy thought of their moves in the last step."""
        return self._table.scores

    def act(self, key: Tensor) -> Tensor:
        """Actions int64 ``[B, N]`` at the present positions; key: int64 ``[B]``. Call once per step."""
        world = self._world
        goal = world.goal.cpu().numpy()
        away = world.position.cpu().numpy() != goal
        self._age = np.where((goal == self._goal) & away, self._age + 1, 0).astype(np.int32)
        self._goal = goal.copy()
        actions = np.zeros(goal.shape, np.int64)
        _decide(
            fold(key, Stream.POLICY).cpu().numpy(),
            present(world, self._fields.exits),
            self._swap,
            NOT_NEAR,
            self._fields.field,
            self._fields.prices(),
            self._scale,
            facing(self._heading, goal),
            self._fields.units,
            self._age,
            self._urgency,
            self._wanted,
            self._order,
            self._table,
            actions,
        )
        return torch.from_numpy(actions).to(world.device)


def facing(heading: Tensor | None, goal: NDArray[np.int32]) -> NDArray[np.int8]:
    """The headings as kernels read them, ``[B, N]``, or ``[B, 0]`` of robots that do not turn. goal: ``[B, N]``."""
    return np.zeros((len(goal), 0), np.int8) if heading is None else heading.cpu().numpy()


class PibtTable(NamedTuple):
    """Where the agents of one copy settle who goes where; ``NONE`` in the first three between copies.

    here, there: int32 ``[cells]``, who stands on a cell, who will. target: int32 ``[N]``, each agent's next cell.
    line: int32 ``[N]``, the stack of agents that wait for the last of them.
    choices: int32 ``[N, 5]``, cells that an agent can go to, best first; cursor: int32 ``[N, 2]``, the next of them to
    try and their number. ranks: int64 ``[5]``, by which one agent's choices are sorted.
    scores: int32 ``[N, 5]``, how much an agent dislikes each move, ``NO_WAY`` where there is none.
    partner: int32 ``[N]``, with whom an agent changes places, or ``NONE``.
    """

    here: NDArray[np.int32]
    there: NDArray[np.int32]
    target: NDArray[np.int32]
    line: NDArray[np.int32]
    choices: NDArray[np.int32]
    cursor: NDArray[np.int32]
    ranks: NDArray[np.int64]
    scores: NDArray[np.int32]
    partner: NDArray[np.int32]


#: In the ``Ways`` of those who know whole fields.
NOT_NEAR = no_fields()


def pibt_table(cells: int, agents: int) -> PibtTable:
    """A table of free places."""
    return PibtTable(
        np.full(cells, NONE, np.int32),
        np.full(cells, NONE, np.int32),
        np.full(agents, NONE, np.int32),
        np.empty(agents, np.int32),
        np.empty((agents, len(MOVES)), np.int32),
        np.empty((agents, 2), np.int32),
        np.empty(len(MOVES), np.int64),
        np.empty((agents, len(MOVES)), np.int32),
        np.full(agents, NONE, np.int32),
    )


@njit
def _decide(
    key: NDArray[np.int64],
    now: Present,
    swap: Swap,
    near: NearFields,
    field: NDArray[np.int32],
    prices: Prices,
    scale: Scale,
    heading: NDArray[np.int8],
    units: int,
    age: NDArray[np.int32],
    urgency: NDArray[np.int64],
    wanted: NDArray[np.int32],
    order: NDArray[np.int32],
    table: PibtTable,
    actions: NDArray[np.int64],
) -> None:
    for b in range(len(order)):
        m = now.maps[b]
        position, alive, board = now.position[b], now.alive[b], Board(now.exits[m], now.width)
        write_urgency(position, age[b], field[b], scale, urgency[b])
        sort_by_urgency(urgency[b], order[b])
        put_agents(position, alive, table)
        write_preferences(position, alive, board, field[b], prices, m, b, scale, table.here, wanted, table.scores)
        add_turns(heading[b], alive, units, table.scores)
        ways = Ways(swap, now.goal[b], field[b], near, b)
        settle_moves(key[b], position, alive, board, ways, order[b], table, actions[b])


@njit
def settle_moves(
    key: np.int64,
    position: NDArray[np.int32],
    alive: NDArray[np.bool_],
    board: Board,
    ways: Ways,
    order: NDArray[np.int32],
    table: PibtTable,
    actions: NDArray[np.int64],
) -> None:
    """As ``settle_targets``, with the moves to the targets in ``actions`` (``[N]``) in the place of the targets.

    An action that leads to the agent's target stays as it is, also one into a wall.
    """
    settle_targets(key, position, alive, board, ways, order, table)
    for n in range(order.size):
        if alive[n] and leads_to(actions[n], position[n], board) != table.target[n]:
            actions[n] = move_between(position[n], table.target[n], board.width)
    forget_targets(position, alive, table)


@njit
def leads_to(action: int, cell: int, board: Board) -> int:
    """The cell that an action of whatever number leads to if nobody is in the way."""
    return neighbour(board, cell, action) if 0 < action < len(MOVES) else cell


@njit
def joint_targets(
    key: np.int64,
    position: NDArray[np.int32],
    alive: NDArray[np.bool_],
    board: Board,
    ways: Ways,
    order: NDArray[np.int32],
    table: PibtTable,
) -> None:
    """Write into ``table.target`` where the agents of one copy go on plain fields, asked in the ``order`` given.

    Args:
        position, alive, order: ``[N]``; exits: ``[cells]``; field: ``[N, cells]``. Call ``forget_targets`` after
            reading.
    """
    put_agents(position, alive, table)
    for n in range(order.size):
        if alive[n]:
            write_field_scores(position[n], board, ways.field[n], table.scores[n])
    settle_targets(key, position, alive, board, ways, order, table)


@njit
def put_agents(position: NDArray[np.int32], alive: NDArray[np.bool_], table: PibtTable) -> None:
    """Note in ``table.here`` who stands where."""
    for n in range(position.size):
        if alive[n]:
            table.here[position[n]] = n


@njit
def settle_targets(
    key: np.int64,
    position: NDArray[np.int32],
    alive: NDArray[np.bool_],
    board: Board,
    ways: Ways,
    order: NDArray[np.int32],
    table: PibtTable,
) -> None:
    """Write into ``table.target`` where the agents of one copy go by ``table.scores``, asked in the ``order`` given.

    Call ``put_agents`` before and, when the targets are read, ``forget_targets``. key: decides between equal scores.
    """
    for rank in range(order.size):
        n = order[rank]
        if alive[n] and table.target[n] == NONE:
            _move_line(key, n, position, board, ways, table)


@njit
def forget_targets(position: NDArray[np.int32], alive: NDArray[np.bool_], table: PibtTable) -> None:
    """Leave ``table`` as ``joint_targets`` found it."""
    for n in range(position.size):
        if alive[n]:
            table.here[position[n]] = NONE
            table.there[table.target[n]] = NONE
            table.target[n] = NONE


@njit
def sort_by_urgency(urgency: NDArray[np.int64], order: NDArray[np.int32]) -> None:
    """Sort agents by urgency, most first, then by index. By insertion: the last step's order is almost right."""
    for i in range(1, order.size):
        n = order[i]
        j = i - 1
        while j >= 0 and (urgency[order[j]] < urgency[n] or (urgency[order[j]] == urgency[n] and order[j] > n)):
            order[j + 1] = order[j]
            j -= 1
        order[j + 1] = n


@njit
def _move_line(
    key: np.int64,
    first: int,
    position: NDArray[np.int32],
    board: Board,
    ways: Ways,
    table: PibtTable,
) -> None:
    """Find a target for agent ``first`` and for all whom it has to push."""
    line, cursor, target = table.line, table.cursor, table.target
    length = 1
    line[0] = first
    _rank_choices(key, first, position[first], board, ways, table)
    while length:
        agent = line[length - 1]
        if cursor[agent, 0] == cursor[agent, 1]:
            # Backtracking: it stays, and whoever pushed it tries the next of its own choices.
            target[agent] = position[agent]
            table.there[position[agent]] = agent
            length -= 1
            continue
        cell = table.choices[agent, cursor[agent, 0]]
        cursor[agent, 0] += 1
        occupant = table.here[cell]
        exchange = occupant != NONE and occupant != agent and target[occupant] == position[agent]
        if exchange or table.there[cell] != NONE:
            continue
        table.there[cell] = agent
        target[agent] = cell
        if occupant == NONE or target[occupant] != NONE:
            # The last of the line has its cell, and with it everybody who waited for that.
            if ways.swap.active:
                _pull_partners(length, position, board, table)
            return
        # Priority inheritance: the occupant has to move first.
        line[length] = occupant
        length += 1
        _rank_choices(key, occupant, cell, board, ways, table)


@njit
def _pull_partners(length: int, position: NDArray[np.int32], board: Board, table: PibtTable) -> None:
    """Let those with whom agents of the line swap follow into the cells that they leave, the last of the line first."""
    for place in range(length - 1, -1, -1):
        agent = table.line[place]
        partner, cell = table.partner[agent], position[agent]
        first_choice = table.cursor[agent, 0] == 1
        if partner == NONE or not first_choice or table.target[partner] != NONE or table.there[cell] != NONE:
            continue
        if table.scores[partner, move_between(position[partner], cell, board.width)] != NO_WAY:
            table.there[cell] = partner
            table.target[partner] = cell


@njit
def _rank_choices(key: np.int64, agent: int, cell: int, board: Board, ways: Ways, table: PibtTable) -> None:
    """Write the free cells that the agent on ``cell`` can go to, best first, and set its cursor."""
    choices, ranks, scores = table.choices[agent], table.ranks, table.scores[agent]
    chance = np.uint64(fold_numba(key, np.int64(agent)))
    count = 0
    for move in range(len(MOVES)):
        if scores[move] == NO_WAY:
            continue
        option = cell if move == 0 else neighbour(board, cell, move)
        occupied = np.int64(move > 0 and table.here[option] != NONE)
        noise = np.int64((chance >> np.uint64(8 * move)) & np.uint64(255))
        rank = ((np.int64(scores[move]) * 2 + occupied) << 8) | noise
        place = count
        while place > 0 and ranks[place - 1] > rank:
            ranks[place] = ranks[place - 1]
            choices[place] = choices[place - 1]
            place -= 1
        ranks[place] = rank
        choices[place] = option
        count += 1
    table.cursor[agent, 0], table.cursor[agent, 1] = 0, count
    table.partner[agent] = NONE
    if ways.swap.active:
        table.partner[agent] = swap_partner(agent, cell, choices[0], board, ways, table.here, table.target)
        if table.partner[agent] != NONE:
            for i in range(count // 2):
                choices[i], choices[count - 1 - i] = choices[count - 1 - i], choices[i]
