"""Costs that depend on the direction of a move: fields, lanes, averages, what follows from them."""

import numpy as np
import pytest
import torch
from field_oracles import reference_directed_field
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from stub_world import StubWorld, random_drawing

from marl.errors import UserError
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.guidance.choose import make_guidance
from scenarios.lifelong_mapf.guidance.lanes import LaneWeights, lane_prices
from scenarios.lifelong_mapf.guidance.prices import UNITS
from scenarios.lifelong_mapf.guidance.shared import GoalFields
from scenarios.lifelong_mapf.guidance.vectors import Weights, read_vector, shipped_vectors
from scenarios.lifelong_mapf.maps.fields import BUCKETS, MOVES, Board, directed_field, open_moves
from scenarios.lifelong_mapf.pibt.rule import Pibt

ALL = np.ones(1, bool)
UP, DOWN, LEFT, RIGHT = 1, 2, 3, 4


def exits_of(drawing):
    grid = np.array([list(row) for row in drawing])
    return open_moves((grid == "#").astype(np.uint8), *grid.shape), grid.shape[1]


def field_of(exits, width, cost, extra, goal):
    field, heads = np.empty(exits.size, np.int32), np.full(BUCKETS, -1, np.int32)
    directed_field(Board(exits, width), cost, extra, goal, field, heads, np.empty(4 * exits.size, np.int32))
    assert (heads == -1).all()
    return field


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 12), st.sampled_from([2, 40, 700]))
def test_directed_fields_equal_the_oracle(seed, height, width, dearest):
    rng = np.random.default_rng(seed)
    exits, width = exits_of(random_drawing(rng, height, width, 0.3))
    cost = rng.integers(1, dearest, exits.size).astype(np.int32)
    extra = rng.integers(0, dearest, 4 * exits.size).astype(np.int32)
    goal = int(rng.choice(np.flatnonzero(exits)))
    assert np.array_equal(
        field_of(exits, width, cost, extra, goal), reference_directed_field(exits, width, cost, extra, goal)
    )


def test_directed_field_by_hand():
    """A ring around a wall: going left along the top row is dear, so the way from the right goes below."""
    exits, width = exits_of(["...", ".#.", "..."])
    extra = np.zeros(36, np.int32)
    extra[[4 * 0 + RIGHT - 1, 4 * 1 + RIGHT - 1]] = 9  # into 0 and 1 from the cell on the right
    field = field_of(exits, width, np.ones(9, np.int32), extra, 0)
    assert field.tolist() == [0, 7, 6, 1, 1 << 30, 5, 2, 3, 4]
    back = field_of(exits, width, np.ones(9, np.int32), extra, 2)
    assert back[0] == 2  # to the right nothing is dear


def test_lanes_of_corridors_take_turns():
    """Two corridors along columns between open rows; the second one starts at an even column, like the first."""
    exits, width = exits_of([".....", ".#.#.", ".#.#.", "....."])
    prices = lane_prices(Board(exits, width), LaneWeights(open=0, rows=0, columns=5)).reshape(4, 5, 4)
    down = {c: prices[2, c, UP - 1] for c in (0, 2, 4)}  # into (2, c) from the cell above
    up = {c: prices[1, c, DOWN - 1] for c in (0, 2, 4)}  # into (1, c) from the cell below
    assert down == {0: 0, 2: 5, 4: 0}
    assert up == {0: 5, 2: 0, 4: 5}
    assert prices[3, 2, UP - 1] == 5  # leaving the corridor counts as well
    assert not prices[..., [LEFT - 1, RIGHT - 1]].any()


def test_prices_of_expected_traffic_count_in_proportion_where_agents_are_few():
    """Two agents on 10 free cells; the same on a second map, padded, of 4 free cells."""
    world = StubWorld(["....", ".#.#", ".#.#", "..##"], [(0, 0), (2, 2)], [(2, 2), (0, 0)])
    world.blocked = np.concatenate([world.blocked, np.ones_like(world.blocked)])
    world.blocked[1, [0, 1, 4, 8]] = 0
    weights = {"static_weight": 2.0, "corridor_columns_weight": 4.0}

    def prices(crowd, m):
        world.map_index = torch.tensor([m])
        now = GoalFields(world, GuidanceConfig(vector="plain", crowd=crowd, **weights)).prices()
        return now.static[m] - UNITS, now.lanes[m]

    full = [prices(0.0, m) for m in (0, 1)]
    assert full[0][1].max() == 4 * UNITS
    assert full[0][0].max() > 0
    for crowd, shares in {0.2: (1, 1), 0.4: (0.5, 1), 1.0: (0.2, 0.5)}.items():
        for m, share in enumerate(shares):
            static, lanes = prices(crowd, m)
            assert np.abs(static - share * full[m][0]).max() <= 1
            assert np.abs(lanes - share * full[m][1]).max() <= 0.5


def test_lanes_on_open_ground_take_turns_by_number():
    exits, width = exits_of(["...", "...", "..."])
    prices = lane_prices(Board(exits, width), LaneWeights(open=2, rows=7, columns=7)).reshape(3, 3, 4)
    assert prices[:, 0, RIGHT - 1].tolist() == [2, 0, 2]  # going left on rows 0 and 2
    assert prices[:, 1, LEFT - 1].tolist() == [0, 2, 0]  # going right on row 1
    assert prices[1, :, UP - 1].tolist() == [0, 2, 0]
    assert prices[0, :, DOWN - 1].tolist() == [2, 0, 2]
    assert prices[0, :, UP - 1].tolist() == [0, 0, 0]  # from outside nobody comes


def test_averages_and_the_costs_from_them():
    world = StubWorld(["....", "...."], [(0, 0), (1, 1), (0, 3)], [(0, 3), (1, 0), (0, 3)])
    config = GuidanceConfig(
        vector="plain", occupancy_weight=4, waiting_weight=6, decay=0.5, opposing_weight=8, flow_decay=0.75
    )
    fields = GoalFields(world, config)
    fields.restart(ALL)
    world.move(torch.tensor([[RIGHT, 0, 0]]))
    fields.advance()
    assert fields.occupied[0].tolist() == [0, 0.5, 0, 0.5, 0, 0.5, 0, 0]
    assert fields.waits[0].tolist() == [0, 0, 0, 0, 0, 0.5, 0, 0]  # the third stands on its goal
    assert np.flatnonzero(fields.moved[0]).tolist() == [4 * 0 + RIGHT - 1]
    assert fields.moved[0, RIGHT - 1] == 0.25
    world.goal[0, 0] = 4
    fields.advance()
    # From the left the way to (1, 0) is free; from (0, 1) to (0, 0) agents came the other way.
    free = np.full(8, UNITS)
    occupied = np.array([0, 0.75, 0, 0.75, 0, 0.75, 0, 0])
    waits = np.array([0, 0.5, 0, 0, 0, 0.75, 0, 0])
    cost = (free + np.floor(UNITS * (4 * occupied + 6 * waits) + 0.5)).astype(np.int32)
    extra = np.zeros(32, np.int32)
    extra[RIGHT - 1] = round(UNITS * 8 * 0.25 * 0.75)
    assert np.array_equal(fields.field[0, 0], reference_directed_field(fields.exits[0], 4, cost, extra, 4))
    fields.restart(ALL)
    assert not fields.occupied.any()
    assert not fields.moved.any()


def test_a_corridor_is_entered_along_its_lane():
    """Both corridors are as short; PIBT goes down the first and up the second."""
    drawing = ["...", ".#.", ".#.", "..."]
    config = GuidanceConfig(vector="plain", corridor_columns_weight=3)

    def first_move(start, goal):
        world = StubWorld(drawing, [start], [goal])
        fields = GoalFields(world, config)
        fields.restart(ALL)
        pibt = Pibt(world, fields)
        pibt.restart(ALL)
        guidance = make_guidance(world, config, 1)
        guidance.restart(torch.ones(1, dtype=torch.bool))
        action = int(pibt.act(torch.tensor([0])))
        offset = MOVES[action][0] * 3 + MOVES[action][1]
        assert guidance.subgoal[0, 0] == int(world.position[0, 0]) + offset
        return action

    assert first_move((0, 1), (3, 1)) == LEFT
    assert first_move((3, 1), (0, 1)) == RIGHT


def test_traced_paths_end_even_if_prices_turn_against_the_field():
    """Flow that grew after the field was made must not send the path around in a circle."""
    world = StubWorld(["...", "...", "..."], [(0, 0), (2, 2)], [(0, 2), (2, 0)])
    guidance = make_guidance(world, GuidanceConfig(vector="plain", opposing_weight=50, flow_decay=0.0), 2)
    guidance.restart(torch.ones(1, dtype=torch.bool))
    for action in (UP, DOWN, UP, LEFT, RIGHT, LEFT):
        world.move(torch.tensor([[0, action]]))
        guidance.advance()
        window = guidance.spaces["path"].unpack(guidance.features()["path"])[0, 0, 0]
        assert window[2, 4]  # the goal is two columns to the right


def test_contest_and_head_on_change_what_agents_like():
    drawing = ["...", "..."]
    world = StubWorld(drawing, [(0, 0), (0, 2)], [(0, 2), (0, 0)])
    fields = GoalFields(world, GuidanceConfig(vector="plain", contest_weight=2, head_on_weight=3, stay_weight=1))
    fields.restart(ALL)
    pibt = Pibt(world, fields)
    pibt.restart(ALL)
    pibt.act(torch.tensor([0]))
    stay, up, down, left, right = pibt.scores[0].tolist()
    assert (stay, down, right) == (2 + 1, 3, 1 + 2)  # the other one wants the cell between as well
    assert up == left == 2**31 - 1
    world.position[0, 1] = 1
    pibt.act(torch.tensor([1]))
    assert pibt.scores[0, RIGHT] == 1 + 3  # it stands there and wants to come here; nobody else wants its cell


def test_closer_first_weighs_distance_against_waiting():
    world = StubWorld(["......"], [(0, 0), (0, 2)], [(0, 2), (0, 1)])
    world.goal[0] = torch.tensor([5, 1])  # five steps and one to go; both want the cell between

    def middle(closer_first):
        fields = GoalFields(world, GuidanceConfig(vector="plain", closer_first=closer_first))
        fields.restart(ALL)
        pibt = Pibt(world, fields)
        pibt.restart(ALL)
        return pibt.act(torch.tensor([0]))[0].tolist()

    assert middle(0.0) == [RIGHT, 0]  # the lower index goes first
    assert middle(1.0) == [0, LEFT]


@pytest.mark.parametrize("name", shipped_vectors())
def test_shipped_vectors_are_within_limits(name):
    values = read_vector(name)
    assert set(values) <= set(Weights._fields)
    assert GuidanceConfig(vector=name).weights() == Weights(**values)


def test_own_numbers_go_before_those_of_the_vector(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("values: {static_weight: 1.5, decay: 0.9}\n")
    weights = GuidanceConfig(vector=str(file), decay=0.8).weights()
    assert weights == Weights(static_weight=1.5, decay=0.8)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("values: {static_wait: 1}\n", "unknown key 'values.static_wait' .* did you mean 'static_weight'"),
        (
            "values: {static_weight: 11}\n",
            "'static_weight' of guidance .* is 11: input should be less than or equal",
        ),
        ("values: {decay: 1.0}\n", "'decay' .* less than 1"),
        ("values: {static_weight: .nan}\n", "'static_weight' .* finite"),
        ("values: {static_weight: high}\n", "'values.static_weight' in .* is 'high', use a number"),
        ("static_weight: 1\n", "no mapping 'values'"),
        ("values: [1, 2]\n", "no mapping 'values'"),
    ],
)
def test_faulty_vectors_are_refused_in_one_sentence(tmp_path, text, reason):
    file = tmp_path / "faulty.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=reason):
        GuidanceConfig(vector=str(file))


def test_unknown_vectors_and_numbers_are_refused():
    with pytest.raises(UserError, match="neither a file nor a shipped vector; did you mean 'default'"):
        GuidanceConfig(vector="defult")
    for wrong in ({"opposing_weight": -1}, {"flow_decay": 1.0}, {"closer_first": float("inf")}, {"lanes": 1}):
        with pytest.raises(ValidationError):
            GuidanceConfig(**wrong)
