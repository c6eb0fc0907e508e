"""A population: each member acts in its copies as it would alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_scenario import make_tiny, tiny_config
from torch import Tensor, nn

from marl.coordination.pipeline import Memory, Pipeline
from marl.envs.batched import TimeStep, Tree
from marl.policies.joint import JointPolicy
from marl.policies.population import Population
from marl.rollout.batch import stack

VARIANTS: dict[str, dict[str, Any]] = {
    "windows": {"world": {"observation": "dict"}},
    "recurrent": {"algorithm": {"actor": {"recurrent": "gru"}}},
    "two groups, masks": {"world": {"unlike": True, "agents": 3, "masks": True}},
    "continuous": {"world": {"continuous": True}},
    "one network each": {"algorithm": {"sharing": "none", "agent_index": True}},
}


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_members_act_as_they_would_alone(name: str, greedy: bool) -> None:
    config = tiny_config("es", **VARIANTS[name])
    options = config.algorithm
    share, members, seeds = 3, 4, torch.arange(12) + 5

    def world(copies: int) -> tuple[Pipeline, JointPolicy]:
        pipeline = Pipeline(make_tiny(config.world, copies, torch.device("cpu")), config.coordination)
        draw = torch.Generator().manual_seed(0)
        space = pipeline.observation_space
        spec = pipeline.env.spec
        return pipeline, JointPolicy(
            spec, space, options.actor, options.sharing, options.agent_index, generator=draw
        ).requires_grad_(False)

    def played(pipeline: Pipeline, policy: JointPolicy | Population, seeds: Tensor) -> list[tuple[Any, ...]]:
        timestep: TimeStep = pipeline.view(pipeline.env.reset(seeds))
        memory: Memory = pipeline.begin(policy, timestep)
        steps = []
        for _ in range(4):
            decision = pipeline.act(policy, timestep, memory, greedy)
            memory = decision.memory
            steps.append((decision.proposed, decision.log_prob, memory.hidden))
            timestep = pipeline.view(pipeline.env.step(decision.executed))
        return steps

    together, centre = world(share * members)
    weights = nn.utils.parameters_to_vector(centre.parameters())
    weights = weights + torch.randn(members, len(weights), generator=torch.Generator().manual_seed(1))
    population = Population(centre, members)
    population.place(weights)
    joint = played(together, population, seeds)
    for number in range(members):
        own = slice(number * share, (number + 1) * share)
        alone, policy = world(share)
        nn.utils.vector_to_parameters(weights[number], policy.parameters())
        for one, all_of_them in zip(played(alone, policy, seeds[own]), joint, strict=True):
            for expected, found in zip(one, all_of_them, strict=True):
                close(expected, found, own)
    first, second = (joint[0][1][own] for own in (slice(0, share), slice(share, 2 * share)))
    assert not torch.equal(first, second), "the members are to differ"


def close(expected: Tree, found: Tree, own: slice) -> None:
    if isinstance(expected, dict):
        assert isinstance(found, dict) and expected.keys() == found.keys()
        for key, part in expected.items():
            close(part, found[key], own)
    else:
        torch.testing.assert_close(found[own], expected)  # type: ignore[index]


def test_scores_of_all_actions_are_the_members_own() -> None:
    """What the supervisor ranks replacements by."""
    config = tiny_config("es")
    pipeline = Pipeline(make_tiny(config.world, 4, torch.device("cpu")), config.coordination)
    policy = JointPolicy(
        pipeline.env.spec, pipeline.observation_space, config.algorithm.actor, generator=torch.Generator()
    )
    weights = nn.utils.parameters_to_vector(policy.parameters()).detach()
    population = Population(policy, 2)
    population.place(stack([weights, 3.0 * weights]))  # type: ignore[arg-type]
    timestep = pipeline.env.reset(torch.tensor([1, 2, 1, 2]))
    drawn = population.draw(timestep, {}, torch.ones_like(timestep.alive), True)
    alone = policy.draw(timestep, {}, torch.ones_like(timestep.alive), True)
    assert drawn.scores is not None and alone.scores is not None
    torch.testing.assert_close(drawn.scores[:2], alone.scores[:2])
    assert (drawn.scores[2:] - alone.scores[2:]).abs().max() > 1e-3
