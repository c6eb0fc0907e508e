"""A rollout asks nothing of the device that the host would have to wait for."""

from __future__ import annotations

import pytest
import torch
from host_waits import host_waits

from marl.config import CoordinationConfig
from marl.coordination.pipeline import Pipeline
from marl.envs.batched import BatchedEnv
from marl.rollout.collector import Collector
from marl.rollout.finite import Watch, check_batch
from marl.rollout.generations import Generations
from marl.systems.es import Es, EsConfig
from marl.systems.mappo import Mappo, MappoConfig
from marl.testing.worlds import TinyWorld
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.traffic import Traffic
from scenarios.cav_merging.world import CavMerging
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.generators import RandomMap
from scenarios.lifelong_mapf.world import LifelongMapf

OFF = CoordinationConfig.model_validate({"guidance": {"enabled": False}})
SMALL = MappoConfig(rollout=7, epochs=2, minibatches=2)


def grids(device: str) -> BatchedEnv:
    config = MapfConfig(generator=RandomMap(size=9), map_pool=2, agents=4, horizon=5)
    return LifelongMapf(config, 3, device, compiled=False)


def roads(device: str) -> BatchedEnv:
    return CavMerging(CavConfig(horizon=5), 3, device)


def collector(env: BatchedEnv) -> tuple[Collector, Mappo]:
    pipeline = Pipeline(env, OFF)
    algorithm = Mappo(env.spec, pipeline.observation_space, SMALL, 0, env.device)
    made = Collector(pipeline, algorithm.policy, algorithm.critic)
    made.reset(0)
    made.collect(SMALL.rollout)  # what is brought to the device once
    return made, algorithm


def test_the_counter_sees_what_it_is_for() -> None:
    x = torch.arange(4)
    assert host_waits(lambda: x + 1) == {}
    assert host_waits(lambda: bool((x > 1).any())) == {"_local_scalar_dense.default": 1}
    assert host_waits(lambda: x[x > 1]) == {"index by flags": 1}
    assert host_waits(lambda: x.nonzero()) == {"nonzero.default": 1}


@pytest.mark.parametrize("make", [grids, roads])
def test_a_rollout_with_ends_of_episodes_waits_for_nothing(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU the torch forms of the worlds stand for those of a GPU."""
    monkeypatch.setattr(Traffic, "compiled", False)
    made, _ = collector(make("cpu"))  # type: ignore[operator]
    # Where nobody waits the collector asks whether anything ended or is to be bootstrapped from, which saves work.
    monkeypatch.setattr("marl.envs.waiting.is_at_hand", lambda x: False)
    assert host_waits(lambda: made.collect(SMALL.rollout)) == {}


def test_an_update_waits_for_its_figures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the figures and for the living, however many minibatches there are."""
    # torch's Adam keeps its count of steps on the host, whatever the device.
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)
    made, algorithm = collector(TinyWorld(3, 2, mortal=True))
    batch, episodes = made.collect(SMALL.rollout)
    waits = host_waits(lambda: algorithm.update(batch, 0, 0.0))
    assert sum(waits.values()) <= 6, waits
    assert sum(host_waits(episodes.means).values()) <= 1 + len(episodes.means())


def test_a_generation_waits_at_its_end_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether all was numbers, all finished, anything counts, who had nothing that does, and the reward."""
    monkeypatch.setattr(Traffic, "compiled", False)
    monkeypatch.setattr("marl.envs.waiting.is_at_hand", lambda x: False)
    env = CavMerging(CavConfig(horizon=12), 4)
    pipeline = Pipeline(env, OFF)
    learner = Es(env.spec, pipeline.observation_space, EsConfig(population=2), 0, env.device)
    generations = Generations(pipeline, learner.members, learner.population)
    seeds = torch.arange(2)
    generations.collect(0, seeds)
    assert sum(host_waits(lambda: generations.collect(1, seeds)).values()) <= 6


def test_the_check_of_a_rollout_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many columns it has; a watch waits at its end only."""
    made, _ = collector(TinyWorld(3, 2, mortal=True))
    env = made._pipeline.env
    batch, _ = made.collect(SMALL.rollout)
    assert host_waits(lambda: check_batch(batch, env.spec)) == {"_local_scalar_dense.default": 1}
    monkeypatch.setattr("marl.envs.waiting.is_at_hand", lambda x: False)
    watch, view = Watch(env.spec), env.reset(0)
    assert host_waits(lambda: watch.see(view)) == {}
    assert sum(host_waits(watch.check).values()) <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("make", [grids, roads])
def test_on_a_gpu_nothing_is_waited_for(make: object) -> None:
    made, _ = collector(make("cuda"))  # type: ignore[operator]
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch, _ = made.collect(SMALL.rollout)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert batch.reward.device.type == "cuda" and batch.steps == SMALL.rollout
