"""Fields around the agents' ways: the same values, and so the same decisions, as those of the whole map."""

import numpy as np
import pytest
import torch

from scenarios.lifelong_mapf import baselines
from scenarios.lifelong_mapf.baselines import FieldPibt
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.generators import MazeMap, RandomMap
from scenarios.lifelong_mapf.guidance import GuidanceConfig
from scenarios.lifelong_mapf.world import LifelongMapf

CONSTANT = {
    "plain": GuidanceConfig(vector="plain"),
    "static": GuidanceConfig(vector="plain", static_weight=2.0, closer_first=0.5, stay_weight=0.5),
    "lanes": GuidanceConfig(vector="plain", lanes_weight=0.5, corridor_rows_weight=6, corridor_columns_weight=6),
}


def play(guidance, near, generator, agents, steps=60, horizon=40):
    world = LifelongMapf(MapfConfig(generator=generator, map_pool=2, agents=agents, horizon=horizon), 2)
    timestep = world.reset(3)
    policy = FieldPibt(world, guidance, near)
    actions = []
    for _ in range(steps):
        actions.append(policy.act(timestep))
        timestep = world.step(actions[-1])
    return torch.stack(actions), policy


@pytest.mark.parametrize("name", CONSTANT)
@pytest.mark.parametrize(
    ("generator", "agents"), [(RandomMap(size=41, density=0.3), 300), (MazeMap(size=43, openings=0.05), 200)]
)
def test_where_prices_are_constant_all_decisions_are_the_same(name, generator, agents):
    """In crowds, where agents are pushed off their ways; over an end of episodes."""
    near, policy = play(CONSTANT[name], True, generator, agents)
    assert torch.equal(near, play(CONSTANT[name], False, generator, agents)[0])
    rule = policy._parts[0]
    height, width = -(-generator.size // 8), -(-generator.size // 8)
    in_use, taken = rule.tiles
    assert in_use == int((rule._fields.table >= 0).sum())
    assert taken <= 2 * agents * height * width
    tiles = rule._fields.table[rule._fields.table >= 0]
    assert np.unique(tiles).size == tiles.size  # no two agents share a tile


def test_less_than_the_whole_map_is_known_on_a_large_one():
    _, policy = play(CONSTANT["plain"], True, RandomMap(size=128, density=0.1), 20, steps=3)
    in_use, taken = policy._parts[0].tiles
    assert 0 < in_use <= taken < 0.6 * 2 * 20 * 16 * 16


def test_prices_that_change_are_followed_without_collisions():
    guidance = GuidanceConfig(vector="warehouse")
    world = LifelongMapf(MapfConfig(generator=RandomMap(size=24), map_pool=1, agents=150, horizon=100), 1)
    timestep = world.reset(0)
    policy = FieldPibt(world, guidance, near=True)
    while not timestep.done.all():
        timestep = world.step(policy.act(timestep))
    assert timestep.metrics["collisions"] == 0
    assert timestep.metrics["refused_share"] == 0
    assert timestep.metrics["throughput"] > 2


def test_size_decides(monkeypatch):
    world = LifelongMapf(MapfConfig(generator=RandomMap(size=12), map_pool=1, agents=2), 1)
    assert len(FieldPibt(world, GuidanceConfig())._parts) == 2
    monkeypatch.setattr(baselines, "NEAR_CELLS", 100)
    assert len(FieldPibt(world, GuidanceConfig())._parts) == 1
