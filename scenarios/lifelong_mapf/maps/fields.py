"""Distance fields on grids: breadth-first, weighted, and the average distance of every cell.

A grid of ``height`` x ``width`` is a flat array of cells ``row * width + column``. ``exits`` (uint8 ``[cells]``) says
which neighbours of a cell are free, bit k - 1 for move k of ``MOVES``; kernels then test neither borders nor walls.

A field holds for every cell the COST OF ENTERING IT AND WALKING ON to the goal, 0 at the goal (int32): a neighbour's
value is thus the price of the move there, and descending the field walks a cheapest path. Costs belong to cells (the
cost of entering), so a cell's value is final when its first neighbour is settled, and Dijkstra needs no decrease of
keys: each cell enters the queue once (its buckets: R. B. Dial, "Algorithm 360: shortest-path forest with topological
ordering", CACM 1969). With all costs 1 the field is the number of steps to the goal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marl.compiled import njit

#: Row and column offsets of the moves: 0 stay, 1 up, 2 down, 3 left, 4 right.
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))

#: Value of cells from which the goal cannot be reached, and of blocked ones.
UNREACHED = 1 << 30

#: Number of buckets of ``weighted_field``: entering a cell costs at least 1 and less than this.
BUCKETS = 1024

#: ``average_distance`` measures from all cells of maps up to 64 times this size, else from this many groups of 64.
SOURCE_GROUPS = 64

_GOLDEN = 0.6180339887498949


class Board(NamedTuple):
    """One map as kernels read it. exits: uint8 ``[cells]``, see above. width: cells in a row."""

    exits: NDArray[np.uint8]
    width: int


def open_moves(blocked: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """``exits`` of a grid ``blocked`` (``[height * width]`` or ``[height, width]``, 1 blocked); 0 for blocked cells."""
    free = blocked.reshape(height, width) == 0
    exits = np.zeros((height, width), np.uint8)
    exits[1:] |= free[:-1].astype(np.uint8)
    exits[:-1] |= free[1:].astype(np.uint8) << 1
    exits[:, 1:] |= free[:, :-1].astype(np.uint8) << 2
    exits[:, :-1] |= free[:, 1:].astype(np.uint8) << 3
    exits[~free] = 0
    return exits.reshape(-1)


def open_moves_of(blocked: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """``open_moves`` of M maps, ``[M, cells]``."""
    return np.stack([open_moves(grid, height, width) for grid in blocked])


@njit(inline="always")
def neighbour(board: Board, cell: int, move: int) -> int:
    """The cell that ``move`` (1 to 4) leads to, or ``cell`` itself where the way is not free."""
    free = (int(board.exits[cell]) >> (move - 1)) & 1
    if move == 1:
        return cell - board.width * free
    if move == 2:
        return cell + board.width * free
    if move == 3:
        return cell - free
    return cell + free


@njit
def step_field(board: Board, goal: int, field: NDArray[np.int32], queue: NDArray[np.int32]) -> None:
    """Write the number of steps to ``goal`` into ``field``, breadth first; ``queue`` (``[cells]``) is scratch."""
    field[:] = UNREACHED
    field[goal] = 0
    queue[0] = goal
    head, tail = 0, 1
    while head < tail:
        cell = queue[head]
        head += 1
        value = field[cell] + 1
        for move in range(1, 5):
            target = neighbour(board, cell, move)
            if field[target] == UNREACHED:
                field[target] = value
                queue[tail] = target
                tail += 1


@njit
def weighted_field(
    board: Board,
    cost: NDArray[np.int32],
    goal: int,
    field: NDArray[np.int32],
    heads: NDArray[np.int32],
    links: NDArray[np.int32],
) -> None:
    """Write the cheapest cost to ``goal`` into ``field``.

    Args:
        cost: ``[cells]``, of entering a cell, 1 to ``BUCKETS`` - 1.

    heads ``[BUCKETS]``, all -1 on entry and on return, and links ``[cells]`` are scratch: the waiting cells whose value
    falls into one bucket (value modulo ``BUCKETS``) form a linked list.
    """
    field[:] = UNREACHED
    field[goal] = 0
    heads[0] = goal
    links[goal] = -1
    waiting = 1
    bucket = 0
    while waiting:
        cell = heads[bucket]
        if cell < 0:
            bucket = (bucket + 1) & (BUCKETS - 1)
            continue
        heads[bucket] = links[cell]
        waiting -= 1
        value = field[cell]
        for move in range(1, 5):
            target = neighbour(board, cell, move)
            if field[target] == UNREACHED:
                reached = value + cost[target]
                field[target] = reached
                slot = reached & (BUCKETS - 1)
                links[target] = heads[slot]
                heads[slot] = target
                waiting += 1


@njit
def directed_field(
    board: Board,
    cost: NDArray[np.int32],
    extra: NDArray[np.int32],
    goal: int,
    field: NDArray[np.int32],
    heads: NDArray[np.int32],
    links: NDArray[np.int32],
) -> None:
    """``weighted_field`` where a move's price also depends on its direction.

    Args:
        extra: ``[4 * cells]``, at least 0; entry 4 * c + k - 1 is what the move INTO c from its neighbour at move k
            costs besides. cost + extra counts as ``BUCKETS`` - 1 where it is more. From u the cheapest way goes
            over the neighbour v with the smallest ``field[v] + extra`` of the move u -> v; ``field[u]`` is that and
            ``cost[u]``.
        links: ``[4 * cells]``. A cell may wait in several buckets, once for each neighbour, and counts from the
            first.
    """
    field[:] = UNREACHED
    field[goal] = 0
    heads[0] = 4 * goal
    links[4 * goal] = -1
    waiting = 1
    now = 0
    while waiting:
        slot = now & (BUCKETS - 1)
        entry = heads[slot]
        if entry < 0:
            now += 1
            continue
        heads[slot] = links[entry]
        waiting -= 1
        cell = entry >> 2
        if field[cell] != now:
            continue
        for move in range(1, 5):
            target = neighbour(board, cell, move)
            reached = now + min(cost[target] + extra[4 * cell + move - 1], BUCKETS - 1)
            if reached < field[target]:
                field[target] = reached
                slot = reached & (BUCKETS - 1)
                entry = 4 * target + move - 1
                links[entry] = heads[slot]
                heads[slot] = entry
                waiting += 1


@njit(inline="always")
def _ones(bits: np.uint64) -> np.int64:
    """The number of set bits (the usual sideways sum, which compilers know as one instruction)."""
    x = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit
def _spread(
    board: Board,
    sources: NDArray[np.int32],
    total: NDArray[np.int64],
    count: NDArray[np.int64],
) -> None:
    """Breadth-first search from up to 64 sources at once, one bit each; adds distances and arrivals per cell."""
    cells = board.exits.size
    seen = np.zeros(cells, np.uint64)
    fresh = np.zeros(cells, np.uint64)
    coming = np.zeros(cells, np.uint64)
    now = np.empty(cells, np.int32)
    later = np.empty(cells, np.int32)
    n_now = 0
    for i in range(sources.size):
        cell = sources[i]
        seen[cell] |= np.uint64(1) << np.uint64(i)
        fresh[cell] = seen[cell]
        now[n_now] = cell
        n_now += 1
    distance = 0
    while n_now:
        distance += 1
        n_later = 0
        for i in range(n_now):
            cell = now[i]
            bits = fresh[cell]
            for move in range(1, 5):
                target = neighbour(board, cell, move)
                new = bits & ~seen[target]
                if new:
                    if coming[target] == np.uint64(0):
                        later[n_later] = target
                        n_later += 1
                    coming[target] |= new
        for i in range(n_later):
            cell = later[i]
            bits = coming[cell]
            coming[cell] = np.uint64(0)
            fresh[cell] = bits
            seen[cell] |= bits
            arrivals = _ones(bits)
            count[cell] += arrivals
            total[cell] += distance * arrivals
        now, later = later, now
        n_now = n_later


def average_distance(board: Board) -> NDArray[np.float64]:
    """``avgdist`` ``[cells]``: mean number of steps to all OTHER cells that can be reached; 0 where there is none.

    Exact up to 64 * ``SOURCE_GROUPS`` free cells; on larger maps the mean over that many, in groups spread evenly.
    Groups of 64 are neighbours on the Z-order curve: their searches touch the same cells at nearly the same time.
    """
    size = board.exits.size
    rows, columns = np.divmod(np.arange(size), board.width)
    curve = np.zeros(size, np.int64)
    for bit in range(16):
        curve |= ((rows >> bit & 1) << (2 * bit + 1)) | ((columns >> bit & 1) << (2 * bit))
    cells = np.argsort(curve).astype(np.int32)
    sources = cells[board.exits[cells] != 0]
    groups = -(-sources.size // 64)
    # One group from each equal stretch of the curve, at shifting places: a fixed one would prefer a corner of the map.
    part = np.arange(SOURCE_GROUPS)
    chosen = ((part + part * _GOLDEN % 1.0) * groups / SOURCE_GROUPS).astype(np.int64)
    total, count = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for group in range(groups) if groups <= SOURCE_GROUPS else chosen:
        _spread(board, sources[64 * group : 64 * group + 64], total, count)
    return total / np.maximum(count, 1)


@njit
def _component_maximum(board: Board, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest value within the connected component of each cell."""
    cells = board.exits.size
    maximum = values.copy()
    visited = np.zeros(cells, np.bool_)
    queue = np.empty(cells, np.int32)
    for start in range(cells):
        if visited[start] or board.exits[start] == 0:
            continue
        visited[start] = True
        queue[0] = start
        head, tail = 0, 1
        largest = values[start]
        while head < tail:
            cell = queue[head]
            head += 1
            largest = max(largest, values[cell])
            for move in range(1, 5):
                target = neighbour(board, cell, move)
                if not visited[target]:
                    visited[target] = True
                    queue[tail] = target
                    tail += 1
        for i in range(tail):
            maximum[queue[i]] = largest
    return maximum


def centrality(board: Board) -> NDArray[np.float64]:
    """Follower's static cost ``max avgdist / avgdist(c)`` ``[cells]``: 1 on the outskirts, most in the centre.

    A. Skrynnik et al., "Learn to Follow: Decentralized Lifelong Multi-Agent Pathfinding via Planning and Learning",
    AAAI 2024. The maximum is taken within the connected component, so that small pockets do not drown the rest; cells
    without a neighbour (where the ratio would be 0/0) and blocked cells get 1.
    """
    average = average_distance(board)
    largest = _component_maximum(board, average)
    return np.divide(largest, average, out=np.ones(average.size), where=average > 0)
