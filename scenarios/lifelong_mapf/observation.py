"""What an agent sees, and what the central critic sees: spaces and the compiled forms (``reference`` has torch ones).

Observation of one agent, radius R, D = 2 R + 1:
    window: ``BitWindow(2, D, D)`` centred on the agent. Plane 0: obstacles; the map is surrounded by a wall one cell
        thick, beyond it nothing is drawn (as in POGEMA). Plane 1: agents, itself included.
    goal: float32 (3,): with the goal dr rows below and dc columns to the right, dr / (|dr| + R), dc / (|dc| + R) and
        L / (L + 4 R), L = |dr| + |dc|.
    heading: float32 (4,), of robots that turn: 1 for the heading they have (east, south, west, north), 0 for the rest.

Central state of one agent, float32 (37,), all within [-1, 1] (``STATE``): its goal as above, the age of its goal,
whether its last move was refused, which of the four moves lead to a free cell and to an occupied one, the share of
cells with agents and with obstacles in a 3x3 partition of its window, and figures of the whole copy, the same for all
its agents: agents per free cell, mean distance to the goals, share of agents whose last move was refused, time, share
of agents that are left, goals reached. Of robots that turn it is float32 (41,): their heading follows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numba.core import types
from numba.extending import intrinsic

from marl.compiled import njit
from marl.envs.spaces import BitWindow
from scenarios.lifelong_mapf.state import State

#: The parts of the central state: name -> width.
STATE = {
    "goal": 3,
    "age": 1,
    "refused": 1,
    "free": 4,
    "occupied": 4,
    "agents": 9,
    "obstacles": 9,
    "density": 1,
    "mean_distance": 1,
    "refused_share": 1,
    "time": 1,
    "left_share": 1,
    "goals": 1,
}
N_STATE = sum(STATE.values())

#: Robots that turn see their heading as one of so many, and the central state ends with it.
N_HEADINGS = 4

_AGENTS, _OBSTACLES, _COPY = 13, 22, 31

_ONE = np.uint32(1)


def observation_space(radius: int, turning: bool = False) -> spaces.Dict:
    side = 2 * radius + 1
    seen: dict[str, spaces.Space[Any]] = {
        "window": BitWindow(2, side, side),
        "goal": spaces.Box(-1.0, 1.0, (3,), np.float32),
    }
    if turning:
        seen["heading"] = spaces.Box(0.0, 1.0, (N_HEADINGS,), np.float32)
    return spaces.Dict(seen)


def state_space(turning: bool = False) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (N_STATE + N_HEADINGS * turning,), np.float32)


def partition(radius: int) -> tuple[int, int, int, int]:
    """Edges of the three stretches that rows and columns of a window are cut into: a small centre and two sides."""
    inner = radius // 3
    return 0, radius - inner, radius + inner + 1, 2 * radius + 1


def words_shape(height: int, width: int, radius: int) -> tuple[int, int]:
    """Shape of the scratch array ``words`` of ``observe``."""
    return (width + 2 * radius - 1) // 16 + 2, height + 2 * radius


def _ctpop(typing_context: Any, word: types.Integer) -> Any:
    """The number of set bits, one machine instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return word(word), generate


_popcount: Any = intrinsic(_ctpop)


@njit(inline="always")
def _row_divider(width: int) -> np.uint64:
    """For ``_row_of``: division by a constant as a multiplication; exact for maps of up to 4096 x 4096 cells."""
    return np.uint64((1 << 40) // width + 1)


@njit(inline="always")
def _row_of(cell: int, divider: np.uint64) -> np.int64:
    """cell // width."""
    return np.int64((np.uint64(cell) * divider) >> np.uint64(40))


@njit
def _draw_agents(state: State, b: int, fault: bool, width: int, radius: int, words: Any) -> None:
    """Set one bit per visible agent of copy b.

    words: uint32 ``words_shape``. Word w + 1 of a row holds the padded columns 16 w to 16 w + 31, so that the up to 15
    columns of any window lie within one word; the first word is a guard.
    """
    divider = _row_divider(width)
    words[:] = 0
    for i in range(state.position.shape[1]):
        if not state.alive[b, i] or (fault and state.hidden[b, i]):
            continue
        cell = state.position[b, i]
        row = _row_of(cell, divider)
        column = cell - row * width + radius
        bit = np.uint32(column & 15)
        words[(column >> 4) + 1, row + radius] |= _ONE << bit
        words[column >> 4, row + radius] |= _ONE << (bit + np.uint32(16))


@njit
def observe(
    state: State,
    copies: Any,
    width: int,
    radius: int,
    fault: bool,
    obstacle_rows: Any,
    words: Any,
    window: Any,
    goal: Any,
) -> None:
    """Write the observations of the given ``copies`` (int64 [K]).

    Args:
        obstacle_rows: int16 [M, W, H + 2 R]: for each cell's column and padded row the row of a window centred
            there.
        words: scratch.
        window: int16 [B, N, 2, D].
        goal: float32 [B, N, 3].
    """
    # Arrays are indexed in full: a view costs more here than what is read through it.
    side = 2 * radius + 1
    mask = np.uint32((1 << side) - 1)
    near, far = np.float32(radius), np.float32(4 * radius)
    divider = _row_divider(width)
    for b in copies:
        obstacles = obstacle_rows[state.map_index[b]]
        _draw_agents(state, b, fault, width, radius, words)
        for i in range(state.position.shape[1]):
            cell = state.position[b, i]
            row = _row_of(cell, divider)
            column = cell - row * width
            for k in range(side):
                window[b, i, 0, k] = obstacles[column, row + k]
            word = (column >> 4) + 1
            shift = np.uint32(column & 15)
            for k in range(side):
                window[b, i, 1, k] = np.int16((words[word, row + k] >> shift) & mask)
            aim = state.goal[b, i]
            aim_row = _row_of(aim, divider)
            down = np.float32(aim_row - row)
            right = np.float32(aim - aim_row * width - column)
            distance = abs(down) + abs(right)
            goal[b, i, 0] = down / (abs(down) + near)
            goal[b, i, 1] = right / (abs(right) + near)
            goal[b, i, 2] = distance / (distance + far)


@njit(inline="always")
def _add_bits(row: np.int16, low: np.uint32, lower: np.uint32, counts: Any) -> Any:
    """``counts`` (three uint32) plus the set bits of a window row in each of the stretches of the partition."""
    bits = np.uint32(row)
    left, up_to_middle = bits & low, bits & lower
    return (
        counts[0] + _popcount(left),
        counts[1] + _popcount(up_to_middle ^ left),
        counts[2] + _popcount(bits ^ up_to_middle),
    )


@njit
def central_state(
    state: State,
    copies: Any,
    width: int,
    radius: int,
    horizon: int,
    reach: int,
    exits: Any,
    free_cells: Any,
    edges: tuple[int, int, int, int],
    inverse_areas: Any,
    window: Any,
    goal: Any,
    out: Any,
) -> None:
    """Write the central state of the given ``copies`` (int64 [K]) from their observations.

    reach: height + width of the grid, the scale of distances. free_cells: int32 [M]. edges: ``partition``.
    inverse_areas: float32 [3, 3], of the blocks. out: float32 [B, N, N_STATE].
    """
    divider = _row_divider(width)
    size = np.float32(reach)
    low, lower = np.uint32((1 << edges[1]) - 1), np.uint32((1 << edges[2]) - 1)
    n = state.position.shape[1]
    for b in copies:
        m = state.map_index[b]
        left = total = refused = goals = 0
        for i in range(n):
            left += state.alive[b, i]
            refused += state.refused[b, i]
            goals += state.goals_done[b, i]
            if state.alive[b, i]:
                cell, aim = state.position[b, i], state.goal[b, i]
                row, aim_row = _row_of(cell, divider), _row_of(aim, divider)
                total += abs(aim_row - row) + abs((aim - aim_row * width) - (cell - row * width))
        mean = np.float32(total) / np.float32(max(left, 1))
        paths = np.float32(goals) * size / np.float32(max(n * state.steps[b], 1))
        copy = (
            np.float32(left) / np.float32(free_cells[m]),
            mean / (mean + size),
            np.float32(refused) / np.float32(n),
            np.float32(state.steps[b]) / np.float32(horizon),
            np.float32(left) / np.float32(n),
            paths / (np.float32(1) + paths),
        )
        for i in range(n):
            for k in range(3):
                out[b, i, k] = goal[b, i, k]
            age = np.float32(state.age[b, i])
            out[b, i, 3] = age / (age + size)
            out[b, i, 4] = np.float32(state.refused[b, i])
            ways = np.int64(exits[m, state.position[b, i]])
            for k in range(4):
                out[b, i, 5 + k] = np.float32((ways >> k) & 1)
            beside = np.int64(window[b, i, 1, radius])
            out[b, i, 9] = np.float32((np.int64(window[b, i, 1, radius - 1]) >> radius) & 1)
            out[b, i, 10] = np.float32((np.int64(window[b, i, 1, radius + 1]) >> radius) & 1)
            out[b, i, 11] = np.float32((beside >> (radius - 1)) & 1)
            out[b, i, 12] = np.float32((beside >> (radius + 1)) & 1)
            for band in range(3):
                agents = obstacles = (np.uint32(0), np.uint32(0), np.uint32(0))
                for k in range(edges[band], edges[band + 1]):
                    agents = _add_bits(window[b, i, 1, k], low, lower, agents)
                    obstacles = _add_bits(window[b, i, 0, k], low, lower, obstacles)
                for k in range(3):
                    share = inverse_areas[band, k]
                    out[b, i, _AGENTS + 3 * band + k] = np.float32(agents[k]) * share
                    out[b, i, _OBSTACLES + 3 * band + k] = np.float32(obstacles[k]) * share
            for k in range(len(copy)):
                out[b, i, _COPY + k] = copy[k]
