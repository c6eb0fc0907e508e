"""A wrapper that tells ends late, as SuperSuit 3.11's ``black_death_v3`` does."""

from __future__ import annotations

from typing import Any

import numpy as np
from pettingzoo.utils import BaseParallelWrapper


class BlackDeath(BaseParallelWrapper):
    """SuperSuit's: all stay until an empty step follows the end of the environment inside, then both flags are set."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        out = self.env.reset(seed=seed)
        self.agents = list(self.env.agents)
        return out

    def step(self, actions: dict[str, Any]) -> Any:
        seen, rewards, terminations, truncations, infos = self.env.step({a: actions[a] for a in self.env.agents})
        live, over = list(self.agents), all(terminations[a] and truncations[a] for a in terminations)
        seen = {agent: seen.get(agent, np.zeros_like(self.observation_space(agent).low)) for agent in live}
        rewards = {agent: rewards.get(agent, 0.0) for agent in live}
        if over:
            self.agents = []
        return seen, rewards, dict.fromkeys(live, over), dict.fromkeys(live, over), {a: infos.get(a, {}) for a in live}
