"""Simulators and environments for worker processes in tests; free of torch, so that the processes start quickly."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from marl.envs.workers import Array, Block, Layout


class Counter:
    """Adds up its actions; a negative action is a fault of that kind."""

    layout = Layout(Block((2,), "float64"), {"sum": Block((), "float64"), "seed": Block((), "int64")}, info="counter")

    def reset(self, seed: int) -> None:
        self.sum, self.seed = 0.0, seed

    def step(self, actions: Array, next_seed: int) -> None:
        fault = int(actions[0])
        if fault == -1:
            sys.stderr.write("the last words\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == -2:
            time.sleep(60)
        elif fault == -3:
            raise ValueError("no such action")
        elif fault == -4:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
            np.ones(1 << 28)
        elif fault == -5:
            time.sleep(0.3)
        self.sum += float(actions.sum())

    def write(self, outputs: Mapping[str, Array]) -> None:
        outputs["sum"][...], outputs["seed"][...] = self.sum, self.seed

    def close(self) -> None:
        pass


class Littering(Counter):
    """Keeps a temporary file, as SUMO does."""

    def __init__(self) -> None:
        self.file = Path(tempfile.mkstemp(prefix="marl-litter-")[1])


class NeverStarts(Counter):
    def __init__(self) -> None:
        raise RuntimeError("no licence")


class Asked(Counter):
    """Answers a question with its length and what came with it."""

    layout = Layout(Counter.layout.actions, Counter.layout.outputs, None, {"x": Block((), "int64")})

    def answer(self, question: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        outputs["sum"][...] = float(inputs["x"]) + len(question)


class Herd(ParallelEnv):
    """Two cows and a dog in [0, 10]: unlike spaces, masks for the cows, a cow may leave, the dog comes in at step 2."""

    metadata: ClassVar[dict[str, Any]] = {"name": "herd"}

    def __init__(self) -> None:
        self.max_cycles = 10
        self.possible_agents = ["cow_0", "dog_0", "cow_1"]
        self.agents: list[str] = []
        cow = spaces.Dict(
            {
                "observation": spaces.Box(0.0, 10.0, (2,), np.float64),
                "action_mask": spaces.MultiBinary(3),
            }
        )
        self._seen = {"cow_0": cow, "cow_1": cow, "dog_0": spaces.Discrete(11)}
        self._acts = {
            "cow_0": spaces.Discrete(3, start=1),
            "cow_1": spaces.Discrete(3, start=1),
            "dog_0": spaces.Box(-1.0, 1.0, (2,), np.float32),
        }
        self.state_space = spaces.Box(0.0, 10.0, (3,), np.float64)

    def observation_space(self, agent: str) -> spaces.Space:
        return self._seen[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self._acts[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None or not hasattr(self, "_rng"):
            self._rng = np.random.default_rng(seed)
        self._place = dict(zip(self.possible_agents, self._rng.integers(2, 9, 3).astype(float), strict=True))
        self._time = 0
        self.agents = ["cow_0", "cow_1"]
        return {agent: self._look(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        assert set(actions) == set(self.agents)
        self._time += 1
        acted = list(self.agents)
        for agent, action in actions.items():
            assert self.action_space(agent).contains(action), (agent, action)
            move = float(action.sum()) if agent == "dog_0" else float(action) - 2
            self._place[agent] = float(np.clip(self._place[agent] + move + self._rng.normal() * 0.01, 0, 10))
        terminated = {agent: agent != "dog_0" and self._place[agent] > 9.5 for agent in acted}
        truncated = {agent: self._time == self.max_cycles and not terminated[agent] for agent in acted}
        self.agents = [agent for agent in acted if not terminated[agent] and not truncated[agent]]
        shown = list(acted)
        if self._time == 2 and self.agents:
            self.agents.append("dog_0")
            shown.append("dog_0")
        if self.agents == ["dog_0"]:
            terminated["dog_0"], self.agents = True, []
        return (
            {agent: self._look(agent) for agent in shown},
            {agent: self._place[agent] if agent in acted else 0.0 for agent in shown},
            {agent: terminated.get(agent, False) for agent in shown},
            {agent: truncated.get(agent, False) for agent in shown},
            {agent: {} for agent in shown},
        )

    def state(self) -> np.ndarray:
        return np.array([self._place[agent] for agent in self.possible_agents])

    def _look(self, agent: str) -> Any:
        if agent == "dog_0":
            return np.int64(self._place["cow_0"])
        mask = np.array([self._place[agent] > 1, 1, self._place[agent] < 9], np.int8)
        return {"observation": np.array([self._place["cow_0"], self._place["cow_1"]]), "action_mask": mask}


class Fragile(Herd):
    """Dies in the third step of an episode if a file says so; the file is gone then, so only one copy dies."""

    def __init__(self, trap: str) -> None:
        super().__init__()
        self._trap = Path(trap)

    def step(self, actions: dict[str, Any]) -> Any:
        if self._time == 2:
            try:
                self._trap.unlink()
            except FileNotFoundError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(actions)


class Unbounded(Herd):
    """Does not say how long it lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.max_cycles = None  # type: ignore[assignment]


class Wordy(Herd):
    """Observes text."""

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Text(5)


class Gambler(ParallelEnv[str, Any, int]):
    """One agent whose world draws from the global generators of ``random`` and ``numpy``, and never seeds them."""

    metadata: ClassVar[dict[str, Any]] = {"name": "gambler"}
    possible_agents: ClassVar[list[str]] = ["gambler_0"]
    max_cycles = 6

    def __init__(self) -> None:
        self.agents: list[str] = []
        self._seen, self._acts = spaces.Box(0.0, 1.0, (2,), np.float32), spaces.Discrete(2)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._seen

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self._acts

    def _look(self) -> dict[str, Any]:
        return {"gambler_0": np.array([np.random.uniform(), random.random()], np.float32)}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents, self._time = ["gambler_0"], 0
        return self._look(), {"gambler_0": {}}

    def step(self, actions: dict[str, int]) -> Any:
        self._time += 1
        over = self._time == self.max_cycles
        self.agents = [] if over else self.agents
        one = "gambler_0"
        return self._look(), {one: random.random()}, {one: False}, {one: over}, {one: {}}
