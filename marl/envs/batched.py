"""The contract of every world: ``BatchedEnv``, B copies of one N-agent world stepped together.

All arrays are torch tensors on one device. B is the number of copies, N the number of agents of a copy,
A the number of discrete actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.pool_base import WorkerState

#: One tensor ``[B, N, *]``, or a dict of such tensors; with several groups a dict by group first.
Tree = Tensor | dict[str, "Tree"]


@dataclass(frozen=True)
class Metric:
    """What a named figure of an episode means."""

    unit: str
    better: Literal["higher", "lower", "neither"] = "neither"
    summary: str = ""


@dataclass(frozen=True)
class EnvSpec:
    """What a learner has to know about a world before it is reset.

    agents: names of the N slots, the order of every ``[B, N]`` array.
    groups: name -> indices of the like agents in it; together a partition of ``agents``.
    observation_space, action_space: per group, the space of ONE agent. Where a discrete choice has a ``start``, that
        is for faces and for ``act``: in the arrays of a batched world all choices count from 0.
    state_space: what the central critic sees: the space of one copy's state ``[B, *]`` if ``state_per_agent``
        is false, of one agent's share ``[B, N, *]`` if it is true; None if the world has none.
    horizon: steps after which an episode is truncated.
    metrics: the figures of a finished episode, by name; units are in the names as well. One named ``lost`` is 1 where
        the episode was cut short by the loss of its simulator, so that its other figures do not count.
    primary_metric: the one that tables and model selection lead with.
    shared_reward: all agents of a copy always earn the same, so that one value per copy will do.
    """

    agents: tuple[str, ...]
    groups: Mapping[str, tuple[int, ...]]
    observation_space: Mapping[str, spaces.Space[Any]]
    action_space: Mapping[str, spaces.Space[Any]]
    state_space: spaces.Space[Any] | None
    horizon: int
    state_per_agent: bool = True
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    primary_metric: str = ""
    shared_reward: bool = False

    @property
    def n_agents(self) -> int:
        return len(self.agents)


class Final(NamedTuple):
    """The last view of the episodes that ended in this step: what a truncated one bootstraps from."""

    observation: Tree  # as TimeStep.observation; valid where an agent ended
    state: Tree | None


class TimeStep(NamedTuple):
    """What a world returns from ``reset`` and ``step``.

    observation: ``[B, N, *]``, or a dict of such; with several groups a dict by group of ``[B, N_g, *]``.
    state: ``[B, *]`` or ``[B, N, *]`` (``EnvSpec.state_per_agent``) for the central critic, or None.
    reward: float32 ``[B, N]``, earned by the step just made.
    terminated, truncated: bool ``[B, N]``: this agent's episode ended in this step, by the task or by a limit.
        Never both; a time limit is a truncation.
    done: bool ``[B]``: the copy's episode ended and it has restarted: observation, state, alive, agent_id, action_mask
        and key already belong to the new episode.
    alive: bool ``[B, N]``: the slot holds an agent that acts in the coming step.
    agent_id: int64 ``[B, N]``: who sits in the slot; a change cuts advantages and zeroes recurrent state.
    action_mask: bool ``[B, N, A]`` (dict by group with several groups; a group without masks is absent), True where
        legal; None if all are. Discrete actions count from 0. Of several choices (``MultiDiscrete``; ``MultiBinary``
        has two values of each) the masks stand one after the other, A is the sum of their sizes.
    key: int64 ``[B]``: the copy's random key of (seed, episode, step); policies draw from it (``marl.seeding``).
    final: the finished episodes' last observation and state, or None if no agent ended in this step.
    metrics: name -> float32 ``[B]``, of the finished episode, valid where ``done``.
    """

    observation: Tree
    state: Tree | None
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    done: Tensor
    alive: Tensor
    agent_id: Tensor
    action_mask: Tree | None
    key: Tensor
    final: Final | None
    metrics: dict[str, Tensor]


class BatchedEnv(ABC):
    """B copies of one world. Tensors that it returns are the caller's: a later step does not change them."""

    spec: EnvSpec
    copies: int
    device: torch.device

    @abstractmethod
    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        """Start episodes.

        Args:
            seed: int s (copy i gets s + i) or int64 ``[B]``. Copy i with seed x equals the B = 1 world with seed x.
            mask: bool ``[B]``, the copies to reset; the others stay as they are. None: all.
        """

    @abstractmethod
    def step(self, actions: Tree) -> TimeStep:
        """Advance all copies by one step; those that finish restart in the same step.

        actions: int64 ``[B, N]`` for discrete actions, float ``[B, N, D]`` for continuous ones, int64 ``[B, N, D]`` for
        several choices; D is the flat size of the space (dict by group with several groups). Entries of agents that
        are not alive are ignored.
        """

    def workers(self) -> list[WorkerState]:
        """The processes or actors in which this world is simulated, as they are; none where this one does it."""
        return []

    def close(self) -> None:  # noqa: B027 - most worlds hold nothing that needs closing
        """Release processes and files; may be called twice."""


@runtime_checkable
class Snapshots(Protocol):
    """A world whose copies can be saved and put back exactly."""

    def snapshot(self) -> dict[str, Tensor]:
        """The complete state of all copies, tensors with leading dimension B that later steps do not change."""

    def restore(self, snapshot: dict[str, Tensor], source: Tensor | None = None, target: Tensor | None = None) -> None:
        """Put copies ``source`` (int64 ``[K]``) of the snapshot into copies ``target`` of this world; None: all."""

    def current(self) -> TimeStep:
        """The view of the present moment, as the last ``reset`` or ``step`` returned it, with reward 0 and no ends."""


class Plan(NamedTuple):
    """A planner's view of the present moment.

    features: name -> ``[B, N, *]``, added to the observation.
    reached: bool ``[B, N]``: in the step just made the agent reached the sub-goal set before it; or float32 ``[B, N]``
        in [0, 1], where a world shares what that earns among agents.
    final: the features at the end of the episodes that just finished, or None if none did.
    """

    features: dict[str, Tensor]
    reached: Tensor
    final: dict[str, Tensor] | None


@runtime_checkable
class Plans(Protocol):
    """A world that can be guided: it knows a planner for its agents."""

    def enable_plan(self, enabled: bool = True) -> dict[str, spaces.Space[Any]]:
        """Switch planning on (before ``reset``); returns name -> the space of one agent's plan feature."""

    def plan(self) -> Plan:
        """The plan at the present moment; call once after each ``reset`` and ``step``."""
