"""The PettingZoo face of the world."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from pydantic import ValidationError

from marl.config import CoordinationConfig, GuidanceConfig
from marl.config_errors import sentence
from marl.coordination.face import coordinated_face
from marl.envs.batched import BatchedEnv
from marl.envs.pettingzoo import ParallelFace
from marl.errors import UserError
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.render import ansi, frame
from scenarios.lifelong_mapf.world import LifelongMapf

_RENDER = {"rgb_array": frame, "ansi": ansi}


class Trained(Protocol):
    """A learned policy, as ``marl.load`` returns it."""

    config: Any

    def adapt(self, env: BatchedEnv) -> None:
        """Let a world show what the policy was trained to see."""


def parallel_env(
    render_mode: str | None = None, *, guided: bool = False, policy: Trained | None = None, **options: Any
) -> ParallelFace:
    """The world with B = 1 as a PettingZoo ``ParallelEnv``.

    Args:
        render_mode: ``rgb_array``, ``ansi`` or None.
        guided: add the planner's features to the observations and its sub-goal reward, as policies see it that
            ``marl train`` makes.
        policy: show what this policy was trained to see, with its coordination modules, whatever ``guided`` says.
        options: those of ``MapfConfig``, such as ``map="FILE", agents=16``.
    """
    if render_mode is not None and render_mode not in _RENDER:
        raise ValueError(f"render_mode is {render_mode!r}, use one of {', '.join(_RENDER)} or None")
    try:
        config = MapfConfig(**options)
    except ValidationError as error:
        raise UserError(" ".join(sentence(MapfConfig, options, {}, error).split())) from None
    world = LifelongMapf(config, 1)
    coordination = CoordinationConfig(guidance=GuidanceConfig(enabled=guided))
    if policy is not None:
        policy.adapt(world)
        coordination = policy.config.coordination
    return coordinated_face(
        world,
        coordination,
        render=_RENDER.get(render_mode or ""),
        render_mode=render_mode,
        rebuild=partial(parallel_env, render_mode, guided=guided, policy=policy, **options),
        name="lifelong_mapf",
    )
