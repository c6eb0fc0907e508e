"""The one chain between a world and a policy, used alike by collector, evaluator and viewer.

    observation - guidance - intent - policy - safety - world.step

``view`` adds what modules know to a time step, ``act`` turns it into executed actions. Every module is optional, and
further ones may stand beside them (``marl.coordination.registry``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from marl.config import CoordinationConfig
from marl.coordination.registry import build_modules
from marl.envs.batched import BatchedEnv, Metric, TimeStep, Tree
from marl.envs.chat import Spoken
from marl.envs.forms import check_form
from marl.errors import UserError
from marl.policies.joint import Drawn


class Memory(NamedTuple):
    """What a policy carries from step to step.

    hidden: recurrent state by group, ``[B, N_g, H]``; empty for a feed-forward policy.
    start: bool ``[B, N]``: the coming step is the agent's first, its recurrent state is zeroed before use.
    agent_id: int64 ``[B, N]``: who sat in the slots when the memory was written.
    """

    hidden: dict[str, Tensor]
    start: Tensor
    agent_id: Tensor


class Decision(NamedTuple):
    """What was decided at one time step.

    observation: what the policy saw in the end, after all rounds of intent.
    proposed: the policy's own actions, whose log-probability is ``log_prob`` ``[B, N]``.
    executed: what the world gets.
    start: bool ``[B, N]``: it was the agent's first.
    memory: for the next decision.
    """

    observation: Tree
    proposed: Tree
    executed: Tree
    log_prob: Tensor
    start: Tensor
    memory: Memory


def starts(timestep: TimeStep, memory: Memory) -> Tensor:
    """bool ``[B, N]``: an episode or an agent begins here."""
    return memory.start | (timestep.agent_id != memory.agent_id) | timestep.done.unsqueeze(1)


class DrawsActions(Protocol):
    """The policy end of the chain: the actors of all groups."""

    def initial_hidden(self, copies: int) -> dict[str, Tensor]:
        """Zero recurrent state for B copies."""

    def draw(self, timestep: TimeStep, hidden: dict[str, Tensor], start: Tensor, greedy: bool) -> Drawn:
        """Decide at a time step; ``greedy`` takes the likeliest actions."""


class Pipeline:
    """The chain of one world. ``observation_space`` is, per group, what one agent's policy sees at its end.

    seed: of what modules learn. Raises ``UserError`` for a world that takes texts alone, and for what it cannot do.
    """

    def __init__(self, env: BatchedEnv, config: CoordinationConfig, seed: int = 0):
        if isinstance(env, Spoken) and env.speech_only:
            raise UserError(env.speech_only)
        self.env, self.config = env, config
        self.modules, self.observation_space = build_modules(env, config, seed)
        self._unchecked = 2
        #: Metrics that the modules add to those of the world.
        self.metrics: Mapping[str, Metric] = {
            name: metric for module in self.modules for name, metric in module.metrics.items()
        }

    def view(self, timestep: TimeStep) -> TimeStep:
        """The time step as the policy sees it; once after each ``reset`` and ``step``.

        Raises ``UserError`` if the first two, of a ``reset`` and a ``step``, are not as the world's spec says.
        """
        if self._unchecked:
            self._unchecked -= 1
            check_form(self.env, timestep)
        for module in self.modules:
            timestep = module.view(timestep)
        return timestep

    def begin(self, policy: DrawsActions, timestep: TimeStep) -> Memory:
        """The memory before a first decision."""
        for module in self.modules:
            module.begin()
        return Memory(
            hidden=policy.initial_hidden(self.env.copies),
            start=torch.ones_like(timestep.alive),
            agent_id=timestep.agent_id,
        )

    def act(self, policy: DrawsActions, timestep: TimeStep, memory: Memory, greedy: bool = False) -> Decision:
        """Decide for all agents. timestep: as ``view`` returned it. memory: of ``begin`` or the previous decision."""
        start = starts(timestep, memory)

        def draft(seen: TimeStep) -> Tree:
            # Drafts start from the same recurrent state as the decision and leave it alone.
            return policy.draw(seen, memory.hidden, start, True).action

        for module in self.modules:
            timestep = module.negotiate(timestep, draft)
        drawn = policy.draw(timestep, memory.hidden, start, greedy)
        executed = drawn.action
        for module in self.modules:
            executed = module.execute(timestep, executed, drawn.scores)
        for module in self.modules:
            module.record(timestep, executed)
        carried = Memory(hidden=drawn.hidden, start=torch.zeros_like(start), agent_id=timestep.agent_id)
        return Decision(timestep.observation, drawn.action, executed, drawn.log_prob, start, carried)

    def record(self) -> None:
        """From now on keep what modules learn from; ``learn`` has to follow each rollout."""
        for module in self.modules:
            module.collect()

    def learn(self, number: int) -> dict[str, float]:
        """Let modules learn from the decisions since the last call; number: of the update. Returns figures."""
        return {name: value for module in self.modules for name, value in module.learn(number).items()}

    def learned(self) -> dict[str, Any]:
        """What modules have learned, as a tree of tensors; empty if none does."""
        return _together([module.learned() for module in self.modules])

    def parameters(self) -> list[Tensor]:
        """Of what modules learn."""
        return [parameter for module in self.modules for parameter in module.parameters()]

    def load_learned(self, state: Mapping[str, Any]) -> None:
        """Put ``learned`` back. Raises ``KeyError`` or ``RuntimeError`` if it does not fit."""
        for module in self.modules:
            module.load_learned(state)

    def schedule(self, fraction: float) -> None:
        """Take the module's values of a moment of training; fraction: the part of the run that is done.

        A pipeline that is never told has the final ones.
        """
        for module in self.modules:
            module.schedule(fraction)

    def state(self) -> dict[str, Tensor]:
        """What the modules remember between steps, beside the world."""
        return _together([module.state() for module in self.modules])

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put ``state`` back; before ``view`` of the moment that it was taken at."""
        for module in self.modules:
            module.load_state(state)


def _together(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several mappings as one. Raises ``ValueError`` if two modules have chosen the same name."""
    whole: dict[str, Any] = {}
    for part in parts:
        twice = set(whole) & set(part)
        if twice:
            raise ValueError(f"two coordination modules keep something under the name {min(twice)!r}")
        whole |= part
    return whole
