import numpy as np
import pytest
import torch

from scenarios.lifelong_mapf.baselines import BASELINES
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.generators import RandomMap, WarehouseMap
from scenarios.lifelong_mapf.world import LifelongMapf


def make(copies, **options):
    options = {"generator": RandomMap(size=12, density=0.2), "map_pool": 3, "agents": 12, "horizon": 15} | options
    return LifelongMapf(MapfConfig(**options), copies)


def play(name, world, steps, seed=0):
    """Actions [T, B, N] and summed reward [B]."""
    timestep = world.reset(seed)
    policy = BASELINES[name](world)
    actions, total = [], torch.zeros(world.copies)
    for _ in range(steps):
        actions.append(policy.act(timestep))
        timestep = world.step(actions[-1])
        total += timestep.reward.sum(1)
    return torch.stack(actions), total


@pytest.mark.parametrize("name", BASELINES)
def test_the_same_in_any_batch(name):
    """Over three episodes, each on another map of the pool."""
    alone, seven = play(name, make(1), 40)[0], play(name, make(7), 40)[0]
    assert torch.equal(seven[:, :1], alone)
    assert not torch.equal(seven[:, 0], seven[:, 1])


@pytest.mark.parametrize("name", BASELINES)
def test_a_new_episode_starts_from_nothing(name):
    """What an agent does depends on its episode only: the policy that played another one before acts the same."""
    options = {"guidance": {"occupancy_weight": 40}, "agents": 30}
    world = make(2, **options)
    policy = BASELINES[name](world)
    timestep = world.reset(5)
    for _ in range(12):
        timestep = world.step(policy.act(timestep))
    timestep = world.reset(0, torch.tensor([True, False]))
    actions = []
    for _ in range(10):
        actions.append(policy.act(timestep))
        timestep = world.step(actions[-1])
    assert torch.equal(torch.stack(actions)[:, 0], play(name, make(1, **options), 10)[0][:, 0])


@pytest.mark.parametrize("name", ["pibt", "guided_pibt"])
@pytest.mark.parametrize("on_target", ["restart", "nothing", "finish"])
def test_pibt_moves_are_always_carried_out(name, on_target):
    world = make(2, on_target=on_target, agents=60, horizon=60)
    offsets = torch.tensor([0, -world.width, world.width, -1, 1])
    timestep = world.reset(1)
    policy = BASELINES[name](world)
    for _ in range(50):
        actions = policy.act(timestep)
        acting, wanted = timestep.alive, world.position + offsets[actions]
        timestep = world.step(actions)
        assert (world.position == wanted)[acting & ~timestep.done.unsqueeze(1)].all()


def test_order_of_strength_on_a_warehouse():
    options = {"generator": WarehouseMap(), "map_pool": 1, "agents": 128, "horizon": 1000}
    goals = {name: float(play(name, make(2, **options), 120)[1].mean()) for name in BASELINES}
    assert goals["random"] < goals["follow_path"] < goals["pibt"] < goals["guided_pibt"] < goals["windowed"]
    assert goals["guided_pibt"] < goals["guided_search"]


@pytest.mark.parametrize("name", ["follow_path", "pibt"])
def test_one_agent_alone_reaches_the_bound(name):
    guidance = {"static_weight": 0, "occupancy_weight": 0}
    world = make(8, agents=1, horizon=60, map_pool=8, guidance=guidance, bound_share=True)
    timestep = world.reset(0)
    policy = BASELINES[name](world)
    while not timestep.done.all():
        timestep = world.step(policy.act(timestep))
    assert timestep.metrics["bound_share"].tolist() == [1.0] * 8


def test_random_moves_are_uniform():
    actions, _ = play("random", make(4, agents=50), 50)
    shares = np.bincount(actions.flatten(), minlength=5) / actions.numel()
    assert np.allclose(shares, 0.2, atol=0.02)
