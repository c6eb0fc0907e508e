"""The one chain between a world and a policy, used alike by collector, evaluator and viewer.

    observation - guidance - intent - policy - safety - world.step

``view`` adds what modules know to a time step, ``act`` turns it into executed actions. Every module is optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from gymnasium import spaces
from torch import Tensor

from marl.config import CoordinationConfig
from marl.coordination.guidance import Guidance
from marl.coordination.intent import Intent
from marl.coordination.predictor import Predictor
from marl.coordination.safety import METRICS as SAFETY_METRICS
from marl.coordination.safety import Safety
from marl.envs.batched import BatchedEnv, Metric, TimeStep, Tree
from marl.envs.chat import Spoken
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
        self._guidance = Guidance(env, config.guidance.reward_weight) if config.guidance.enabled else None
        self.observation_space: Mapping[str, spaces.Space[Any]] = (
            self._guidance.observation_space if self._guidance else env.spec.observation_space
        )
        self._intent: Intent | None = None
        if config.intent.enabled:
            self._intent = Intent(env, self.observation_space, config.intent, seed)
            self.observation_space = {
                group: self._intent.extend(space) for group, space in self.observation_space.items()
            }
        self._safety = Safety(env, config.safety) if config.safety.enabled else None
        #: Metrics that the modules add to those of the world.
        self.metrics: Mapping[str, Metric] = SAFETY_METRICS if self._safety else {}

    def view(self, timestep: TimeStep) -> TimeStep:
        """The time step as the policy sees it; once after each ``reset`` and ``step``."""
        if self._guidance:
            timestep = self._guidance.augment(timestep)
        if self._intent:
            timestep = self._intent.augment(timestep)
        if self._safety:
            timestep = self._safety.account(timestep)
        return timestep

    def begin(self, policy: DrawsActions, timestep: TimeStep) -> Memory:
        """The memory before a first decision."""
        if self._intent:
            self._intent.begin()
        if self._safety:
            self._safety.begin()
        return Memory(
            hidden=policy.initial_hidden(self.env.copies),
            start=torch.ones_like(timestep.alive),
            agent_id=timestep.agent_id,
        )

    def act(self, policy: DrawsActions, timestep: TimeStep, memory: Memory, greedy: bool = False) -> Decision:
        """Decide for all agents. timestep: as ``view`` returned it. memory: of ``begin`` or the previous decision."""
        start = starts(timestep, memory)
        if self._intent:
            # Drafts start from the same recurrent state as the decision and leave it alone.
            timestep = self._intent.negotiate(
                timestep, lambda seen: _plain(policy.draw(seen, memory.hidden, start, True).action)
            )
        drawn = policy.draw(timestep, memory.hidden, start, greedy)
        executed = drawn.action
        if self._safety:
            executed = self._safety.correct(timestep, _plain(drawn.action), drawn.scores).executed
        if self._intent:
            self._intent.record(timestep, _plain(executed))
        carried = Memory(hidden=drawn.hidden, start=torch.zeros_like(start), agent_id=timestep.agent_id)
        return Decision(timestep.observation, drawn.action, executed, drawn.log_prob, start, carried)

    @property
    def _predictor(self) -> Predictor | None:
        return self._intent.predictor if self._intent else None

    def record(self) -> None:
        """From now on keep what modules learn from; ``learn`` has to follow each rollout."""
        if self._predictor:
            self._predictor.recording = True

    def learn(self, number: int) -> dict[str, float]:
        """Let modules learn from the decisions since the last call; number: of the update. Returns figures."""
        return self._predictor.learn(number) if self._predictor else {}

    def learned(self) -> dict[str, Any]:
        """What modules have learned, as a tree of tensors; empty if none does."""
        return {"predictor": self._predictor.state()} if self._predictor else {}

    def parameters(self) -> list[Tensor]:
        """Of what modules learn."""
        return self._predictor.parameters() if self._predictor else []

    def load_learned(self, state: Mapping[str, Any]) -> None:
        """Put ``learned`` back. Raises ``KeyError`` or ``RuntimeError`` if it does not fit."""
        if self._predictor:
            self._predictor.load_state(state["predictor"])

    def schedule(self, fraction: float) -> None:
        """Take the module's values of a moment of training; fraction: the part of the run that is done.

        A pipeline that is never told has the final ones.
        """
        if self._safety:
            self._safety.schedule(fraction)

    def state(self) -> dict[str, Tensor]:
        """What the modules remember between steps, beside the world."""
        safety = self._safety.state() if self._safety else {}
        return safety | (self._intent.state() if self._intent else {})

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put ``state`` back; before ``view`` of the moment that it was taken at."""
        if self._safety:
            self._safety.load_state(state)
        if self._intent:
            self._intent.load_state(state)


def _plain(actions: Tree) -> Tensor:
    """The actions of the only group."""
    assert isinstance(actions, Tensor)
    return actions
