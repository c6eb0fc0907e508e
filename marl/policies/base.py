"""What evaluation asks of anything that acts: a learned policy, a rule, a search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from marl.envs.batched import BatchedEnv, TimeStep, Tree


class BoundPolicy(Protocol):
    """A policy bound to one batched world. It may keep state per copy; new episodes show in ``timestep.done``."""

    def act(self, timestep: TimeStep) -> Tree:
        """The actions of all agents of all copies, as ``BatchedEnv.step`` takes them."""


#: Builds a rule or a search for one world; it may read that world's state, which a learned policy never does.
Baseline = Callable[[BatchedEnv], BoundPolicy]
