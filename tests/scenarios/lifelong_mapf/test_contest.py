"""Who contests the cells around an agent, by hand."""

from __future__ import annotations

import numpy as np

from scenarios.lifelong_mapf.guidance.base import Present
from scenarios.lifelong_mapf.maps.fields import open_moves
from scenarios.lifelong_mapf.views.contest import SPACE, write_contest


def contest_of(
    grid: list[str], position: list[int], subgoal: list[int], age: list[int], alive: list[bool] | None = None
) -> np.ndarray:
    """Flags [N, 5 moves, 5] on one map given as rows of '.' and '#'."""
    blocked = np.array([[cell == "#" for cell in row] for row in grid], np.uint8)
    exits = open_moves(blocked, *blocked.shape)[None]
    agents = len(position)
    out = np.full((1, agents, SPACE.shape[0]), np.nan, np.float32)
    write_contest(
        Present(
            np.zeros(1, np.int32),
            np.array([position], np.int32),
            np.array([subgoal], np.int32),
            np.array([alive or [True] * agents]),
            exits,
            blocked.shape[1],
        ),
        np.array([subgoal], np.int32),
        np.array([age], np.int32),
        out,
    )
    return out.reshape(agents, 5, 5)


def test_head_on_in_a_corridor() -> None:
    """Cells 0 1 2 3; agent 0 on 1 wants 2, agent 1 on 2 wants 1; agent 1 has been longer on its way."""
    young, old = contest_of(["...."], [1, 2], [2, 1], [3, 7])
    right, left = 4, 3
    assert young[right].tolist() == [0, 0, 1, 0, 1]  # occupied by one that outranks it and wants its cell
    assert young[0].tolist() == [1, 0, 0, 0, 0]  # its own cell is wanted by one that outranks it
    assert old[left].tolist() == [0, 0, 0, 1, 1]
    assert old[0].tolist() == [0, 1, 0, 0, 0]
    assert not young[[1, 2]].any() and not old[[1, 2]].any()  # blocked moves


def test_two_want_one_free_cell_and_ties_go_to_the_lower_number() -> None:
    first, second = contest_of(["..."], [0, 2], [1, 1], [5, 5])
    assert first[4].tolist() == [0, 1, 0, 0, 0]
    assert second[3].tolist() == [1, 0, 0, 0, 0]


def test_of_many_both_sides_are_seen() -> None:
    """Three around one cell: the middle rank sees one above and one below itself."""
    grid = ["#.#", "...", "#.#"]
    flags = contest_of(grid, [1, 3, 5], [4, 4, 4], [9, 5, 1])
    assert flags[0, 2].tolist() == [0, 1, 0, 0, 0]
    assert flags[1, 4].tolist() == [1, 1, 0, 0, 0]
    assert flags[2, 3].tolist() == [1, 0, 0, 0, 0]


def test_agents_that_left_contest_nothing() -> None:
    flags = contest_of(["..."], [0, 1], [1, 0], [1, 2], [True, False])
    assert not flags.any()
