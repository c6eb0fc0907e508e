"""The collector: plays a policy in a batched world and records what the learner needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from marl.coordination.pipeline import Memory, Pipeline, starts
from marl.envs.batched import Final, Snapshots, TimeStep, Tree
from marl.envs.waiting import any_or_unknown
from marl.policies.base import BoundPolicy
from marl.policies.joint import JointPolicy
from marl.rollout.batch import Batch, Transitions
from marl.rollout.finite import check_transitions


class Values(Protocol):
    """The critic's side of a rollout."""

    def initial_hidden(self, copies: int) -> dict[str, Tensor]:
        """Zero recurrent state for B copies, empty if feed-forward."""

    def value(
        self, observation: Tree, state: Tree | None, alive: Tensor, hidden: dict[str, Tensor], start: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Values ``[B, N]`` in units of reward, and the next recurrent state."""


class NoValues:
    """``Values`` of systems that need none: 0 everywhere."""

    def initial_hidden(self, copies: int) -> dict[str, Tensor]:
        return {}

    def value(
        self, observation: Tree, state: Tree | None, alive: Tensor, hidden: dict[str, Tensor], start: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.zeros(alive.shape, device=alive.device), {}


class EpisodeMeans:
    """Means of the metrics of the episodes that finished during a rollout.

    Only sums are kept, and nothing is read from the device before the means are asked for: a rollout does not wait.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._count: int | Tensor = 0
        self._sums: Tensor | None = None
        self._means: tuple[int, dict[str, float]] | None = None

    def add(self, timestep: TimeStep) -> None:
        """Count the episodes that are ``done``."""
        if not any_or_unknown(timestep.done):
            return
        self._names = tuple(timestep.metrics)
        self._count = self._count + timestep.done.sum()
        if self._names:
            values = torch.stack([value.double() for value in timestep.metrics.values()])
            sums = torch.where(timestep.done, values, 0.0).sum(1)
            self._sums = sums if self._sums is None else self._sums + sums
        self._means = None

    @property
    def count(self) -> int:
        """Episodes that finished."""
        return self._read()[0]

    def means(self) -> dict[str, float]:
        """By name; empty if no episode finished."""
        return self._read()[1]

    def _read(self) -> tuple[int, dict[str, float]]:
        if self._means is None:
            count = int(self._count)
            means = (self._sums / count).tolist() if count and self._sums is not None else []
            self._means = count, dict(zip(self._names, means, strict=bool(means)))
        return self._means


class Collector:
    """Keeps the present moment of a world between rollouts.

    ``phase(name)`` is entered around the time spent in the world and in the networks. expert: bound to the same world,
    says at each step what it would do there, and is not obeyed.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        policy: JointPolicy,
        critic: Values,
        phase: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext(),
        expert: BoundPolicy | None = None,
    ):
        self._expert = expert
        self._pipeline, self._policy, self._critic, self._phase = pipeline, policy, critic, phase
        self._timestep: TimeStep | None = None
        self._memory: Memory | None = None
        self._critic_hidden: dict[str, Tensor] = {}

    def reset(self, seed: int | Tensor) -> None:
        """Start all copies afresh."""
        env = self._pipeline.env
        self._timestep = self._pipeline.view(env.reset(seed))
        self._memory = self._pipeline.begin(self._policy, self._timestep)
        self._critic_hidden = self._critic.initial_hidden(env.copies)

    def state(self) -> dict[str, object]:
        """What, beside the world itself, the next rollout depends on."""
        assert self._memory is not None and self._timestep is not None
        return {
            "hidden": self._memory.hidden,
            "start": starts(self._timestep, self._memory),
            "agent_id": self._memory.agent_id,
            "critic_hidden": self._critic_hidden,
            "modules": self._pipeline.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; the world has been restored before."""
        env = self._pipeline.env
        self._pipeline.load_state(state["modules"])
        assert isinstance(env, Snapshots)
        self._timestep = self._pipeline.view(env.current())
        self._memory = Memory(state["hidden"], state["start"], state["agent_id"])
        self._critic_hidden = state["critic_hidden"]

    @torch.no_grad()
    def collect(self, steps: int) -> tuple[Batch, EpisodeMeans]:
        """Play T steps. Returns the batch and the means of the episodes that finished on the way."""
        assert self._timestep is not None and self._memory is not None, "reset first"
        timestep, memory, critic_hidden = self._timestep, self._memory, self._critic_hidden
        rows: list[Transitions] = []
        ends: list[tuple[int, Tensor, Tensor]] = []
        episodes = EpisodeMeans()
        for t in range(steps):
            with self._phase("policy"):
                decision = self._pipeline.act(self._policy, timestep, memory)
                value, critic_after = self._critic.value(
                    timestep.observation, timestep.state, timestep.alive, critic_hidden, decision.start
                )
            advice = self._advice(timestep)
            after = self._step(decision.executed, timestep, rows)
            ended = after.terminated | after.truncated
            # What comes after a termination is worth nothing, whatever the critic says of it.
            if after.final is not None and any_or_unknown(after.truncated):
                ends.append((t, ended, self._last_value(after.final, timestep.alive, critic_after)))
            replaced = timestep.alive & (after.agent_id != timestep.agent_id)
            rows.append(
                Transitions(
                    observation=decision.observation,
                    state=timestep.state,
                    action_mask=timestep.action_mask,
                    action=decision.proposed,
                    log_prob=decision.log_prob,
                    value=value,
                    reward=after.reward,
                    terminated=after.terminated,
                    cut=ended | replaced | after.done.unsqueeze(1),
                    start=decision.start,
                    mask=timestep.alive,
                    actor_hidden=memory.hidden,
                    critic_hidden=critic_hidden,
                    expert=advice,
                )
            )
            episodes.add(after)
            timestep, memory, critic_hidden = after, decision.memory, critic_after
        with self._phase("policy"):
            bootstrap, _ = self._critic.value(
                timestep.observation, timestep.state, timestep.alive, critic_hidden, starts(timestep, memory)
            )
            batch = Batch.of(rows, _successors(rows, bootstrap, ends))
        self._timestep, self._memory, self._critic_hidden = timestep, memory, critic_hidden
        return batch, episodes

    def _advice(self, timestep: TimeStep) -> Tree | None:
        """What the expert would do, if there is one."""
        if self._expert is None:
            return None
        with self._phase("expert"):
            return self._expert.act(timestep)

    def _step(self, executed: Tree, timestep: TimeStep, rows: Sequence[Transitions]) -> TimeStep:
        """What follows ``timestep``, as the policy sees it; ``rows`` are the transitions that led there."""
        with self._phase("world"):
            try:
                after = self._pipeline.env.step(executed)
            except Exception:
                # What the world cannot take may come of a number that is none, and then that is the reason.
                check_transitions(rows, timestep, self._pipeline.env.spec)
                raise
        with self._phase("guidance"):
            return self._pipeline.view(after)

    def _last_value(self, final: Final, alive: Tensor, hidden: dict[str, Tensor]) -> Tensor:
        """Values ``[B, N]`` of the states in which episodes ended; the critic goes on, it does not start anew."""
        with self._phase("policy"):
            return self._critic.value(final.observation, final.state, alive, hidden, torch.zeros_like(alive))[0]


def _successors(rows: Sequence[Transitions], bootstrap: Tensor, ends: Sequence[tuple[int, Tensor, Tensor]]) -> Tensor:
    """Values ``[T, B, N]`` of the true successors.

    bootstrap: of the state after the last step. ends: (step, who ended, the values of their final states).
    """
    value = torch.stack([row.value for row in rows[1:]] + [bootstrap])
    for t, ended, last in ends:
        value[t] = torch.where(ended, last, value[t])
    return value
