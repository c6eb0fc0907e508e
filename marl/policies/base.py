"""What evaluation asks of anything that acts: a learned policy, a rule, a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from marl.envs.batched import BatchedEnv, Metric, TimeStep, Tree


class BoundPolicy(Protocol):
    """A policy bound to one batched world. It may keep state per copy; new episodes show in ``timestep.done``."""

    def act(self, timestep: TimeStep) -> Tree:
        """The actions of all agents of all copies, as ``BatchedEnv.step`` takes them."""


@runtime_checkable
class Accounts(Protocol):
    """A bound policy with figures of its own, such as how often it was corrected.

    metrics: what they mean, by name.
    """

    metrics: Mapping[str, Metric]

    def account(self, timestep: TimeStep) -> TimeStep:
        """The time step with these metrics, valid where ``done``; called once per time step, before ``act``."""


#: Builds a rule or a search for one world; it may read that world's state, which a learned policy never does.
Baseline = Callable[[BatchedEnv], BoundPolicy]


@dataclass(frozen=True)
class TunableBaseline:
    """A baseline with options, which users write after its name: ``NAME:key=value:key=value``.

    options: their model, every field with a default. build: (world, options) -> the policy.
    """

    options: type[BaseModel]
    build: Callable[[BatchedEnv, Any], BoundPolicy]

    def __call__(self, env: BatchedEnv) -> BoundPolicy:
        return self.build(env, self.options())

    def with_options(self, options: BaseModel) -> Baseline:
        """The same baseline with these options instead of the defaults."""
        return lambda env: self.build(env, options)
