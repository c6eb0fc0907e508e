"""The tiny scenario with everything that the command line offers of one; ``cli_scenario:SHOWN`` names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_scenario import TINY

from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.errors import UserError
from marl.scenario import Option, Parameter, Tunable
from marl.seeding import fold, uniform
from marl.testing.worlds import walk_to_goal


class Walk:
    def __init__(self, env: BatchedEnv):
        self.env = env

    def act(self, timestep: TimeStep) -> Tree:
        return walk_to_goal(timestep)


class Stay(Walk):
    def act(self, timestep: TimeStep) -> Tree:
        return torch.zeros_like(timestep.agent_id)


class Counter:
    """Counts the moments of an episode."""

    def __init__(self, env: BatchedEnv):
        self.moments = 0

    def add(self, timestep: TimeStep, actions: Tree | None) -> None:
        self.moments += 1

    def html(self) -> str:
        return f"<p id=moments>{self.moments}</p>"


class Hasty:
    """Walks to the goal in a share ``haste * (1 - pause)`` of the steps."""

    def __init__(self, env: BatchedEnv, values: Mapping[str, float]):
        self.share = values["haste"] * (1 - values["pause"])

    def act(self, timestep: TimeStep) -> Tree:
        walks = uniform(fold(fold(timestep.key, 5).unsqueeze(1), torch.arange(timestep.alive.shape[1]))) < self.share
        return torch.where(walks, walk_to_goal(timestep), 0)


def _at_most_eight(config: Any) -> list[Any]:
    if config.agents > 8:
        raise UserError("pace is for 8 agents at most: give --agents 8")
    return [config]


PACE = Tunable(
    summary="how fast they walk",
    parameters=lambda config: [Parameter("haste", 0, 1, 0.2), Parameter("pause", 0, 1, 0.5, "square")],
    worlds=_at_most_eight,
    build=Hasty,
    reference="stay",
    score=lambda metrics, reference: metrics["reached_share"] - reference["reached_share"],
    option="--pace",
    metrics=["reached_share"],
)

SHOWN = replace(
    TINY,
    presets=Path(__file__).parent / "cli_presets",
    default_preset="quick",
    demo_preset="quick",
    baselines={"walk": Walk, "stay": Stay},
    options=[
        Option("--agents", "world.agents", "how many agents"),
        Option("--line-length", "world.length", "cells of the line"),
        Option("--reward", "coordination.guidance.reward_weight", "reward of a sub-goal"),
    ],
    maps=lambda: ["line"],
    recorder=Counter,
    tunables={"pace": PACE},
)
