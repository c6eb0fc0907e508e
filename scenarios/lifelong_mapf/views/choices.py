"""What an agent knows of each of its five moves: the rows that a move scorer reads (encoder ``choices``).

The feature ``choices`` of one agent is float32 ``[5, N_FEATURES]``, a row for each move (stay, up, down, left, right)
about the cell that it leads to, in the order of ``FEATURES``; rows of blocked moves are 0 but for the last columns,
which tell the same of the agent in every row. It is a central planner's view: where everybody wants to go, who goes
first (the urgency of ``pibt``), and moving averages of the traffic.

"Distances" are those by which PIBT ranks the moves (``preferences``), of the move to t. "Wants": of the cells around it
the one at the smallest distance, on the goal its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from marl.compiled import njit
from scenarios.lifelong_mapf.guidance.base import NONE, GridWorld, Present, best_neighbour, move_between, present
from scenarios.lifelong_mapf.guidance.prices import Prices
from scenarios.lifelong_mapf.guidance.shared import GoalFields
from scenarios.lifelong_mapf.maps.fields import MOVES, Board, neighbour
from scenarios.lifelong_mapf.pibt.preferences import NO_WAY, Scale, scale_of, write_preferences, write_urgency
from scenarios.lifelong_mapf.pibt.rule import sort_by_urgency

#: Name -> what it says of the cell t that a move leads to; c is the agent's own cell.
FEATURES: dict[str, str] = {
    "free": "1 unless the move is blocked",
    "stay": "1 for staying",
    "excess": "distance beyond that of the wanted cell, steps / 4, within [-2, 2]",
    "best": "1 if the distance is not beyond that of the wanted cell",
    "progress": "distance saved against the field at c, steps / 2, within [-2, 2]",
    "goal": "1 if t is the goal",
    "back": "1 if the agent came from t in the last step",
    "occupied": "1 if another agent stands on t",
    "occupant_first": "1 if it goes before this agent",
    "occupant_head_on": "1 if it wants c",
    "occupant_leaves": "1 if it wants a cell other than t where nobody stands",
    "occupant_still": "1 if it stood on t one step ago",
    "rivals": "others that want t and do not stand there / 3",
    "rival_first": "1 if one of them goes before this agent",
    "neighbours": "others on the four cells around t / 3",
    "exits": "free cells around t / 4",
    "ways_out": "free cells around t where nobody stands, or this agent does, / 4",
    "crowd": "others within two rows and columns of t / 8",
    "path_agents": "others on the next PATH cells of the guided path from t / 4",
    "path_head_on": "those of them that want the path cell before theirs / 2",
    "path_occupancy": "mean of the occupancy over these cells",
    "occupancy": "moving average of: an agent stands on t",
    "waiting": "moving average of: an agent stands on t for a second step, 4 times",
    "flow": "moving average of the move c -> t, 4 times",
    "opposing": "moving average of the move t -> c, 4 times",
    "superior_head_on": "1 if the occupant wants c and goes before this agent",
    "wanted": "others that want c / 3",
    "wanted_first": "1 if one of them goes before this agent",
    "still": "w / (w + 4), w steps that the agent has not moved",
    "age": "a / (a + 32), a steps since the goal was given",
    "rank": "share of the agents that go before this one",
    "distance": "d / (d + 16), d the field at c, in steps",
}
N_FEATURES = len(FEATURES)
SPACE = spaces.Box(-2.0, 2.0, (len(MOVES), N_FEATURES), np.float32)
PATH = 6
#: Decay per step of the averages.
DECAY = np.float32(0.95)


class AgedWorld(GridWorld, Protocol):
    """age: int32 ``[B, N]``, steps since the goal was given."""

    age: Tensor


class Traffic(NamedTuple):
    """Moving averages, float32 ``[B, cells]`` and ``[B, 4, cells]``.

    Of agents on a cell, of agents that stay on it, and of moves out of it, move k at k - 1.
    """

    occupancy: NDArray[np.float32]
    waiting: NDArray[np.float32]
    flow: NDArray[np.float32]


class Past(NamedTuple):
    """What is remembered of the agents, int32 ``[B, N]``.

    Where they stood one step ago, how many steps they have not moved, steps since their goal was given, and their
    numbers in the order of priority at some earlier moment.
    """

    previous: NDArray[np.int32]
    still: NDArray[np.int32]
    age: NDArray[np.int32]
    order: NDArray[np.int32]


class Guided(NamedTuple):
    """Fields int32 ``[B, N, cells]`` in 1 / ``units`` steps, and what PIBT makes of them (``preferences``)."""

    field: NDArray[np.int32]
    units: int
    prices: Prices
    scale: Scale


class Scratch(NamedTuple):
    """Of one copy.

    here, wishes, strongest: int32 ``[cells]``: who stands on a cell, how many want it without standing on it, and the
    first of them in rank; ``NONE``, 0 and ``NONE`` between copies. wanted: int32 ``[cells]``, 0, and value: int32
    ``[N, 5]``, see ``write_preferences``. want, rank: int32 ``[N]``; urgency: int64 ``[N]``.
    """

    here: NDArray[np.int32]
    wishes: NDArray[np.int32]
    strongest: NDArray[np.int32]
    wanted: NDArray[np.int32]
    want: NDArray[np.int32]
    rank: NDArray[np.int32]
    value: NDArray[np.int32]
    urgency: NDArray[np.int64]


class Choices:
    """The feature ``choices`` of all agents of ``world`` on the shared ``fields``; call as ``Guidance`` says."""

    def __init__(self, world: AgedWorld, fields: GoalFields):
        self._world, self._fields = world, fields
        self.spaces: dict[str, spaces.Space[Any]] = {"choices": SPACE}
        copies, agents = world.position.shape
        cells = world.height * world.width
        self._traffic = Traffic(
            np.zeros((copies, cells), np.float32),
            np.zeros((copies, cells), np.float32),
            np.zeros((copies, 4, cells), np.float32),
        )
        self._previous = np.full((copies, agents), NONE, np.int32)
        self._now = np.full((copies, agents), NONE, np.int32)
        self._still = np.zeros((copies, agents), np.int32)
        self._order = np.tile(np.arange(agents, dtype=np.int32), (copies, 1))
        self._scratch = Scratch(
            np.full(cells, NONE, np.int32),
            np.zeros(cells, np.int32),
            np.full(cells, NONE, np.int32),
            np.zeros(cells, np.int32),
            np.empty(agents, np.int32),
            np.empty(agents, np.int32),
            np.empty((agents, len(MOVES)), np.int32),
            np.empty(agents, np.int64),
        )

    def restart(self, restarted: NDArray[np.bool_]) -> None:
        """Forget the traffic of copies that began a new episode (bool ``[B]``)."""
        for average in self._traffic:
            average[restarted] = 0.0
        self._still[restarted] = 0
        self._previous[restarted] = NONE
        self._now[restarted] = self._world.position.cpu().numpy()[restarted]

    def advance(self) -> None:
        """Take in the step that all copies just made."""
        self._previous, self._now = self._now, self._world.position.cpu().numpy().copy()
        self._still = np.where(self._now == self._previous, self._still + 1, 0).astype(np.int32)
        now = present(self._world, self._fields.exits)
        _average(now, self._previous, self._traffic)

    def features(self) -> dict[str, Tensor]:
        """``choices`` at the present moment; zeros for agents that are not alive."""
        world = self._world
        out = np.zeros((*world.position.shape, *SPACE.shape), np.float32)
        now, age = present(world, self._fields.exits), world.age.cpu().numpy()
        past = Past(self._previous, self._still, age, self._order)
        fields = self._fields
        guided = Guided(fields.field, fields.units, fields.prices(), scale_of(fields.weights, fields.units))
        write_choices(now, guided, past, self._traffic, self._scratch, out)
        return {"choices": torch.from_numpy(out).to(world.device)}

    def state(self) -> dict[str, NDArray[Any]]:
        """The memory of all copies by name, arrays that may be written to."""
        memory = {"previous": self._previous, "now": self._now, "still": self._still}
        return {f"choices_{name}": array for name, array in (memory | self._traffic._asdict()).items()}


@njit
def _average(now: Present, previous: NDArray[np.int32], traffic: Traffic) -> None:
    share = np.float32(1.0) - DECAY
    for b in range(previous.shape[0]):
        occupancy, waiting, flow = traffic.occupancy[b], traffic.waiting[b], traffic.flow[b]
        for cell in range(occupancy.size):
            occupancy[cell] *= DECAY
            waiting[cell] *= DECAY
        for move in range(flow.shape[0]):
            for cell in range(flow.shape[1]):
                flow[move, cell] *= DECAY
        for n in range(previous.shape[1]):
            if not now.alive[b, n]:
                continue
            cell, last = now.position[b, n], previous[b, n]
            occupancy[cell] += share
            if cell == last:
                waiting[cell] += share
            elif last != NONE:
                flow[move_between(last, cell, now.width) - 1, last] += share


@njit
def write_choices(
    now: Present,
    guided: Guided,
    past: Past,
    traffic: Traffic,
    scratch: Scratch,
    out: NDArray[np.float32],
) -> None:
    """Write ``choices`` of all living agents. out: float32 ``[B, N, 5, N_FEATURES]``, zeros on entry."""
    prices, scale = guided.prices, guided.scale
    for b in range(out.shape[0]):
        m = now.maps[b]
        board, field = Board(now.exits[m], now.width), guided.field[b]
        position, alive, order = now.position[b], now.alive[b], past.order[b]
        write_urgency(position, past.age[b], field, scale, scratch.urgency)
        sort_by_urgency(scratch.urgency, order)
        for place in range(order.size):
            scratch.rank[order[place]] = place
        for n in range(position.size):
            if alive[n]:
                scratch.here[position[n]] = n
        write_preferences(
            position,
            alive,
            board,
            field,
            prices,
            m,
            b,
            scale,
            scratch.here,
            scratch.wanted,
            scratch.value,
        )
        for n in range(position.size):
            if alive[n]:
                _wish(n, board, position[n], field[n], scratch)
        for n in range(position.size):
            if alive[n]:
                _write_rows(b, n, board, now, field[n], guided.units, past, traffic, scratch, out[b, n])
        for n in range(position.size):
            if alive[n]:
                scratch.here[position[n]] = NONE
                scratch.wishes[scratch.want[n]] = 0
                scratch.strongest[scratch.want[n]] = NONE


@njit
def _wish(n: int, board: Board, cell: int, field: NDArray[np.int32], scratch: Scratch) -> None:
    """Note the cell that an agent wants."""
    value = scratch.value[n]
    want, least = cell, NO_WAY
    for move in range(1, 5):
        if field[cell] > 0 and value[move] < least:
            want, least = neighbour(board, cell, move), value[move]
    scratch.want[n] = want
    if want != cell:
        scratch.wishes[want] += 1
        first = scratch.strongest[want]
        if first == NONE or scratch.rank[n] < scratch.rank[first]:
            scratch.strongest[want] = n


@njit
def _write_rows(
    b: int,
    n: int,
    board: Board,
    now: Present,
    field: NDArray[np.int32],
    units: int,
    past: Past,
    traffic: Traffic,
    scratch: Scratch,
    rows: NDArray[np.float32],
) -> None:
    """The five rows of one agent; columns in the order of ``FEATURES``."""
    width = now.width
    cell, goal = now.position[b, n], now.goal[b, n]
    here, want, rank, value = scratch.here, scratch.want, scratch.rank, scratch.value[n]
    place = rank[n]
    unit = np.float32(1.0 / units)
    least = value[move_between(cell, want[n], width)]
    superiors_want = scratch.strongest[cell] != NONE and rank[scratch.strongest[cell]] < place
    still, age = np.float32(past.still[b, n]), np.float32(past.age[b, n])
    distance = np.float32(field[cell]) * unit
    for move in range(5):
        row = rows[move]
        row[26] = np.float32(scratch.wishes[cell]) / np.float32(3.0)
        row[27] = superiors_want
        row[28] = still / (still + np.float32(4.0))
        row[29] = age / (age + np.float32(32.0))
        row[30] = np.float32(place) / np.float32(rank.size)
        row[31] = distance / (distance + np.float32(16.0))
        target = cell if move == 0 else neighbour(board, cell, move)
        if move and target == cell:
            continue
        row[0] = 1.0
        row[1] = move == 0
        excess = np.float32(value[move] - least) * unit
        row[2] = max(min(excess * np.float32(0.25), np.float32(2.0)), np.float32(-2.0))
        row[3] = value[move] <= least
        progress = np.float32(field[cell] - value[move]) * unit * np.float32(0.5)
        row[4] = max(min(progress, np.float32(2.0)), np.float32(-2.0))
        row[5] = target == goal
        row[6] = move > 0 and target == past.previous[b, n]
        other = here[target]
        if other != NONE and other != n:
            first = rank[other] < place
            head_on = want[other] == cell
            row[7] = 1.0
            row[8] = first
            row[9] = head_on
            row[10] = want[other] != target and here[want[other]] == NONE
            row[11] = past.previous[b, other] == target
            row[25] = head_on and first
        rivals = scratch.wishes[target] - np.int32(want[n] == target and move > 0)
        row[12] = np.float32(rivals) / np.float32(3.0)
        strongest = scratch.strongest[target]
        row[13] = strongest != NONE and rank[strongest] < place
        _write_surroundings(n, board, target, here, row)
        _write_path(b, n, board, target, field, traffic.occupancy[b], scratch, row)
        row[21] = traffic.occupancy[b, target]
        row[22] = np.float32(4.0) * traffic.waiting[b, target]
        if move:
            row[23] = np.float32(4.0) * traffic.flow[b, move - 1, cell]
            row[24] = np.float32(4.0) * traffic.flow[b, ((move - 1) ^ 1), target]


@njit
def _write_surroundings(n: int, board: Board, target: int, here: NDArray[np.int32], row: NDArray[np.float32]) -> None:
    """``neighbours``, ``exits``, ``ways_out`` and ``crowd``."""
    beside = ways = out = 0
    for side in range(1, 5):
        cell = neighbour(board, target, side)
        if cell == target:
            continue
        ways += 1
        taken = here[cell] != NONE and here[cell] != n
        beside += taken
        out += not taken
    crowd = 0
    height = board.exits.size // board.width
    line, column = target // board.width, target % board.width
    for r in range(max(line - 2, 0), min(line + 3, height)):
        for c in range(max(column - 2, 0), min(column + 3, board.width)):
            other = here[r * board.width + c]
            crowd += other != NONE and other != n
    row[14] = np.float32(beside) / np.float32(3.0)
    row[15] = np.float32(ways) / np.float32(4.0)
    row[16] = np.float32(out) / np.float32(4.0)
    row[17] = np.float32(crowd) / np.float32(8.0)


@njit
def _write_path(
    b: int,
    n: int,
    board: Board,
    target: int,
    field: NDArray[np.int32],
    occupancy: NDArray[np.float32],
    scratch: Scratch,
    row: NDArray[np.float32],
) -> None:
    """``path_agents``, ``path_head_on`` and ``path_occupancy``: down the field from ``target``."""
    met = against = length = 0
    total = np.float32(0.0)
    cell = target
    for _ in range(PATH):
        after = best_neighbour(board, field, cell)
        if after == cell:
            break
        length += 1
        total += occupancy[after]
        other = scratch.here[after]
        if other != NONE and other != n:
            met += 1
            against += scratch.want[other] == cell
        cell = after
    row[18] = np.float32(met) / np.float32(4.0)
    row[19] = np.float32(against) / np.float32(2.0)
    row[20] = total / np.float32(max(length, 1))
