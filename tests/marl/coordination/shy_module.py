"""A fourth coordination module in one file: agents see when they moved last, and now and then have to rest."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from pydantic import Field

from marl.config import Frozen
from marl.coordination.module import Module, ModuleKind, extended, merged
from marl.envs.batched import Metric


class ShyConfig(Frozen):
    pause: int = Field(3, ge=1, description="steps after which an agent has to rest for one")


class Shy(Module):
    def __init__(self, env, observed, options, seed):
        self.metrics = {"rests": Metric("1", "lower", "steps of an episode in which somebody had to rest")}
        self.pause = options.pause
        self.moved = torch.zeros(env.copies, env.spec.n_agents, dtype=torch.int64, device=env.device)
        self.rests = torch.zeros(env.copies, device=env.device)
        self.fractions: list[float] = []

    def observes(self, observed):
        return {
            group: extended(space, {"shy": spaces.Box(0, 1, (1,), np.float32)}) for group, space in observed.items()
        }

    def view(self, timestep):
        shown = {"shy": (self.moved / self.pause).unsqueeze(2).float()}
        final = timestep.final
        if final is not None:
            final = final._replace(observation=merged(final.observation, shown))
        metrics = {**timestep.metrics, "rests": self.rests}
        self.rests = torch.where(timestep.done, 0.0, self.rests)
        return timestep._replace(observation=merged(timestep.observation, shown), final=final, metrics=metrics)

    def execute(self, timestep, proposed, scores):
        tired = self.moved >= self.pause
        self.rests = self.rests + tired.any(1)
        return torch.where(tired, 0, proposed)

    def record(self, timestep, executed):
        self.moved = torch.where(executed == 0, 0, self.moved + 1)

    def schedule(self, fraction):
        self.fractions.append(fraction)

    def state(self):
        return {"shy_moved": self.moved, "shy_rests": self.rests}

    def load_state(self, state):
        self.moved, self.rests = state["shy_moved"].clone(), state["shy_rests"].clone()

    def learn(self, number):
        return {"shyness": float(number)}

    def learned(self):
        return {"shy": torch.tensor(self.pause)}

    def load_learned(self, state):
        assert int(state["shy"]) == self.pause


SHY = ModuleKind("shy", ShyConfig, Shy)
