"""Worlds of which one number in one step is none, for as long as somebody says so."""

from __future__ import annotations

import dataclasses
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tiny_scenario import TINY, TinyConfig
from torch import Tensor

from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.envs.pettingzoo import ParallelFace, from_parallel
from marl.testing.worlds import TinyWorld

#: Where: the second agent of the fourth copy.
COPY, AGENT = 3, 1


class Spoiled(TinyWorld):
    """part: what is none, a field of the time step; ``metric``; or ``crash``: an observation, and the world refuses
    what a policy does upon it. at_episode, number: when; the eighth step of the sixth episode is in the sixth iteration
    of 16 steps."""

    part: str | None = None
    value = math.nan
    at_episode, number = 5, 7

    def step(self, actions: Tree) -> TimeStep:
        if self.part == "crash" and not bool(torch.as_tensor(actions).isfinite().all()):
            raise ValueError("the world cannot take this action")
        hit = self.copies > COPY and self.episode[COPY] == self.at_episode and self.time[COPY] == self.number
        after = super().step(actions)
        if self.part is None or not hit:
            return after
        if self.part == "metric":
            metric = torch.full((self.copies,), self.value)
            return after._replace(metrics={**after.metrics, "reached_share": metric})
        name = "observation" if self.part == "crash" else self.part
        whole = getattr(after, name).clone()
        whole[COPY, AGENT] = self.value
        return after._replace(**{name: whole})


def make_spoiled(config: TinyConfig, copies: int, device: torch.device) -> Spoiled:
    return Spoiled(copies, **config.model_dump(), device=device)


class Resting:
    """Stays where it is."""

    def act(self, timestep: TimeStep) -> Tensor:
        return torch.zeros_like(timestep.alive, dtype=torch.int64)


SPOILED = dataclasses.replace(TINY, make=make_spoiled, baselines={"rest": lambda env: Resting()})

#: Names a file; while it is there, the foreign world is spoiled.
TRAP = "MARL_TEST_TRAP"


class SpoiledFace(ParallelFace):
    """From its fourth episode on, an agent's reward in the fifth step is NaN, while the file ``trap`` is there."""

    _episodes = _steps = 0
    trap = ""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._episodes, self._steps = self._episodes + 1, 0
        return super().reset(seed, options)

    def step(self, actions: dict[str, Any]) -> Any:
        seen, rewards, *rest = super().step(actions)
        self._steps += 1
        if self._episodes > 3 and self._steps == 5 and Path(self.trap).exists():
            rewards["agent_1"] = math.nan
        return seen, rewards, *rest


def spoiled_face(trap: str) -> SpoiledFace:
    face = SpoiledFace(TinyWorld(1, 2, horizon=8), rebuild=partial(spoiled_face, trap))
    face.trap = trap
    return face


def make_foreign(config: TinyConfig, copies: int, device: torch.device) -> BatchedEnv:
    # Workers may have been forked before the variable was set: they are told.
    return from_parallel(partial(spoiled_face, os.environ[TRAP]), copies, workers=2, horizon=8)


FOREIGN = dataclasses.replace(TINY, name="foreign", make=make_foreign)
