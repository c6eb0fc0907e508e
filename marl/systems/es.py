"""Evolution strategies: a policy is learned from nothing but how well variants of it did in whole episodes.

Salimans et al., "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", arXiv 1703.03864: mirrored
Gaussian perturbations of all weights, fitness shaped by rank, Adam. The fitness is the world's primary metric, not the
reward; the members of a generation play the same instances with the same random numbers. There is no critic and no
gradient of the networks, so that what lies between decisions and results may be anything, such as the supervisor.

Nothing but the weights outlasts a generation, so that a resumed run is exact in every world whose ``reset`` is; that of
SUMO with ``exact_reset: false`` is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from gymnasium import spaces
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn

from marl.config import Frozen
from marl.envs.batched import EnvSpec
from marl.learning.evolution import centred_ranks, evolution_gradient, mirrored
from marl.learning.learner import ClippedAdam
from marl.policies.config import DEFAULT_NETWORK, NetworkConfig
from marl.policies.joint import Sharing
from marl.policies.population import Population
from marl.rollout.generations import Generation
from marl.seeding import Stream, generator
from marl.systems.system import MakesPolicy, System, joint_policy


class EsConfig(Frozen):
    """Options of evolution strategies."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    population: Annotated[int, Field(ge=2, le=4096)] = 32
    """Members of a generation, half of them mirrored; ``copies`` is a multiple of it. An iteration is a generation:
    each member plays ``copies / population`` instances, one whole episode of each, and counts as many agent-steps as if
    all of them lasted for the world's horizon."""
    sigma: Annotated[float, Field(gt=0.0, le=10.0)] = 0.05
    """Standard deviation of the perturbation of every weight."""
    rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """Of Adam."""
    anneal: bool = False
    """Let the rate fall linearly to zero over the run."""
    actor: NetworkConfig = DEFAULT_NETWORK
    sharing: Sharing = "group"
    """Which agents share weights."""
    agent_index: bool = False
    """Append the agent's place in its group to its observation, one-hot."""
    greedy: bool = False
    """Act by the most probable action, in training as in evaluation, instead of sampling."""

    @model_validator(mode="after")
    def _mirrors(self) -> EsConfig:
        if self.population % 2:
            raise ValueError(f"population={self.population} is not even, but every perturbation is mirrored")
        return self


class Es:
    """Policy and update (``Evolves``). All its randomness comes from ``seed`` and a generation's number."""

    def __init__(
        self,
        spec: EnvSpec,
        observation_space: Mapping[str, spaces.Space[Any]],
        config: EsConfig,
        seed: int,
        device: torch.device,
        policy: MakesPolicy = joint_policy,
    ):
        self.config, self.population, self._seed = config, config.population, seed
        init = generator(seed, Stream.INIT)
        self.policy = policy(spec, observation_space, config, init).to(device)
        self._members = Population(self.policy, config.population)
        self._adam = ClippedAdam(self.policy.parameters(), config.rate, math.inf, config.anneal)

    def state(self) -> dict[str, object]:
        """Weights and moments, as a tree of tensors."""
        return {"policy": dict(self.policy.state_dict()), "adam": self._adam.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self._adam.load_state(state["adam"])

    def members(self, number: int) -> Population:
        """The population of a generation, around the present policy."""
        centre, noise = self._weights(), self._noise(number)
        self._members.place(centre + self.config.sigma * mirrored(noise))
        return self._members

    def update(self, generation: Generation, number: int, fraction: float) -> dict[str, float]:
        """One step along the estimated gradient; returns figures of the generation.

        Args:
            number: of the generation, as ``members`` was told.
            fraction: the part of the run that is done.
        """
        fitness = generation.fitness
        ranks = centred_ranks(fitness)
        plus, minus = fitness.chunk(2)
        figures = {
            "fitness_best": float(fitness.max()),
            "fitness_std": float(fitness.std()),
            "pair_difference": float((plus - minus).abs().mean()),
            "gradient_norm": 0.0,
        }
        if not bool(ranks.any()):  # all are equal: not even the momentum of earlier steps is a reason to move
            return figures
        uphill = evolution_gradient(ranks, self._noise(number), self.config.sigma)
        parameters = list(self.policy.parameters())
        parts = torch.split(uphill, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = -part.view_as(parameter)
        self._adam.schedule(fraction)
        return figures | {"gradient_norm": float(self._adam.step())}

    def _weights(self) -> Tensor:
        """All weights, ``[D]``."""
        return nn.utils.parameters_to_vector(self.policy.parameters()).detach()

    def _noise(self, number: int) -> Tensor:
        """The directions of a generation, standard normal ``[P / 2, D]``."""
        weights = self._weights()
        draw = generator(self._seed, Stream.PERTURBATION, number)
        return torch.randn(self.population // 2, len(weights), generator=draw).to(weights.device)


ES = System(
    name="es",
    summary="evolution strategies on the primary metric",
    paper="arXiv 1703.03864",
    config=EsConfig,
    build=Es,
    claim="a policy is learned from returns of whole episodes alone.",
    formula="gradient = 1 / (n sigma) sum_i F(theta + sigma z_i) z_i, F by rank, z mirrored",
)
