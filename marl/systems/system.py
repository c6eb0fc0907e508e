"""``System``: what a learning system declares, and what the trainer asks of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from marl.policies.joint import JointPolicy
from marl.policies.joint_critic import JointCritic
from marl.rollout.batch import Batch


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


@dataclass(frozen=True)
class System:
    """A recipe: its name, what it claims, and how it is built.

    build: (spec, observation space per group, options, seed, device) -> Algorithm; of a language system
        (language world, options, seed, device) -> ``marl.systems.language_learner.LanguageLearner``.
    kind: what it learns in.
    """

    name: str
    summary: str
    paper: str
    config: type[BaseModel]
    build: Callable[..., Any]
    kind: Literal["tensor", "language"] = "tensor"
