"""Somebody's environment with whatever spaces a test wants; ``spaces_scenario:SPACES`` names the scenario."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv

from marl.config import Frozen
from marl.envs.batched import BatchedEnv
from marl.envs.foreign import from_parallel
from marl.envs.native import choices, flat_mask, native_mask
from marl.scenario import Scenario

#: (what an agent sees, what it does, where the masks are: "none", "infos" or "observation"), by number.
CASES: dict[int, tuple[spaces.Space[Any], spaces.Space[Any], str]] = {}
HORIZON = 4


class SpacesEnv(ParallelEnv):
    """Shows random members of its spaces, and remembers what it was last given and what it last showed.

    Agents a_0 and a_1 are of the case; ``other`` says yes or no, so that there are two groups.
    """

    metadata: ClassVar = {"name": "spaces"}
    last: ClassVar[SpacesEnv]

    def __init__(self, case: int) -> None:
        seen, acts, self.masks = copy.deepcopy(CASES[case])
        others = copy.deepcopy(seen) if len(seen.shape or ()) == 3 else spaces.Box(-1, 1, (2,), np.float32)
        if self.masks == "observation":
            seen = spaces.Dict({"observation": seen, "action_mask": spaces.MultiBinary(sum(choices(acts)))})
        self.possible_agents = ["a_0", "a_1", "other"]
        self._seen = {"a_0": seen, "a_1": copy.deepcopy(seen), "other": others}
        self._acts = {"a_0": acts, "a_1": copy.deepcopy(acts), "other": spaces.Discrete(2)}
        self.max_cycles = HORIZON
        self.given: list[dict[str, Any]] = []
        SpacesEnv.last = self

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._seen[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self._acts[agent]

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.agents, self.time = list(self.possible_agents), 0
        self._draw = np.random.default_rng(seed)
        for space in self._seen.values():
            space.seed(int(self._draw.integers(1 << 30)))
        return self._show()

    def step(self, actions: dict[str, Any]) -> Any:
        self.given.append(actions)
        for agent, action in actions.items():
            assert self._acts[agent].contains(action) and self.legal(agent, action), (agent, action)
        self.time += 1
        over = self.time == HORIZON
        observations, infos = self._show()
        agents = self.agents
        if over:
            self.agents = []
        return (
            observations,
            dict.fromkeys(agents, 0.0),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, over),
            infos,
        )

    def _show(self) -> tuple[dict[str, Any], dict[str, Any]]:
        observations = {agent: self._seen[agent].sample() for agent in self.agents}
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        for agent in ("a_0", "a_1"):
            space = self._acts[agent]
            if self.masks == "none":
                continue
            parts = [self._draw.random(n) < 0.5 for n in choices(space)]
            for part in parts:
                part[self._draw.integers(len(part))] = True
            row = np.concatenate(parts)
            if self.masks == "infos":
                infos[agent]["action_mask"] = native_mask(row, space)
            else:
                observations[agent]["action_mask"] = row.astype(np.int8)
        self.shown = observations, infos
        return observations, infos

    def legal(self, agent: str, action: Any) -> bool:
        """The action is one that the mask shown last allows."""
        space = self._acts[agent]
        holders = [holder for holder in (self.shown[0][agent], self.shown[1][agent]) if isinstance(holder, dict)]
        masks = [holder["action_mask"] for holder in holders if "action_mask" in holder]
        if not masks:
            return True
        start = 0 if isinstance(space, spaces.MultiBinary) else space.start
        picked = (np.asarray(action) - start).flatten().astype(int)
        parts = np.split(flat_mask(masks[0], space), np.cumsum(choices(space))[:-1])
        return all(bool(part[value]) for part, value in zip(parts, picked, strict=True))


class SpacesConfig(Frozen):
    case: int = 0


def make_spaces(config: SpacesConfig, copies: int, device: torch.device) -> BatchedEnv:
    return from_parallel(partial(SpacesEnv, config.case), copies, workers=0, device=device)


SPACES = Scenario(
    name="spaces",
    summary="random members of any spaces",
    config=SpacesConfig,
    make=make_spaces,
    instance=lambda config: {},
    presets=Path(__file__).parent,
    default_preset="none",
)
