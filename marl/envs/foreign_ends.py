"""What an end of somebody's episode was: the end of the task, or of the time. Free of torch, for worker processes.

PettingZoo tells the two apart by flags, which some environments and wrappers confuse. What can be known is put right
here; the rest is said by ``marl check`` and by the caller (``from_parallel(..., truncate_at_horizon=True)``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pettingzoo.utils import BaseParallelWrapper

#: Attributes in which environments commonly keep their time limit.
LIMITS = (
    "max_cycles",
    "max_steps",
    "horizon",
    "episode_limit",
    "max_episode_steps",
    "_max_episode_steps",
    "_max_steps",
    "timestep_limit",
    "step_limit",
)
#: Wrappers around an environment that are looked through; some environments make new ones at each look.
_MAX_DEPTH = 40


def declared_limit(env: Any) -> int | None:
    """The time limit that an environment, or one inside it, keeps in one of the usual attributes; else None.

    Args:
        env: looked through from the outside in, so that the limit of a wrapper comes before what it wraps.
    """
    owners = [env]
    for owner in owners:
        for name in LIMITS:
            limit = getattr(owner, name, None)
            if isinstance(limit, int | np.integer) and not isinstance(limit, bool) and limit > 0:
                return int(limit)
        inside = (getattr(owner, name, None) for name in ("aec_env", "env", "unwrapped"))
        owners += [inner for inner in inside if inner is not None and all(inner is not other for other in owners)]
        if len(owners) > _MAX_DEPTH:
            break
    return None


def innermost(env: Any) -> Any:
    """The environment within all of PettingZoo's wrappers for parallel environments."""
    while isinstance(env, BaseParallelWrapper):
        env = env.env
    return env


def ended_inside(env: Any) -> bool:
    """Whether a wrapper still lists agents though the environment inside it has ended.

    SuperSuit 3.11's ``black_death_v3`` does so: it asks whether all agents are terminated and truncated at once, which
    only the empty step after the end satisfies; then it sets both flags of everybody and shows zeros.
    """
    inner = innermost(env)
    return inner is not env and not getattr(inner, "agents", True) and bool(env.agents)


class Ends:
    """The flags of the agents of one environment after each of its steps.

    truncate: an end at the horizon is a truncation, whatever the environment calls it.

    Where wrappers say something else than the environment inside, its own flags decide if its episode is over (see
    ``ended_inside``), and where a wrapper sets both flags.
    """

    def __init__(self, env: Any, truncate: bool):
        self._env, self._truncate = env, truncate
        self._inside: dict[Any, tuple[bool, bool]] = {}
        inner = innermost(env)
        if inner is not env:
            self._listen(inner)

    def _listen(self, inner: Any) -> None:
        """Note the flags that the environment inside returns to its wrappers."""
        step = inner.step

        def noting(actions: Any) -> Any:
            returned = step(actions)
            terminations, truncations = returned[2], returned[3]
            for agent in terminations:
                flags = bool(terminations[agent]), bool(truncations.get(agent, False))
                # An agent that has ended is not heard again, except as an echo.
                self._inside[agent] = flags if not any(self._inside.get(agent, ())) else self._inside[agent]
            return returned

        inner.step = noting

    def begin(self) -> None:
        """A new episode."""
        self._inside = {}

    def read(
        self, agents: list[Any], terminations: Mapping[Any, Any], truncations: Mapping[Any, Any], at_limit: bool
    ) -> tuple[dict[Any, tuple[bool, bool]], set[Any]]:
        """What the step just made ended.

        Args:
            agents: those who acted.
            terminations, truncations: as the environment returned them.
            at_limit: the time is up.

        Returns (terminated, truncated) by agent, never both, and the agents that are there for the next step.
        """
        late = ended_inside(self._env)
        present = set() if late else set(self._env.agents)
        ends = {}
        for agent in agents:
            terminated, truncated = bool(terminations.get(agent, False)), bool(truncations.get(agent, False))
            inside = self._inside.get(agent, (False, False))
            if late or (terminated and truncated and any(inside)):
                terminated, truncated = inside
            terminated |= agent not in present and not truncated
            if at_limit and (self._truncate or not terminated):
                terminated, truncated = False, True
            ends[agent] = terminated, truncated and not terminated
        return ends, present
