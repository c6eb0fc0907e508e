"""The PettingZoo face of the world."""

from __future__ import annotations

from functools import partial
from typing import Any

from marl.config import GuidanceConfig
from marl.coordination.guidance import Guidance
from marl.envs.pettingzoo import ParallelFace
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.render import ansi, frame
from scenarios.lifelong_mapf.world import LifelongMapf

_RENDER = {"rgb_array": frame, "ansi": ansi}


def parallel_env(render_mode: str | None = None, *, guided: bool = False, **options: Any) -> ParallelFace:
    """The world with B = 1 as a PettingZoo ``ParallelEnv``.

    render_mode: ``rgb_array``, ``ansi`` or None. guided: add the planner's features to the observations and its
    sub-goal reward, as policies see it that ``marl train`` makes. options: those of ``MapfConfig``, such as
    ``map="FILE", agents=16``.
    """
    if render_mode is not None and render_mode not in _RENDER:
        raise ValueError(f"render_mode is {render_mode!r}, use one of {', '.join(_RENDER)} or None")
    world = LifelongMapf(MapfConfig(**options), 1)
    guidance = Guidance(world, GuidanceConfig().reward_weight) if guided else None
    return ParallelFace(
        world,
        guidance.augment if guidance else None,
        guidance.observation_space if guidance else None,
        render=_RENDER.get(render_mode or ""),
        render_mode=render_mode,
        rebuild=partial(parallel_env, render_mode, guided=guided, **options),
        name="lifelong_mapf",
    )
