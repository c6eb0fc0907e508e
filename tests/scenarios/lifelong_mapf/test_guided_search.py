import numpy as np
import pytest
import torch
from test_windowed import play, world_of

from marl.api import policy_builder
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.maps.fields import Board
from scenarios.lifelong_mapf.maps.generators import MazeMap, RandomMap, WarehouseMap
from scenarios.lifelong_mapf.maps.kinds import kind_of_map
from scenarios.lifelong_mapf.scenario import SCENARIO
from scenarios.lifelong_mapf.search.choice_training import Recording, gain_per_work, poisson_regression, score_weights
from scenarios.lifelong_mapf.search.guided_search import choice_weights
from scenarios.lifelong_mapf.search.neighbourhoods import FEATURES, Choice, Ground, Plans, choose, write_features
from scenarios.lifelong_mapf.search.windowed import Windowed, WindowedConfig


def ground_of(drawing, position, plan, delay, tried):
    """One agent's ground and plans on a drawing of one row; its goal is the last cell."""
    cells = len(drawing)
    exits = np.array([4 * (c > 0) + 8 * (c < cells - 1) for c in range(cells)], np.uint8)
    field = np.arange(cells - 1, -1, -1, dtype=np.int32)[None]
    goal = np.array([cells - 1], np.int32)
    ground = Ground(Board(exits, cells), np.ones((cells, 5), np.int32), field, goal, np.array([True]), True, 1)
    table = np.full((len(plan), cells), -1, np.int16)
    plans = Plans(
        np.array([plan], np.int32),
        np.array([delay], np.int32),
        table,
        np.zeros(3, np.int32),
        np.array([tried], np.int32),
    )
    return ground, plans


def test_features_by_hand():
    ground, plans = ground_of("........", 0, [0, 0, 1, 1, 2], 2, 3)
    features = np.empty(len(FEATURES))
    write_features(0, ground, plans, features)
    # Two waits of four, seven cells to go in windows of four, and the first move is not the one it would make alone.
    assert features.tolist() == pytest.approx([np.log(3.0), 3, 1, 0.5, 7 / 4, 0])
    write_features(0, *ground_of("...", 0, [0, 1, 2, 2, 1], 0, 0), features)
    assert features.tolist() == [0, 0, 0, 0.25, 0.5, 1]


def test_the_highest_score_is_chosen_and_who_is_not_delayed_never():
    agents = 40
    ground, plans = ground_of("........", 0, [0, 0, 1, 1, 2], 2, 0)
    ground = ground._replace(
        field=np.repeat(ground.field, agents, 0), goal=np.repeat(ground.goal, agents), alive=np.ones(agents, bool)
    )
    plans = plans._replace(
        plan=np.repeat(plans.plan, agents, 0),
        delay=np.arange(agents, dtype=np.int32) % 20,
        tried=(np.arange(agents) // 20).astype(np.int32),
    )
    scratch = np.empty(len(FEATURES))
    by_delay = Choice(64, np.empty(0), scratch)
    wary = Choice(64, np.array([1.0, -10.0, 0, 0, 0, 0]), scratch)
    chosen = [[choose(np.int64(key), ground, plans, rule) for key in range(50)] for rule in (by_delay, wary)]
    assert all(plans.delay[agent] >= 15 for agent in chosen[0])
    assert {int(plans.tried[agent]) for agent in chosen[0]} == {0, 1}
    assert all(plans.tried[agent] == 0 and plans.delay[agent] >= 13 for agent in chosen[1])
    idle = plans._replace(delay=np.zeros(agents, np.int32))
    assert choose(np.int64(1), ground, idle, wary) == choose(np.int64(1), ground, idle, by_delay) == -1


def test_a_regression_finds_the_rates_that_made_the_counts():
    rng = np.random.default_rng(0)
    inputs = np.column_stack([rng.normal(size=(20_000, 2)), np.ones(20_000)])
    found = poisson_regression(inputs, rng.poisson(np.exp(inputs @ [0.7, -0.4, 0.3])).astype(float), ridge=0)
    assert np.allclose(found, [0.7, -0.4, 0.3], atol=0.03)


def test_what_is_learned_gains_more_per_work():
    rows = []
    for seed in range(2):
        world = world_of(2, generator=MazeMap(size=15, openings=0.6), agents=40, horizon=1000)
        recording = Recording(world, WindowedConfig(iterations=30), GuidanceConfig(vector="plain"), (4, ()))
        play(world, recording, 25, seed=100 * seed)
        rows.append(np.array(recording.rows))
    weights = score_weights(rows[:1])
    new = rows[1]
    gains = [gain_per_work(new, score, 8) for score in (np.zeros(len(new)), new[:, 0], new[:, :-2] @ weights)]
    assert gains[2] > 1.1 * gains[1] > 0 and gains[2] > 1.25 * gains[0]


@pytest.mark.parametrize(
    ("kind", "generators"),
    [
        ("warehouse", [WarehouseMap(), WarehouseMap(missing=0.3), WarehouseMap(shelf_rows=20, shelf_columns=8)]),
        ("random", [RandomMap(size=17, density=0.1), RandomMap(size=20, density=0.3), RandomMap(size=64)]),
        ("maze", [MazeMap(size=17, openings=0.8), MazeMap(size=21), MazeMap(size=65)]),
    ],
)
def test_kinds_of_generated_maps(kind, generators):
    for generator in generators:
        for seed in range(3):
            blocked = generator.generate(seed).blocked
            padded = np.ones((blocked.shape[0] + 4, blocked.shape[1] + 9), np.uint8)
            padded[: blocked.shape[0], : blocked.shape[1]] = blocked
            assert kind_of_map(padded.reshape(-1), *padded.shape) == kind


def test_it_is_windowed_with_the_vector_and_the_choice_that_were_learned():
    world = world_of(1, generator=MazeMap(size=15), agents=40)
    own = play(world, policy_builder(SCENARIO, "guided_search:iterations=20")(world), 15)
    same = Windowed(
        world, WindowedConfig(iterations=20), GuidanceConfig(vector="search-maze"), (8, list(choice_weights()))
    )
    assert torch.equal(own, play(world, same, 15))
    plain = "guided_search:iterations=20:learned_choice=false:guidance=search-maze:draws=4"
    assert torch.equal(
        play(world, policy_builder(SCENARIO, plain)(world), 15),
        play(world, policy_builder(SCENARIO, "windowed:iterations=20:guidance=search-maze")(world), 15),
    )


def test_the_same_in_any_batch():
    alone, three = (
        play(world, policy_builder(SCENARIO, "guided_search:iterations=15")(world), 30)
        for world in (world_of(n, generator=RandomMap(size=9, density=0.1), agents=30) for n in (1, 3))
    )
    assert torch.equal(three[:, :1], alone)
