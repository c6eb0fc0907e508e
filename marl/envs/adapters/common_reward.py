"""One reward for all: teams in which an agent that has ended is still paid for what the others bring home."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper

from marl.envs.native import MASK, choices, mask_in, native_mask, zeros

Share = Literal["none", "sum", "mean"]


class CommonReward(BaseParallelWrapper[Any, Any, Any]):  # type: ignore[misc]  # pettingzoo has no types
    """Every agent gets the sum, or the mean over all slots, of all rewards; nobody leaves before the team has ended.

    An agent whose own episode is over stays, sees zeros and has nothing to choose (an empty action mask), so that what
    the team earns later counts for what it did. The team is truncated if somebody was in the step that ended the last
    of it, else terminated. EPyMARL's ``common_reward`` is ``sum``.
    """

    def __init__(self, env: ParallelEnv[Any, Any, Any], share: Share):
        super().__init__(env)
        self._share = share
        self._blank = {agent: zeros(env.observation_space(agent)) for agent in env.possible_agents}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        seen, infos = self.env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self._filled(seen, infos)

    def step(self, actions: dict[Any, Any]) -> tuple[Any, Any, Any, Any, Any]:
        acting = list(self.env.agents)
        seen, rewards, _, truncations, infos = self.env.step({agent: actions[agent] for agent in acting})
        earned = float(sum(rewards.values()))
        if self._share == "mean":
            earned /= len(self.possible_agents)
        present, over = self.agents, not self.env.agents
        late = over and any(truncations.values())
        if over:
            self.agents = []
        seen, infos = self._filled(seen, infos)
        return (
            seen,
            dict.fromkeys(present, earned),
            dict.fromkeys(present, over and not late),
            dict.fromkeys(present, late),
            infos,
        )

    def _filled(self, seen: Any, infos: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
        views, told = {}, {}
        living = set(self.env.agents)
        for agent in self.possible_agents:
            ended = agent not in living
            views[agent] = self._blank[agent] if ended and self.agents else seen.get(agent, self._blank[agent])
            told[agent] = dict(infos.get(agent, {}))
            space = self.action_space(agent)
            if choices(space) and (ended or mask_in(views[agent], told[agent]) is None):
                told[agent][MASK] = native_mask(np.full(sum(choices(space)), not ended), space)
        return views, told
