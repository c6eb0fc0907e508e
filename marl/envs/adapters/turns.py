"""Games in turns: an ``AECEnv`` as a ``ParallelEnv`` in which a step is one turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

from marl.envs.foreign_ends import declared_limit
from marl.envs.native import MASK, choices, native_mask


class TurnsAsSteps(ParallelEnv[Any, Any, Any]):  # type: ignore[misc]  # pettingzoo has no types
    """A step is the turn of ``aec_env.agent_selection``; the actions of the others are not heard.

    Who waits has an action mask without a legal action, which the platform reads as "has nothing to choose"; who acts
    has the game's own mask, or one in which all is legal. Continuous actions have no masks. Rewards are what a turn
    paid to everybody. Agents that have ended make their empty last turns here and are not asked.

    max_cycles: the game's own limit in cycles, as steps; absent where it has none.
    """

    metadata: ClassVar[dict[str, Any]] = {}

    def __init__(self, aec_env: AECEnv[Any, Any, Any]):
        self.aec_env = aec_env
        self.metadata = aec_env.metadata  # type: ignore[misc]  # an environment's own, as in PettingZoo's wrappers
        self.render_mode = getattr(aec_env, "render_mode", None)
        if not getattr(aec_env, "possible_agents", None):
            aec_env.reset(seed=0)
            aec_env.possible_agents = list(aec_env.agents)
        self.possible_agents = list(aec_env.possible_agents)
        limit = declared_limit(aec_env)
        if limit is not None:
            self.max_cycles = limit * len(self.possible_agents)

    @property
    def unwrapped(self) -> Any:
        return self.aec_env.unwrapped

    def __str__(self) -> str:
        return str(self.aec_env)

    def observation_space(self, agent: Any) -> spaces.Space[Any]:
        return self.aec_env.observation_space(agent)  # type: ignore[no-any-return]  # as above

    def action_space(self, agent: Any) -> spaces.Space[Any]:
        return self.aec_env.action_space(agent)  # type: ignore[no-any-return]  # as above

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        self.aec_env.reset(seed=seed, options=options)
        self._pass_the_dead()
        return self._views(self.agents), self._infos(self.agents)

    def step(self, actions: dict[Any, Any]) -> tuple[Any, Any, Any, Any, Any]:
        env, present = self.aec_env, list(self.agents)
        env.step(actions[env.agent_selection])
        rewards = {agent: float(env.rewards.get(agent, 0.0)) for agent in present}
        terminations = {agent: bool(env.terminations.get(agent, True)) for agent in present}
        truncations = {agent: bool(env.truncations.get(agent, False)) for agent in present}
        last_words = dict(env.infos)
        seen = self._views([agent for agent in present if agent in env.agents])
        self._pass_the_dead()
        infos = self._infos(self.agents)
        return seen, rewards, terminations, truncations, {a: infos.get(a, last_words.get(a, {})) for a in present}

    def render(self) -> Any:
        return self.aec_env.render()

    def state(self) -> Any:
        return self.aec_env.state()

    def close(self) -> None:
        self.aec_env.close()

    def _pass_the_dead(self) -> None:
        env = self.aec_env
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            env.step(None)
        self.agents = list(env.agents)

    def _views(self, agents: list[Any]) -> dict[Any, Any]:
        seen = {agent: self.aec_env.observe(agent) for agent in agents}
        return {agent: self._waiting(agent, view) for agent, view in seen.items() if view is not None}

    def _waiting(self, agent: Any, view: Any) -> Any:
        """A view whose mask is empty unless it is this agent's turn: some games show who is next what may be done."""
        if agent == self.aec_env.agent_selection or not isinstance(view, Mapping) or MASK not in view:
            return view
        return {**view, MASK: self._mask(agent, False)}

    def _infos(self, agents: list[Any]) -> dict[Any, Any]:
        infos = {}
        for agent in agents:
            info = dict(self.aec_env.infos.get(agent, {}))
            acts = agent == self.aec_env.agent_selection
            if choices(self.action_space(agent)) and (not acts or MASK not in info):
                info[MASK] = self._mask(agent, acts)
            infos[agent] = info
        return infos

    def _mask(self, agent: Any, legal: bool) -> Any:
        space = self.action_space(agent)
        return native_mask(np.full(sum(choices(space)), legal), space)
