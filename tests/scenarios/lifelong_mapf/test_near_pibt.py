"""Fields around the agents' ways: the same values, and so the same decisions, as those of the whole map."""

from functools import partial

import numpy as np
import pytest
import torch

from scenarios.lifelong_mapf import baselines
from scenarios.lifelong_mapf.baselines import FieldPibt
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.guidance.prices import UNITS
from scenarios.lifelong_mapf.maps.generators import MazeMap, RandomMap
from scenarios.lifelong_mapf.pibt.near_rule import NearPibt
from scenarios.lifelong_mapf.world import LifelongMapf

CONSTANT = {
    "plain": GuidanceConfig(vector="plain"),
    "static": GuidanceConfig(vector="plain", static_weight=2.0, closer_first=0.5, stay_weight=0.5),
    "lanes": GuidanceConfig(vector="plain", lanes_weight=0.5, corridor_rows_weight=6, corridor_columns_weight=6),
}


@pytest.fixture
def exact(monkeypatch):
    """Rules for large maps that do without estimates."""
    monkeypatch.setattr(baselines, "NearPibt", partial(NearPibt, trust=0.0))


def play(guidance, near, generator, agents, steps=60, horizon=40, swap=False):
    world = LifelongMapf(MapfConfig(generator=generator, map_pool=2, agents=agents, horizon=horizon), 2)
    timestep = world.reset(3)
    policy = FieldPibt(world, guidance, near, swap)
    actions = []
    for _ in range(steps):
        actions.append(policy.act(timestep))
        timestep = world.step(actions[-1])
    return torch.stack(actions), policy


@pytest.mark.parametrize("name", CONSTANT)
@pytest.mark.parametrize(
    ("generator", "agents"), [(RandomMap(size=41, density=0.3), 300), (MazeMap(size=43, openings=0.05), 200)]
)
def test_where_prices_are_constant_all_decisions_are_the_same(name, generator, agents, exact):
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


def test_agents_swap_on_known_distances_as_well():
    """Dead ends that are shorter than what is known around a way: all decisions are the same."""
    whole, without = (play(CONSTANT["plain"], False, RandomMap(size=20), 60, swap=swap)[0] for swap in (True, False))
    near = play(CONSTANT["plain"], True, RandomMap(size=20), 60, swap=True)[0]
    assert torch.equal(near, whole)
    assert not torch.equal(whole, without)


def test_plain_distances_are_exact_with_estimates_as_well():
    generator = RandomMap(size=41, density=0.3)
    assert torch.equal(*(play(CONSTANT["plain"], near, generator, 300)[0] for near in (True, False)))


def test_estimated_ways_lead_to_the_goal_and_are_nearly_as_cheap():
    """Agents in a crowd: every value but the goal's is more than a neighbour's, by a step at least."""
    world = LifelongMapf(MapfConfig(generator=RandomMap(size=40), map_pool=1, agents=200, horizon=100), 1)
    timestep = world.reset(0)
    guidance = GuidanceConfig(vector="default")
    policy, exact = (NearPibt(world, guidance, trust) for trust in (1.0, 0.0))
    for step in range(60):
        if step:
            policy.advance()
        else:
            policy.restart(np.ones(1, bool))
        timestep = world.step(policy.act(timestep.key))
    fields, ways = policy._fields, 0
    table, goals = fields.table[0], fields.planned[0]
    for agent, goal in enumerate(goals):
        values = np.full((40 + 2, 40 + 2), 1 << 30)
        for place in np.flatnonzero(table[agent] >= 0):
            row, column = (1 + 8 * x for x in divmod(int(place), fields.across))
            known = fields.stock[table[agent, place]].reshape(8, 8)
            values[row : row + 8, column : column + 8] = np.where(known < 0, 1 << 30, known)
        inner = values[1:-1, 1:-1]
        least = np.minimum.reduce([values[:-2, 1:-1], values[2:, 1:-1], values[1:-1, :-2], values[1:-1, 2:]])
        cells = (inner < 1 << 30) & (np.arange(1600).reshape(40, 40) != goal)
        assert (least[cells] <= inner[cells] - UNITS).all()
        assert inner.reshape(-1)[goal] == 0
        ways += cells.any()
    assert ways > 150
    costs = []
    for rule in (policy, exact):
        rule.restart(np.ones(1, bool))  # both search anew, on static prices
        rule.act(timestep.key)
        costs.append(rule._scores[0, :, 0].astype(float))
    assert (costs[0] >= costs[1]).all()
    assert costs[0].sum() < 1.05 * costs[1].sum()
    assert policy.tiles[0] < exact.tiles[0]


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
