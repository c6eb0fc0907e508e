"""The tiny scenario with everything that the command line offers of one; ``cli_scenario:SHOWN`` names it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tiny_scenario import TINY

from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.scenario import Option
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
)
