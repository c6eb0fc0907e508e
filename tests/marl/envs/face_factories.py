"""PettingZoo faces that can be pickled."""

from __future__ import annotations

from marl.envs.pettingzoo import ParallelFace
from marl.testing.worlds import TinyWorld


def tiny_face() -> ParallelFace:
    """The PettingZoo face of a world with every feature that a face can have."""
    world = TinyWorld(1, 3, horizon=8, unlike=True, masks=True, mortal=True, observation="dict", slip=0.1)
    return ParallelFace(world, rebuild=tiny_face)


def newcomers_face() -> ParallelFace:
    world = TinyWorld(1, 3, horizon=12, mortal=True, refill=1)
    return ParallelFace(world, newcomers=True, rebuild=newcomers_face)
