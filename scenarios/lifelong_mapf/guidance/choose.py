"""The planner that a configuration asks for."""

from __future__ import annotations

from scenarios.lifelong_mapf.guidance.base import GridWorld, Guidance, GuidanceConfig
from scenarios.lifelong_mapf.guidance.follower import FollowerGuidance, Habits
from scenarios.lifelong_mapf.guidance.shared import SharedGuidance


def make_guidance(world: GridWorld, config: GuidanceConfig, radius: int) -> Guidance:
    """Guidance of ``config.kind`` for ``world``; features show windows of ``radius`` cells around the agents."""
    if config.kind == "follower":
        habits = Habits(config.fellows, config.forget, config.lane, config.open_lane)
        return FollowerGuidance(world, radius, habits)
    return SharedGuidance(world, config, radius)
