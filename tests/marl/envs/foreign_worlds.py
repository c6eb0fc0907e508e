"""Small environments of every kind that ``marl.envs.adapters`` knows; free of torch, as those of others are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Runners(ParallelEnv[str, Any, Any]):
    """``red_0`` leaves after 2 steps, ``blue_0`` and ``blue_1`` after 4; each step pays the agent its number.

    limit: all are truncated after as many steps. late: what all get in the last step, when red has long gone.
    fragile: its state raises once nobody is left.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "runners", "render_modes": ["rgb_array"]}

    def __init__(self, limit: int = 9, late: float = 0.0, fragile: bool = True, render_mode: str | None = None):
        self.possible_agents = ["red_0", "blue_0", "blue_1"]
        self.agents: list[str] = []
        self.max_cycles, self.late, self.fragile, self.render_mode = limit, late, fragile, render_mode
        self.seen, self.acts = spaces.Box(0.0, 99.0, (2,), np.float32), spaces.Discrete(3)
        self.heard: list[dict[str, int]] = []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self.seen

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self.acts

    def state(self) -> Any:
        if self.fragile and not self.agents:
            raise AttributeError("nobody is there")
        return np.full(2, self.time, np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents, self.time, self.heard = list(self.possible_agents), 0, []
        return self._look(self.agents), {agent: {} for agent in self.agents}

    def _look(self, agents: list[str]) -> dict[str, Any]:
        return {agent: np.array([self.time, self.possible_agents.index(agent)], np.float32) for agent in agents}

    def step(self, actions: dict[str, int]) -> Any:
        self.time += 1
        self.heard.append(dict(actions))
        live = list(self.agents)
        gone = {agent: self.time >= (2 if agent == "red_0" else 4) for agent in live}
        late = {agent: self.time >= self.max_cycles and not gone[agent] for agent in live}
        last = self.late if self.time == 4 else 0.0
        rewards = {agent: float(self.possible_agents.index(agent) + 1) + last for agent in live}
        self.agents = [agent for agent in live if not gone[agent] and not late[agent]]
        return self._look(live), rewards, gone, late, {agent: {} for agent in live}

    def render(self) -> Any:
        return np.full((20, 30, 3), 10 * self.time, np.uint8)


class Pair(gymnasium.Env[Any, Any]):
    """Two agents in tuples; pays each its action, or both the sum as one number. The first ends after two steps."""

    def __init__(self, one_reward: bool = False, listed: bool = False):
        seen = spaces.Box(0.0, 9.0, (1,), np.float32)
        self.observation_space = seen if listed else spaces.Tuple((seen, seen))
        self.action_space = spaces.Discrete(4) if listed else spaces.Tuple((spaces.Discrete(4), spaces.Discrete(2)))
        self.one_reward, self.listed, self.horizon = one_reward, listed, 3

    def _look(self) -> Any:
        views = [np.array([self.time], np.float32), np.array([self.time + 5], np.float32)]
        return views if self.listed else tuple(views)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._look(), {}

    def step(self, action: Any) -> Any:
        assert len(action) == 2
        self.time += 1
        ends = [self.time >= 2, False]
        masks = {"action_mask": [np.array([1, 1, 0, 0], np.int8), np.ones(4 if self.listed else 2, np.int8)]}
        reward: Any = float(sum(action)) if self.one_reward else [float(a) for a in action]
        return self._look(), reward, ends, self.time >= 3, masks


class Puzzle(gymnasium.Env[Any, Any]):
    """One agent that sees and does everything Gymnasium has spaces for; ``did``: its last action."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "pair": spaces.Tuple((spaces.Discrete(3, start=1), spaces.Box(-1.0, 1.0, (2,), np.float32))),
                "a/b": spaces.MultiBinary(2),
                "grid": spaces.MultiDiscrete([3, 2]),
            }
        )
        self.action_space = spaces.Dict(
            {
                "way": spaces.Discrete(3, start=-1),
                "tools": spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 4]))),
            }
        )
        self.did: Any = None
        self.max_steps = 5

    def _look(self) -> Any:
        return {"pair": (2, np.array([0.5, -0.5], np.float32)), "a/b": np.array([1, 0]), "grid": np.array([2, 1])}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time = 0
        return self._look(), {"action_mask": self._mask()}

    def _mask(self) -> Any:
        tools = (np.array([2, 0], np.int8), (np.array([0, 1], np.int8), np.array([0, 0, 1, 0], np.int8)))
        return {"way": np.array([0, 0, 1], np.int8), "tools": tools}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.did = action
        self.time += 1
        return self._look(), 1.0, False, self.time == 5, {"action_mask": self._mask()}


class Camera(gymnasium.Env[Any, Any]):
    """Sees a picture of 40 x 80 pixels, the upper half white, with its channels first or last."""

    def __init__(self, first: bool = False, text: bool = False, mixed: bool = False):
        self.first = first
        self.observation_space = spaces.Box(0, 255, (3, 40, 80) if first else (40, 80, 3), np.uint8)
        self.action_space = spaces.Discrete(2)
        if text:
            self.observation_space = spaces.Dict({"word": spaces.Text(5), "picture": self.observation_space})
        if mixed:
            self.action_space = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,), np.float32)))
        self.max_steps = 4

    def _look(self) -> Any:
        picture = np.zeros((40, 80, 3), np.uint8)
        picture[:20] = 255
        return np.moveaxis(picture, 2, 0) if self.first else picture

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time = 0
        return self._look(), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self._look(), 0.0, False, self.time == 4, {}


class Team:
    """A marlenv environment of two agents in all that the adapter asks of it. Pays the sum of the actions."""

    name, n_agents, n_actions, observation_shape, state_shape = "team", 2, 3, (2, 2), (1,)
    is_multi_objective, state_size, state_extras_size, horizon = False, 1, 0, 3
    action_space = SimpleNamespace(is_discrete=True)

    def __init__(self, extras: int = 1):
        self.extras_size = extras

    def seed(self, seed_value: int) -> None:
        self.seeded = seed_value

    def available_actions(self) -> Any:
        return np.array([[True, False, True], [True, True, True]])

    def get_observation(self) -> Any:
        data = np.full((2, 2, 2), self.time, np.float32)
        extras = np.ones((2, self.extras_size), np.float32)
        return SimpleNamespace(data=data, extras=extras, available_actions=self.available_actions())

    def get_state(self) -> Any:
        return SimpleNamespace(data=np.array([self.time], np.float32), extras=np.zeros(0, np.float32))

    def reset(self, *, seed: int | None = None) -> Any:
        self.time = 0
        return self.get_observation(), self.get_state()

    def step(self, action: Any) -> Any:
        self.time += 1
        paid = np.array([float(np.sum(action))], np.float32)
        out = {"obs": self.get_observation(), "state": self.get_state(), "reward": paid}
        return SimpleNamespace(**out, done=False, truncated=self.time == 3, info={})

    def get_image(self) -> Any:
        return np.zeros((8, 8, 3), np.uint8)


class Builder:
    """Makes a ``Team`` when it is asked to."""

    def build(self) -> Team:
        return Team()
