"""MAPPO's update on worlds in which agents come and go."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_scenario import make_tiny, tiny_config

from marl.config import AnyRunConfig
from marl.coordination.pipeline import Pipeline
from marl.rollout.batch import Batch
from marl.rollout.collector import Collector
from marl.systems.mappo import Mappo


def played(config: AnyRunConfig, copies: int) -> tuple[Mappo, Batch]:
    """A learner and what its policy played in 16 steps."""
    env = make_tiny(config.world, copies, torch.device("cpu"))
    pipeline = Pipeline(env, config.coordination)
    learner = Mappo(env.spec, pipeline.observation_space, config.algorithm, 0, torch.device("cpu"))
    collector = Collector(pipeline, learner.policy, learner.critic)
    collector.reset(0)
    return learner, collector.collect(16)[0]


@pytest.mark.parametrize("system", ["mappo", "ippo"])
def test_moving_the_living_together_changes_no_loss(system: str) -> None:
    """One step on all rows, with the empty slots masked and with the living packed: the same parameters."""
    config = tiny_config(
        system,
        world={"mortal": True, "slip": 0.3, "agents": 3},
        algorithm={"epochs": 1, "minibatches": 1},
    )
    packing, batch = played(config, 8)
    assert 0 < batch.mask.sum() < batch.mask.numel(), "the world must have empty slots"
    masking = copy.deepcopy(packing)
    assert packing.exchangeable
    masking.exchangeable = False
    first, second = packing.update(batch, 0, 0.0), masking.update(batch, 0, 0.0)
    assert first == pytest.approx(second, rel=1e-4, abs=1e-6)
    for one, other in zip(packing.policy.parameters(), masking.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_agents_with_an_index_stay_in_their_slots() -> None:
    config = tiny_config(algorithm={"agent_index": True})
    env = make_tiny(config.world, 2, torch.device("cpu"))
    observation_space = Pipeline(env, config.coordination).observation_space
    assert not Mappo(env.spec, observation_space, config.algorithm, 0, torch.device("cpu")).exchangeable


def test_few_living_agents_make_fewer_minibatches() -> None:
    config = tiny_config(world={"mortal": True, "slip": 0.3, "agents": 3}, algorithm={"epochs": 1, "minibatches": 64})
    learner, batch = played(config, 2)
    figures = learner.update(batch, 0, 0.0)
    assert figures["minibatch_steps"] == -(-int(batch.mask.sum()) // 3) < 64
