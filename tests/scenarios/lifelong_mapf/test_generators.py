"""Map generators: shapes, connectivity, determinism, and what each knob does."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from marl.errors import UserError
from scenarios.lifelong_mapf.maps.generators import Generator, MazeMap, RandomMap, RoomsMap, WarehouseMap
from scenarios.lifelong_mapf.maps.grid import components

SMALL = [
    RandomMap(height=11, width=14, density=0.35),
    MazeMap(height=11, width=16),
    RoomsMap(rows=2, columns=3, room=4, door=2),
    WarehouseMap(shelf_rows=2, shelf_columns=2, shelf_length=4, missing=0.3),
]


def drawn(grid) -> list[str]:
    return ["".join("#" if cell else "." for cell in row) for row in grid.blocked]


@pytest.mark.parametrize("generator", SMALL, ids=lambda generator: generator.kind)
def test_starts_and_goals_share_the_largest_component(generator):
    for seed in range(20):
        grid = generator.generate(seed)
        labels = components(grid.blocked)
        sizes = np.bincount(labels[labels >= 0])
        used = np.unique(labels[grid.starts | grid.goals])
        assert used.size == 1
        assert sizes[used[0]] == sizes.max()


@pytest.mark.parametrize("generator", SMALL, ids=lambda generator: generator.kind)
def test_a_seed_fixes_the_map_and_another_changes_it(generator):
    first = [generator.generate(seed).blocked.tobytes() for seed in range(6)]
    assert first == [generator.generate(seed).blocked.tobytes() for seed in range(6)]
    assert len(set(first)) > 3


def test_maps_are_the_same_on_every_machine():
    digest = hashlib.sha256(b"".join(generator.generate(7).blocked.tobytes() for generator in SMALL)).hexdigest()
    assert digest[:16] == "2a7846467d689437"


def test_random_density():
    share = RandomMap(size=200, density=0.3).generate(0).blocked.mean()
    assert share == pytest.approx(0.3, abs=0.01)  # five standard deviations are 0.011
    assert not RandomMap(size=5, density=0.0).generate(0).blocked.any()


def test_a_maze_without_openings_is_a_tree():
    grid = MazeMap(height=9, width=13, openings=0.0).generate(5)
    free = ~grid.blocked
    edges = (free[:, 1:] & free[:, :-1]).sum() + (free[1:] & free[:-1]).sum()
    assert components(grid.blocked).max() == 0
    assert edges == free.sum() - 1
    assert free[::2, ::2].all()
    assert not free[1::2, 1::2].any()


def test_maze_openings_open_all_walls_between_corridors():
    grid = MazeMap(height=5, width=6, openings=1.0).generate(0)
    assert drawn(grid) == [".....#", ".#.#.#", ".....#", ".#.#.#", ".....#"]
    high = MazeMap(height=6, width=5, openings=1.0).generate(0)
    assert drawn(high) == [".....", ".#.#.", ".....", ".#.#.", ".....", "#####"]


def test_rooms_have_one_door_per_open_wall():
    grid = RoomsMap(rows=2, columns=2, room=3, door=1, openings=1.0).generate(2)
    assert grid.blocked.shape == (7, 7)
    walls = [grid.blocked[3, :3], grid.blocked[3, 4:], grid.blocked[:3, 3], grid.blocked[4:, 3]]
    assert [int((~wall).sum()) for wall in walls] == [1, 1, 1, 1]
    tree = RoomsMap(rows=2, columns=2, room=3, door=1, openings=0.0).generate(2)
    assert (~tree.blocked).sum() == 4 * 9 + 3
    assert components(tree.blocked).max() == 0


def test_a_door_is_at_most_as_wide_as_the_room():
    assert not RoomsMap(rows=1, columns=2, room=3, door=9).generate(0).blocked.any()


def test_warehouse_layout():
    grid = WarehouseMap(shelf_rows=2, shelf_columns=2, shelf_length=3, aisle=2, stations=1).generate(0)
    marks = np.select([grid.blocked, grid.starts, grid.goals], ["#", "@", "$"], "!")
    assert ["".join(row) for row in marks] == [
        "!!!!!!!!!!!!!!!",
        "!@@!$$$!$$$!@@!",
        "!@@!###!###!@@!",
        "!@@!$$$!$$$!@@!",
        "!@@!$$$!$$$!@@!",
        "!@@!###!###!@@!",
        "!@@!$$$!$$$!@@!",
        "!!!!!!!!!!!!!!!",
    ]


def test_a_warehouse_keeps_at_least_one_shelf():
    for seed in range(30):
        assert WarehouseMap(shelf_rows=1, shelf_columns=1, missing=0.9).generate(seed).blocked.any()


def test_kinds_are_told_apart_in_a_configuration():
    adapter = TypeAdapter(Generator)
    assert adapter.validate_python({"kind": "maze", "openings": 0.5}) == MazeMap(openings=0.5)
    for values in ({"kind": "cave"}, {"kind": "random", "densty": 0.1}, {"kind": "random", "density": 1.5}):
        with pytest.raises(ValidationError):
            adapter.validate_python(values)


def test_a_map_that_would_be_too_large_is_refused():
    with pytest.raises(UserError, match="at most 4096 a side"):
        RoomsMap(rows=256, columns=1, room=64).generate(0)
