"""The planner that a configuration asks for."""

from __future__ import annotations

from scenarios.lifelong_mapf.follower_guidance import FollowerGuidance
from scenarios.lifelong_mapf.guidance import GridWorld, Guidance, GuidanceConfig
from scenarios.lifelong_mapf.shared_guidance import SharedGuidance


def make_guidance(world: GridWorld, config: GuidanceConfig, radius: int) -> Guidance:
    """Guidance of ``config.kind`` for ``world``; features show windows of ``radius`` cells around the agents."""
    if config.kind == "follower":
        return FollowerGuidance(world, radius, config.fellows)
    return SharedGuidance(world, config, radius)
