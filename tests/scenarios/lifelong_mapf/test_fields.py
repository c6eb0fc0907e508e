import numpy as np
import pytest
from field_oracles import reference_average_distance, reference_field
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_world import random_drawing

from scenarios.lifelong_mapf.maps import fields
from scenarios.lifelong_mapf.maps.fields import BUCKETS, UNREACHED


def exits_of(drawing):
    grid = np.array([list(row) for row in drawing])
    return fields.open_moves((grid == "#").astype(np.uint8), *grid.shape), *grid.shape


def step_field(exits, width, goal):
    field = np.empty(exits.size, np.int32)
    fields.step_field(fields.Board(exits, width), goal, field, np.empty(exits.size, np.int32))
    return field


def weighted_field(exits, width, cost, goal):
    field, heads = np.empty(exits.size, np.int32), np.full(BUCKETS, -1, np.int32)
    fields.weighted_field(fields.Board(exits, width), cost, goal, field, heads, np.empty(exits.size, np.int32))
    assert (heads == -1).all()
    return field


def test_exits_name_the_free_neighbours():
    exits, _, _ = exits_of(["..#", "...", "#.#"])
    up, down, left, right = 1, 2, 4, 8
    expected = [down | right, down | left, 0, up | right, up | down | left | right, left, 0, up, 0]
    assert exits.tolist() == expected


def test_step_field_by_hand():
    exits, _, width = exits_of(["...", ".#.", "..#", "#.#"])
    far = UNREACHED
    assert step_field(exits, width, 0).tolist() == [0, 1, 2, 1, far, 3, 2, 3, far, far, 4, far]


def test_weighted_field_counts_the_cell_entered_and_not_the_goal():
    exits, _, width = exits_of(["...."])
    assert weighted_field(exits, width, np.array([7, 5, 3, 9], np.int32), 3).tolist() == [15, 8, 3, 0]


def test_weighted_field_takes_the_cheaper_way_round():
    exits, _, width = exits_of(["...", ".#.", "..."])
    cost = np.array([1, 9, 1, 1, 1, 1, 1, 1, 1], np.int32)
    field = weighted_field(exits, width, cost, 2)
    assert field[0] == 6  # by the six cells below, not by the dear one between
    assert field[1] == 9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 14), st.integers(2, 14), st.sampled_from([2, 40, BUCKETS]))
def test_fields_equal_the_oracle(seed, height, width, dearest):
    rng = np.random.default_rng(seed)
    exits, height, width = exits_of(random_drawing(rng, height, width, 0.3))
    cost = rng.integers(1, dearest, exits.size).astype(np.int32)
    goal = int(rng.choice(np.flatnonzero(exits)))
    assert np.array_equal(weighted_field(exits, width, cost, goal), reference_field(exits, width, cost, goal))
    ones = np.ones_like(cost)
    assert np.array_equal(step_field(exits, width, goal), reference_field(exits, width, ones, goal))


def test_average_distance_by_hand():
    exits, _height, width = exits_of(["...#.", "####."])
    average = fields.average_distance(fields.Board(exits, width))
    assert average.tolist() == [1.5, 1.0, 1.5, 0, 1.0, 0, 0, 0, 0, 1.0]


@pytest.mark.parametrize("seed", range(3))
def test_average_distance_equals_the_oracle(seed):
    exits, _height, width = exits_of(random_drawing(np.random.default_rng(seed), 17, 13, 0.35))
    average = fields.average_distance(fields.Board(exits, width))
    assert np.allclose(average, reference_average_distance(exits, width), rtol=1e-12, atol=0)


def test_large_maps_are_measured_from_a_sample(monkeypatch):
    exits, _height, width = exits_of(["." * 48] * 48)
    exact = fields.average_distance(fields.Board(exits, width))
    monkeypatch.setattr(fields, "SOURCE_GROUPS", 9)
    error = fields.average_distance(fields.Board(exits, width)) / exact - 1
    assert 0 < np.abs(error).mean() < 0.08


def test_centrality_by_hand():
    exits, _height, width = exits_of(["...#.", "####."])
    assert fields.centrality(fields.Board(exits, width)).tolist() == [1.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_centrality_of_a_lonely_cell_is_one():
    exits, _height, width = exits_of([".#...", "##..."])
    ratio = fields.centrality(fields.Board(exits, width))
    assert ratio[0] == 1.0
    assert np.isfinite(ratio).all()
    assert ratio.max() == ratio[3] == ratio[8]
