"""What becomes of announcements on their way: they may be late, get lost, or arrive with errors.

Chance is a function of the step's key and of who speaks to whom, so it depends neither on the number of copies nor on
when a run was stopped. A message is about the agent that sent it: if another one sits in its slot by now, or the
episode has ended since, nothing is heard of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from marl.config import IntentConfig
from marl.envs.abilities import Prediction
from marl.envs.batched import TimeStep
from marl.seeding import Stream, fold, standard_normal, uniform

#: Numbers of what is exchanged at one step: rounds count from 0 (carrying on); the end of an episode has its own.
FINAL = -1


class Moment(NamedTuple):
    """When messages are heard. key: int64 ``[B]``. number: the round, or ``FINAL``. agent_id: int64 ``[B, N]``."""

    key: Tensor
    number: int
    agent_id: Tensor


class Heard(NamedTuple):
    """What listeners have heard: trajectory ``[B, N, K, H, D]``, arrived bool ``[B, N, K]``."""

    trajectory: Tensor
    arrived: Tensor


class Channel:
    """The way from all agents to their companions.

    options: ``delay`` in steps: with one, agents announce at every step what they are going to execute, and it is heard
    ``delay`` steps later; ``loss``, the chance that a message to one companion never arrives; ``noise``, the standard
    deviation of its numbers in units of ``scale`` (of the D coordinates).
    """

    def __init__(self, options: IntentConfig, scale: Tensor, copies: int, agents: int):
        self.delay, self._loss, self._noise = options.delay, options.loss, options.noise
        self._scale = scale
        late, device = (self.delay, copies, agents), scale.device
        # The messages under way, the oldest first.
        self._sent = torch.zeros(*late, options.horizon, len(scale), dtype=torch.float64, device=device)
        self._sender = torch.zeros(late, dtype=torch.int64, device=device)
        self._valid = torch.zeros(late, dtype=torch.bool, device=device)

    def send(self, timestep: TimeStep, trajectory: Tensor) -> None:
        """Announce trajectories ``[B, N, H, D]``; once per step, if there is a delay."""
        if self.delay:
            for name, new in (("_sent", trajectory), ("_sender", timestep.agent_id), ("_valid", timestep.alive)):
                old: Tensor = getattr(self, name)
                setattr(self, name, torch.cat((old[1:], new.to(old.dtype).unsqueeze(0))))

    def receive(self, prediction: Prediction, moment: Moment) -> Heard:
        """What each agent hears of its companions; ``prediction`` is what they announce now."""
        who, there = prediction.companions.clamp(min=0), prediction.companions >= 0
        trajectory = prediction.trajectory
        if self.delay:
            trajectory = self._sent[0].to(trajectory.dtype)
            # At the end of an episode its agents are those of the last decision.
            present = self._sender[-1] if moment.number == FINAL else moment.agent_id
            there = there & _of(self._valid[0] & (self._sender[0] == present), who)
        heard = _of(trajectory, who)
        if self._loss or self._noise:
            # One number for each pair of a listener and a speaker, whatever the place of either in a batch.
            agents = torch.arange(who.shape[1], device=who.device)
            key = fold(fold(moment.key, Stream.MESSAGES), moment.number)
            pair = fold(fold(key.unsqueeze(1), agents).unsqueeze(2), who)
            if self._loss:
                there = there & (uniform(fold(pair, 0)) >= self._loss)
            if self._noise:
                heard = heard + self._noise * self._scale * self._errors(pair, heard)
        return Heard(heard, there)

    def forget(self, copies: Tensor | None = None) -> None:
        """Messages under way in ``copies`` (bool ``[B]``, None: all) never arrive: their episodes have ended."""
        if self.delay:
            self._valid = self._valid & (False if copies is None else ~copies.unsqueeze(1))

    def state(self) -> dict[str, Tensor]:
        """The messages under way, for checkpoints; empty without delay."""
        if not self.delay:
            return {}
        return {"sent": self._sent.clone(), "sender": self._sender.clone(), "valid": self._valid.clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state``."""
        if self.delay:
            self._sent, self._sender, self._valid = (state[name].clone() for name in ("sent", "sender", "valid"))

    @staticmethod
    def _errors(pair: Tensor, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of ``like``."""
        numbers = torch.arange(1, 1 + like.shape[-2] * like.shape[-1], device=pair.device)
        return standard_normal(uniform(fold(pair.unsqueeze(-1), numbers))).view(like.shape).to(like.dtype)


def _of(values: Tensor, who: Tensor) -> Tensor:
    """``values`` ``[B, N, ...]`` of the agents ``who`` (int64 ``[B, N, K]``): ``[B, N, K, ...]``."""
    rest = values.shape[2:]
    index = who.flatten(1).view(len(who), -1, *[1] * len(rest)).expand(-1, -1, *rest)
    return values.gather(1, index).view(*who.shape, *rest)
