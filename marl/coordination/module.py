"""``Module``: one link of the chain between a world and a policy, and how the chain finds it.

    observation - guidance - intent - (further ones) - policy - (further ones) - safety - world.step

A module of one's own is a subclass that overrides what it needs, and a ``ModuleKind`` that names it: in
``marl.coordination.registry`` or, without touching the platform, as ``module:object`` in ``coordination.modules``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from pydantic import BaseModel
from torch import Tensor

from marl.envs.batched import BatchedEnv, Metric, TimeStep, Tree

#: Per group of agents, what one of them observes.
Spaces = Mapping[str, spaces.Space[Any]]


def extended(space: spaces.Space[Any], features: Mapping[str, spaces.Space[Any]]) -> spaces.Dict:
    """An observation space with more parts.

    Args:
        space: of one agent.
        features: the parts that are added, by name.
    """
    own = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
    return spaces.Dict({**own, **features})


def merged(observation: Tree, features: Mapping[str, Tree]) -> Tree:
    """An observation with more parts, as ``extended`` describes it.

    Args:
        observation: of all agents.
        features: the parts that are added, by name, ``[B, N, *]`` each.
    """
    own = observation if isinstance(observation, dict) else {"observation": observation}
    return {**own, **features}


class Module:
    """What a module may do; everything here does nothing.

    Actions are as the world takes them: a tensor ``[B, N]`` of the only group, or a mapping by group. Chance has to be
    a function of ``timestep.key``, and what is remembered between steps part of ``state``: then runs resume exactly.
    """

    #: Figures that ``view`` adds to ``timestep.metrics``.
    metrics: Mapping[str, Metric] = {}

    def observes(self, observed: Spaces) -> Spaces:
        """What agents observe with this module, from what they observe without it."""
        return observed

    def view(self, timestep: TimeStep) -> TimeStep:
        """The moment as the policy sees it: observations, rewards and metrics; once per ``reset`` and ``step``."""
        return timestep

    def begin(self) -> None:
        """Before the first decision of a rollout."""

    def negotiate(self, timestep: TimeStep, draft: Callable[[TimeStep], Tree]) -> TimeStep:
        """What agents tell each other before they decide. draft: the likeliest actions at a time step."""
        return timestep

    def execute(self, timestep: TimeStep, proposed: Tree, scores: Tensor | None) -> Tree:
        """What is executed in the place of ``proposed``. scores: ``[B, N, A]`` of the policy; None: it has none."""
        return proposed

    def record(self, timestep: TimeStep, executed: Tree) -> None:
        """Once it is clear what is executed."""

    def schedule(self, fraction: float) -> None:
        """Take the values of a moment of training; fraction: the part of the run that is done."""

    def state(self) -> dict[str, Tensor]:
        """What it remembers between steps. Names are shared by all modules."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state`` of all modules."""

    def collect(self) -> None:
        """From now on keep what it learns from; ``learn`` follows each rollout."""

    def learn(self, number: int) -> dict[str, float]:
        """Learn from what was kept; number: of the update. Returns figures."""
        return {}

    def parameters(self) -> list[Tensor]:
        """Of what it learns: a run stops if one of them is no longer a number."""
        return []

    def learned(self) -> dict[str, Any]:
        """What it has learned, as a tree of tensors. Names are shared by all modules."""
        return {}

    def load_learned(self, state: Mapping[str, Any]) -> None:
        """Put ``learned`` of all modules back. Raises ``KeyError`` or ``RuntimeError`` if it does not fit."""


@dataclass(frozen=True)
class ModuleKind:
    """How a module is declared.

    Args:
        name: as ``coordination.modules`` names it.
        config: its options.
        build: (world, what agents observe so far, options, seed of what it learns) -> the module. Raises ``UserError``
            if the world does not offer what it needs.
    """

    name: str
    config: type[BaseModel]
    build: Callable[[BatchedEnv, Spaces, Any, int], Module]
