"""Environments of the library marlenv (``multi-agent-rlenv``): Laser Learning Environment, Overcooked and others."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from marl.envs.native import MASK
from marl.errors import UserError


class MarlenvAgents(ParallelEnv[str, Any, Any]):  # type: ignore[misc]  # pettingzoo has no types
    """A ``MARLEnv`` with discrete actions and one reward, which is that of every agent.

    Observation: ``{"data", "extras"}``, or the data alone where there are no extras. The central state is its own,
    flat, with its extras at the end. All end together.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, env: Any):
        self.env = env
        if not env.action_space.is_discrete:
            raise UserError(f"{env.name} has continuous actions, which are not read from marlenv: give discrete ones")
        if env.is_multi_objective:
            raise UserError(f"{env.name} has {env.n_objectives} rewards at once: a learner needs one")
        self.possible_agents, self.agents = [f"agent_{k}" for k in range(env.n_agents)], list[str]()
        shape, extras = env.observation_shape, env.extras_size
        seen: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, shape, np.float32)
        if extras:
            seen = spaces.Dict({"data": seen, "extras": spaces.Box(-np.inf, np.inf, (extras,), np.float32)})
        self._seen, self._acts = seen, spaces.Discrete(int(env.n_actions))
        size = env.state_size + env.state_extras_size
        self.state_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    @staticmethod
    def takes(made: Any) -> bool:
        """Whether an object is such an environment; marlenv itself need not be installed to ask."""
        wanted = ("n_agents", "observation_shape", "state_shape", "available_actions", "get_observation", "get_state")
        return all(hasattr(made, name) for name in wanted)

    @property
    def unwrapped(self) -> Any:
        return self.env

    def __str__(self) -> str:
        return str(self.env.name)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._seen

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self._acts

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        if seed is not None:
            self.env.seed(seed)
        seen, self._state = self.env.reset(seed=seed)
        self.agents = list(self.possible_agents)
        return self._views(seen), self._masks(seen)

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        step = self.env.step(np.array([actions[name] for name in self.agents]))
        self._state, agents = step.state, self.agents
        over, late = bool(step.done), bool(step.truncated)
        if over or late:
            self.agents = []
        return (
            self._views(step.obs),
            dict.fromkeys(agents, float(step.reward[0])),
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, late and not over),
            self._masks(step.obs),
        )

    def state(self) -> Any:
        return np.concatenate([np.asarray(self._state.data).ravel(), np.asarray(self._state.extras).ravel()])

    def render(self) -> Any:
        return self.env.get_image()

    def close(self) -> None:
        close = getattr(self.env, "close", None)
        if callable(close):
            close()

    def _views(self, seen: Any) -> dict[str, Any]:
        pairs = zip(self.possible_agents, seen.data, seen.extras, strict=True)
        if isinstance(self._seen, spaces.Dict):
            return {name: {"data": data, "extras": extras} for name, data, extras in pairs}
        return {name: data for name, data, _ in pairs}

    def _masks(self, seen: Any) -> dict[str, Any]:
        masks = np.asarray(seen.available_actions, np.int8)
        return {name: {MASK: mask} for name, mask in zip(self.possible_agents, masks, strict=True)}
