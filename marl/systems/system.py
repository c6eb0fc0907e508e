"""``System``: what a learning system declares, and what the trainer asks of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from gymnasium import spaces
from pydantic import BaseModel

from marl.envs.batched import EnvSpec
from marl.errors import UserError
from marl.policies.config import DEFAULT_NETWORK
from marl.policies.joint import JointPolicy
from marl.policies.population import Population
from marl.rollout.batch import Batch
from marl.rollout.collector import Values
from marl.rollout.generations import Generation

#: (spec, what one agent of each group sees, the system's options, source of the initial weights) -> a policy, on the
#: CPU. It must give the same parameters, by name and shape, whenever it is called with the same spaces and options.
MakesPolicy = Callable[[EnvSpec, Mapping[str, spaces.Space[Any]], Any, torch.Generator], JointPolicy]


class Algorithm(Protocol):
    """A learner for tensor worlds: networks and their update.

    critic: values a rollout's steps; ``--init`` takes its weights too if it is an ``nn.Module``. ``NoValues`` where
        nothing is valued.
    """

    config: Any
    policy: JointPolicy
    critic: Values

    def update(self, batch: Batch, number: int, fraction: float) -> dict[str, float]:
        """Learn from one batch; returns named figures."""

    def state(self) -> dict[str, object]:
        """Everything that the next update depends on, as a tree of tensors."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Put ``state`` back."""


@runtime_checkable
class Evolves(Protocol):
    """A learner for tensor worlds that is told how well members of a population did, and nothing else.

    config: its options, among them ``greedy``: members take their likeliest actions. There is no ``rollout``, episodes
    last as long as they do. population: members of a generation; the run's ``copies`` are a multiple of it.
    """

    config: Any
    policy: JointPolicy
    population: int

    def members(self, number: int) -> Population:
        """Who plays the generation of that number."""

    def update(self, generation: Generation, number: int, fraction: float) -> dict[str, float]:
        """Learn from a generation; returns named figures."""

    def state(self) -> dict[str, object]:
        """As ``Algorithm``'s."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Put ``state`` back."""


def joint_policy(
    spec: EnvSpec, observation_space: Mapping[str, spaces.Space[Any]], config: Any, generator: torch.Generator
) -> JointPolicy:
    """The usual policy: networks as the options ``actor``, ``sharing`` and ``agent_index`` say, where there are such.

    Args:
        spec: of the world.
        observation_space: per group, what one agent sees at the end of the pipeline.
        config: the system's options.
        generator: the only source of the initial weights.
    """
    return JointPolicy(
        spec,
        observation_space,
        getattr(config, "actor", DEFAULT_NETWORK),
        getattr(config, "sharing", "group"),
        getattr(config, "agent_index", False),
        generator=generator,
    )


Verdict = Literal["holds", "does not hold here", "not decidable here"]


class Check(NamedTuple):
    """A published claim, looked at in miniature.

    command: makes the figures anew. figure: what is compared. bound: what it has to be for the claim to hold.
    verdict: what came out, whatever it is. why: the figures behind it, and what was tried where it does not hold.
    """

    command: str
    figure: str
    bound: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class System:
    """A recipe: its name, what it claims, how it is built, and how its policy is.

    build: (spec, observation space per group, options, seed, device, policy) -> Algorithm or Evolves, where ``policy``
        is the field of that name; of a language system (language world, options, seed, device) ->
        ``marl.systems.language.learner.LanguageLearner``.
    kind: what it learns in.
    policy: makes the policy, wherever one is needed: to be trained, to be loaded, to be exported. An own network is an
        own function here. Language systems have their speakers instead.
    claim: what its paper says that it is better at, in one sentence. formula: what it does, in the letters of
        ``docs/systems/index.md``. check: the claim in miniature; None if nobody claims anything that it could show.
    settings: keys of a run and values that belong to it, laid over the preset: modules that a system switches on.
    """

    name: str
    summary: str
    paper: str
    config: type[BaseModel]
    build: Callable[..., Any]
    kind: Literal["tensor", "language"] = "tensor"
    policy: MakesPolicy = joint_policy
    claim: str = ""
    formula: str = ""
    check: Check | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def algorithm(
        self,
        spec: EnvSpec,
        observation_space: Mapping[str, spaces.Space[Any]],
        config: Any,
        seed: int,
        device: torch.device,
    ) -> Any:
        """The learner of a run in a tensor world, an ``Algorithm`` or ``Evolves``.

        Raises ``UserError`` if its policy is not the one that ``policy`` makes: no checkpoint of it could be loaded.

        Args:
            spec: of the world.
            observation_space: per group, what one agent sees at the end of the pipeline.
            config: the system's options.
            seed: of the run.
            device: where networks go.
        """
        made: list[JointPolicy] = []

        def policy(*args: Any, **named: Any) -> JointPolicy:
            made.append(self.policy(*args, **named))
            return made[-1]

        try:
            inspect.signature(self.build).bind(spec, observation_space, config, seed, device, policy)
        except TypeError as error:
            raise UserError(
                f"system '{self.name}': its 'build' is called with (spec, observation_space, config, seed, device, "
                f"policy): {error}"
            ) from None
        algorithm = self.build(spec, observation_space, config, seed, device, policy)
        if not any(algorithm.policy is own for own in made):
            raise UserError(
                f"system '{self.name}' learns a policy that its System.policy did not make, so that no checkpoint "
                f"could be loaded: make it by the 'policy' that 'build' is given"
            )
        return algorithm
