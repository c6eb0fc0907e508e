"""A PettingZoo environment whose rewards are text."""

from __future__ import annotations

from typing import Any

from scenarios.lifelong_mapf import parallel_env


def make() -> Any:
    env = parallel_env(agents=2, horizon=16)
    step = env.step

    def faulty(actions: Any) -> Any:
        observations, rewards, *rest = step(actions)
        return observations, dict.fromkeys(rewards, "lots"), *rest

    env.step = faulty  # type: ignore[method-assign]
    return env
