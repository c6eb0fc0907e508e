"""Announcements on a grid, by hand."""

import numpy as np
import torch
from mapf_play import random_actions
from stub_world import StubWorld

from marl.config import CoordinationConfig
from marl.coordination.intent import Intent, Predicts
from marl.coordination.pipeline import Pipeline
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.intent import Announcer
from scenarios.lifelong_mapf.world import LifelongMapf

DOWN, LEFT = 2, 3

#: Agent 0 goes right and then down around the wall, agent 1 stands on its goal, agent 2 is out of sight.
DRAWING = ["....", ".##.", "....", "....", "....", "...."]
PLACES, GOALS = [(0, 1), (2, 2), (5, 3)], [(2, 3), (2, 2), (5, 0)]


def announced(actions=None, radius=2, horizon=4, companions=2):
    world = StubWorld(DRAWING, PLACES, GOALS)
    announcer = Announcer(world, radius, horizon, companions)
    chosen = None if actions is None else torch.tensor([actions])
    return announcer, announcer.predict(chosen, None)


def test_agents_that_carry_on_announce_their_path_and_wait_at_the_goal():
    announcer, prediction = announced()
    assert announcer.scale == (4.0, 4.0)
    assert prediction.origin[0].tolist() == [[0, 1], [2, 2], [5, 3]]
    assert prediction.trajectory[0, 0].tolist() == [[0, 2], [0, 3], [1, 3], [2, 3]]
    assert prediction.trajectory[0, 1].tolist() == [[2, 2]] * 4
    assert prediction.trajectory[0, 2].tolist() == [[5, 2], [5, 1], [5, 0], [5, 0]]


def test_a_draft_comes_first_and_the_path_goes_on_from_there():
    _, prediction = announced([LEFT, DOWN, 0])
    assert prediction.trajectory[0, 0, :3].tolist() == [[0, 0], [1, 0], [2, 0]]  # as short as back; down before right
    assert prediction.trajectory[0, 1, :3].tolist() == [[3, 2], [2, 2], [2, 2]]
    assert prediction.trajectory[0, 2, :3].tolist() == [[5, 3], [5, 2], [5, 1]]
    _, into_a_wall = announced([DOWN, 0, 0])
    assert into_a_wall.trajectory[0, 0, :2].tolist() == [[0, 1], [0, 2]]


def test_companions_are_the_nearest_within_the_window():
    _, prediction = announced()
    assert prediction.companions[0].tolist() == [[1, -1], [0, -1], [-1, -1]]
    _, wide = announced(radius=5)
    assert wide.companions[0].tolist() == [[1, 2], [0, 2], [1, 0]]  # 3 and 7 cells away; 3 and 4; 4 and 7
    _, one = announced(radius=5, companions=1)
    assert one.companions[0].tolist() == [[1], [0], [1]]


def test_who_left_the_board_announces_nothing():
    world = StubWorld(DRAWING, PLACES, GOALS)
    world.alive[0, 1] = False
    prediction = Announcer(world, 5, 2, 2).predict(None, None)
    assert prediction.companions[0].tolist() == [[2, -1], [-1, -1], [0, -1]]


def test_another_map_gives_another_path_to_the_same_goal():
    world = StubWorld(["...", "...", "..."], [(0, 0)], [(2, 0)])
    announcer = Announcer(world, 2, 2, 1)
    assert announcer.predict(None, None).trajectory[0, 0].tolist() == [[1, 0], [2, 0]]
    wall = StubWorld(["...", "#..", "..."], [(0, 0)], [(2, 0)])
    world.blocked = np.concatenate((world.blocked, wall.blocked))
    announcer = Announcer(world, 2, 2, 1)
    for index, path in ((0, [[1, 0], [2, 0]]), (1, [[0, 1], [1, 1]]), (0, [[1, 0], [2, 0]])):
        world.map_index[:] = index
        assert announcer.predict(None, None).trajectory[0, 0].tolist() == path


def test_neighbours_see_it_relative_to_themselves():
    env = LifelongMapf(MapfConfig(agents=6, map_pool=1, generator={"kind": "random", "size": 6, "density": 0.0}), 1)
    config = CoordinationConfig.model_validate({"intent": {"enabled": True, "horizon": 3, "companions": 2}})
    pipeline = Pipeline(env, config)
    assert isinstance(env, Predicts)
    timestep = pipeline.view(env.reset(3))
    told = timestep.observation["intent"][0].view(6, -1)[:, -2 * (1 + 3 * 2) :].view(6, 2, 7)
    prediction = env.predict(None)
    assert bool((prediction.companions >= 0).all())
    for n in range(6):
        for k, other in enumerate(prediction.companions[0, n].tolist()):
            relative = (prediction.trajectory[0, other] - prediction.origin[0, n]) / 10.0
            torch.testing.assert_close(told[n, k, 1:], relative.flatten().float())
    # Guided agents announce the path that they are guided along: its first cell is the sub-goal.
    subgoal = torch.from_numpy(env._plan._guidance.subgoal)[0]
    first = prediction.trajectory[0, :, 0]
    assert torch.equal((first[:, 0] * env.width + first[:, 1]).int(), subgoal)


def test_paths_follow_goals_maps_and_episodes():
    """Of a world that plays on and is put back, always as of a fresh one."""
    config = MapfConfig(agents=6, map_pool=3, horizon=7)
    env, fresh = LifelongMapf(config, 3), LifelongMapf(config, 3)
    intent = Intent(env, env.spec.observation_space, CoordinationConfig().intent)
    Intent(fresh, fresh.spec.observation_space, CoordinationConfig().intent)
    timestep = intent.augment(env.reset(0))
    fresh.reset(9)
    for step in range(16):
        timestep = env.step(random_actions(timestep))
        assert (env.predict_final() is None) == (timestep.final is None)
        fresh.restore(env.snapshot())
        for one, two in zip(env.predict(None), fresh.predict(None), strict=True):
            assert torch.equal(one, two), step
