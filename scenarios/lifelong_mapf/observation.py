"""What an agent sees, and what the central critic sees: spaces and the compiled forms (``reference`` has torch ones).

Observation of one agent, radius R, D = 2 R + 1:
    window: ``BitWindow(2, D, D)`` centred on the agent. Plane 0: obstacles; the map is surrounded by a wall one cell thick,
        beyond it nothing is drawn (as in POGEMA). Plane 1: agents, itself included.
    goal: float32 (3,): with the goal dr rows below and dc columns to the right, dr / (|dr| + R), dc / (|dc| + R) and
        L / (L + 4 R), L = |dr| + |dc|.

Central state of one agent, float32 (37,), all within [-1, 1] (``STATE``): its goal as above, the age of its goal, whether
its last move was refused, which of the four moves lead to a free cell and to an occupied one, the share of cells with
agents and with obstacles in a 3x3 partition of its window, and figures of the whole copy, the same for all its agents:
agents per free cell, mean distance to the goals, share of agents whose last move was refused, time, share of agents
that are left, goals reached.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir
import numba
import numpy as np
from gymnasium import spaces
from numba.core import types
from numba.extending import intrinsic

from marl.envs.spaces import BitWindow
from scenarios.lifelong_mapf.fields import neighbour
from scenarios.lifelong_mapf.kernels import State

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

_OWN, _AGENTS, _OBSTACLES, _COPY = 0, 13, 22, 31

_ONE = np.uint32(1)


def observation_space(radius: int) -> spaces.Dict:
    side = 2 * radius + 1
    return spaces.Dict({"window": BitWindow(2, side, side), "goal": spaces.Box(-1.0, 1.0, (3,), np.float32)})


def state_space() -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (N_STATE,), np.float32)


def partition(radius: int) -> tuple[int, int, int, int]:
    """Edges of the three stretches that rows and columns of a window are cut into: a small centre and two sides."""
    inner = radius // 3
    return 0, radius - inner, radius + inner + 1, 2 * radius + 1


def words_shape(height: int, width: int, radius: int) -> tuple[int, int]:
    """Shape of the scratch array ``words`` of ``observe``."""
    return (width + 2 * radius - 1) // 16 + 2, height + 2 * radius


@intrinsic
def _popcount(typing_context: Any, word: types.Integer) -> Any:
    """The number of set bits, one machine instruction."""

    def generate(context: Any, builder: llvmlite.ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return word(word), generate


@numba.njit(cache=True)
def _draw_agents(position: Any, alive: Any, hidden: Any, fault: bool, width: int, radius: int, words: Any) -> None:
    """Set one bit per visible agent.

    words: uint32 ``words_shape``. Word w + 1 of a row holds the padded columns 16 w to 16 w + 31, so that the up to 15 columns
    of any window lie within one word; the first word is a guard.
    """
    words[:] = 0
    for i in range(position.size):
        if not alive[i] or (fault and hidden[i]):
            continue
        row = position[i] // width
        column = position[i] - row * width + radius
        bit = np.uint32(column & 15)
        words[(column >> 4) + 1, row + radius] |= _ONE << bit
        words[column >> 4, row + radius] |= _ONE << (bit + np.uint32(16))


@numba.njit(cache=True)
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

    obstacle_rows: int16 [M, W, H + 2 R]: for each cell's column and padded row the row of a window centred there.
    words: scratch. window: int16 [B, N, 2, D]. goal: float32 [B, N, 3].
    """
    side = 2 * radius + 1
    mask = np.uint32((1 << side) - 1)
    scale = np.float32(radius)
    for b in copies:
        obstacles = obstacle_rows[state.map_index[b]]
        position, aim = state.position[b], state.goal[b]
        _draw_agents(position, state.alive[b], state.hidden[b], fault, width, radius, words)
        for i in range(position.size):
            row = position[i] // width
            column = position[i] - row * width
            walls, agents = window[b, i, 0], window[b, i, 1]
            static, word = obstacles[column], words[(column >> 4) + 1]
            shift = np.uint32(column & 15)
            for k in range(side):
                walls[k] = static[row + k]
            for k in range(side):
                agents[k] = np.int16((word[row + k] >> shift) & mask)
            down = aim[i] // width - row
            right = aim[i] - (down + row) * width - column
            distance = np.float32(abs(down) + abs(right))
            goal[b, i, 0] = np.float32(down) / (np.float32(abs(down)) + scale)
            goal[b, i, 1] = np.float32(right) / (np.float32(abs(right)) + scale)
            goal[b, i, 2] = distance / (distance + np.float32(4) * scale)


@numba.njit(cache=True)
def _count_blocks(rows: Any, edges: tuple[int, int, int, int], inverse_areas: Any, out: Any) -> None:
    """The share of set cells in each block of the 3x3 partition of a window plane."""
    for band in range(3):
        left = middle = right = 0
        for k in range(edges[band], edges[band + 1]):
            row = np.uint32(rows[k])
            low = row & np.uint32((1 << edges[1]) - 1)
            lower = row & np.uint32((1 << edges[2]) - 1)
            left += _popcount(low)
            middle += _popcount(lower ^ low)
            right += _popcount(row ^ lower)
        out[3 * band] = np.float32(left) * inverse_areas[band, 0]
        out[3 * band + 1] = np.float32(middle) * inverse_areas[band, 1]
        out[3 * band + 2] = np.float32(right) * inverse_areas[band, 2]


@numba.njit(cache=True)
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
    for b in copies:
        m = state.map_index[b]
        position, aim = state.position[b], state.goal[b]
        n = position.size
        left = total = refused = goals = 0
        for i in range(n):
            left += state.alive[b, i]
            refused += state.refused[b, i]
            goals += state.goals_done[b, i]
            if state.alive[b, i]:
                down = aim[i] // width - position[i] // width
                right = aim[i] % width - position[i] % width
                total += abs(down) + abs(right)
        size = np.float32(reach)
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
            row = out[b, i]
            row[0], row[1], row[2] = goal[b, i, 0], goal[b, i, 1], goal[b, i, 2]
            age = np.float32(state.age[b, i])
            row[3] = age / (age + size)
            row[4] = np.float32(state.refused[b, i])
            ways = exits[m, position[i]]
            agents = window[b, i, 1]
            for move in range(1, 5):
                row[4 + move] = np.float32((ways >> (move - 1)) & 1)
            row[9] = np.float32((agents[radius - 1] >> radius) & 1)
            row[10] = np.float32((agents[radius + 1] >> radius) & 1)
            row[11] = np.float32((agents[radius] >> (radius - 1)) & 1)
            row[12] = np.float32((agents[radius] >> (radius + 1)) & 1)
            _count_blocks(agents, edges, inverse_areas, row[_AGENTS:_OBSTACLES])
            _count_blocks(window[b, i, 0], edges, inverse_areas, row[_OBSTACLES:_COPY])
            for k in range(len(copy)):
                row[_COPY + k] = copy[k]
