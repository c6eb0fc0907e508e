"""``System``: what a learning system declares, and what the trainer asks of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel

from marl.policies.joint import JointPolicy
from marl.policies.joint_critic import JointCritic
from marl.policies.population import Population
from marl.rollout.batch import Batch
from marl.rollout.generations import Generation


class Algorithm(Protocol):
    """A learner for tensor worlds: networks and their update."""

    config: Any
    policy: JointPolicy
    critic: JointCritic

    def update(self, batch: Batch, number: int, fraction: float) -> dict[str, float]:
        """Learn from one batch; returns named figures."""

    def state(self) -> dict[str, object]:
        """Everything that the next update depends on, as a tree of tensors."""

    def load_state(self, state: dict[str, object]) -> None:
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

    def load_state(self, state: dict[str, object]) -> None:
        """Put ``state`` back."""


@dataclass(frozen=True)
class System:
    """A recipe: its name, what it claims, and how it is built.

    build: (spec, observation space per group, options, seed, device) -> Algorithm or Evolves; of a language system
        (language world, options, seed, device) -> ``marl.systems.language.learner.LanguageLearner``.
    kind: what it learns in.
    """

    name: str
    summary: str
    paper: str
    config: type[BaseModel]
    build: Callable[..., Any]
    kind: Literal["tensor", "language"] = "tensor"
