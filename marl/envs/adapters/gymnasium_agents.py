"""Gymnasium environments: one agent, or several whose spaces, observations, actions and rewards are tuples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from marl.envs.native import MASK, zeros
from marl.errors import UserError


class GymnasiumAgents(ParallelEnv[str, Any, Any]):  # type: ignore[misc]  # pettingzoo has no types
    """The agents ``agent_0``, ``agent_1``, ... of a Gymnasium environment; a single one is called ``agent``.

    There are several if actions and observations are tuples of as many spaces (lbforaging, rware), if the environment
    says so in ``n_agents``, or if it observes a list although its space is no tuple (all agents then have that space).
    A single reward or flag is that of every agent. Masks: ``info["action_mask"]``, one per agent where they are many.
    An environment's own time limit (``TimeLimit``) is found by ``declared_limit``.
    """

    metadata: ClassVar[dict[str, Any]] = {}

    def __init__(self, env: gymnasium.Env[Any, Any]):
        self.env = env
        self.metadata = env.metadata  # type: ignore[misc]  # an environment's own, as in PettingZoo's wrappers
        self.render_mode = env.render_mode
        count = _count(env)
        self._single = count is None
        names = ["agent"] if count is None else [f"agent_{k}" for k in range(count)]
        self.possible_agents, self.agents = names, list[str]()
        self._spaces = {
            name: (self._share(env.observation_space, k), self._share(env.action_space, k))
            for k, name in enumerate(names)
        }

    @property
    def unwrapped(self) -> Any:
        return self.env.unwrapped

    def __str__(self) -> str:
        return str(self.env)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._spaces[agent][0]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self._spaces[agent][1]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        seen, info = self.env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self._each(seen), self._infos(info)

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        # Who has ended before the others is not asked, but the environment wants an action of everybody.
        chosen = [actions[name] if name in actions else zeros(self.action_space(name)) for name in self.possible_agents]
        seen, reward, terminated, truncated, info = self.env.step(chosen[0] if self._single else tuple(chosen))
        rewards, ends, limits = (self._flags(value) for value in (reward, terminated, truncated))
        views, infos, present = self._each(seen), self._infos(info), list(self.agents)
        self.agents = [name for name in present if not (ends[name] or limits[name])]
        return (
            {name: views[name] for name in present},
            {name: float(rewards[name]) for name in present},
            {name: bool(ends[name]) for name in present},
            {name: bool(limits[name]) for name in present},
            {name: infos[name] for name in present},
        )

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _share(self, space: spaces.Space[Any], index: int) -> spaces.Space[Any]:
        return space.spaces[index] if isinstance(space, spaces.Tuple) and not self._single else space

    def _each(self, seen: Any) -> dict[str, Any]:
        return {"agent": seen} if self._single else dict(zip(self.possible_agents, seen, strict=True))

    def _flags(self, value: Any) -> dict[str, Any]:
        """A number of each agent; a lone one is that of all."""
        if isinstance(value, Sequence) or (isinstance(value, np.ndarray) and value.ndim):
            return dict(zip(self.possible_agents, value, strict=True))
        return dict.fromkeys(self.possible_agents, value)

    def _infos(self, info: Any) -> dict[str, Any]:
        if isinstance(info, Sequence):  # one of each agent
            return {name: dict(own) for name, own in zip(self.possible_agents, info, strict=True)}
        infos = {name: dict(info) for name in self.possible_agents}
        if MASK in info and not self._single:
            for own, mask in zip(infos.values(), info[MASK], strict=True):
                own[MASK] = mask
        return infos


def _count(env: gymnasium.Env[Any, Any]) -> int | None:
    """The number of agents; None for a single-agent environment."""
    actions, seen = env.action_space, env.observation_space
    said = getattr(env.unwrapped, "n_agents", None)
    if isinstance(actions, spaces.Tuple):
        several = isinstance(seen, spaces.Tuple) and len(seen.spaces) == len(actions.spaces)
        return len(actions.spaces) if several or said == len(actions.spaces) else None
    if isinstance(seen, spaces.Tuple):
        return None
    view, _ = env.reset(seed=0)
    if not isinstance(view, list):
        return None
    if isinstance(view[0], Mapping) or np.shape(view[0]) == (seen.shape or ()):
        return len(view)
    raise UserError(f"{env} observes a list of {len(view)} things that are not in its space {seen}")
