"""Controllers that need no training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.errors import UserError
from marl.policies.base import Baseline, BoundPolicy
from marl.seeding import Stream, below, fold
from scenarios.traffic_signals.world import TrafficSignals


class _Controller:
    """Chooses phases int64 ``[B, N]`` and sorts them by group."""

    def __init__(self, env: BatchedEnv):
        if not isinstance(env, TrafficSignals):
            raise UserError(f"this rule controls TrafficSignals, not {type(env).__name__}")
        self._env = env
        counts = torch.zeros(env.spec.n_agents, dtype=torch.int64)
        for group, slots in env.spec.groups.items():
            phases = env.spec.action_space[group]
            assert isinstance(phases, spaces.Discrete)
            counts[list(slots)] = int(phases.n)
        self._counts = counts.to(env.device)

    def act(self, timestep: TimeStep) -> Tree:
        chosen = self._choose(timestep)
        groups = self._env.spec.groups
        if len(groups) == 1:
            return chosen
        return {group: chosen[:, list(slots)] for group, slots in groups.items()}

    def _choose(self, timestep: TimeStep) -> Tensor:
        """int64 ``[B, N]``, the phase of each light; the rule itself, which subclasses give."""
        raise NotImplementedError


class Random(_Controller):
    """Any phase, drawn by the copies' random keys."""

    def _choose(self, timestep: TimeStep) -> Tensor:
        agents = torch.arange(len(self._counts), device=timestep.key.device)
        return below(fold(fold(timestep.key, int(Stream.POLICY)).unsqueeze(1), agents), self._counts)


class FixedTime(_Controller):
    """The program in the network file, its phases rounded to whole decisions."""

    def __init__(self, env: BatchedEnv):
        super().__init__(env)
        self._time: Tensor | None = None
        self._tables = [
            torch.repeat_interleave(torch.tensor(program, device=env.device)) for program in self._env.programs
        ]

    def _choose(self, timestep: TimeStep) -> Tensor:
        if self._time is None:
            self._time = torch.zeros_like(timestep.key)
        else:
            self._time = torch.where(timestep.done, 0, self._time + 1)
        return torch.stack([table[self._time % len(table)] for table in self._tables], 1)


class MaxPressure(_Controller):
    """The phase whose lanes have most more cars before the light than behind it; of equal ones the first.

    Varaiya, "Max pressure control of a network of signalized intersections", Transportation Research C 36, 2013, with
    the number of cars on a lane for the length of its queue.
    """

    def _choose(self, timestep: TimeStep) -> Tensor:
        assert isinstance(timestep.state, Tensor)
        return torch.stack([pressure.argmax(1) for pressure in self._env.pressures(timestep.state)], 1)


def _builder(rule: type[_Controller]) -> Baseline:
    def build(env: BatchedEnv) -> BoundPolicy:
        return rule(env)

    return build


BASELINES: Mapping[str, Baseline] = {
    "random": _builder(Random),
    "fixed_time": _builder(FixedTime),
    "max_pressure": _builder(MaxPressure),
}
