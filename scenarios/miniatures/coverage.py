"""Coverage of a grid: a reward that is no sum over steps (Prajapat et al., "Submodular RL", arXiv 2307.13372)."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import EnvSpec, Metric, Tree
from marl.envs.tensor_world import Moved, TensorWorld
from scenarios.miniatures.config import CoverageConfig

#: Where all agents start, row and column; and what the five actions do to these.
START = (1, 4)
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


class Coverage(TensorWorld):
    """B grids of S x S cells. F is the number of cells that some agent has seen, the starts included.

    observation: float32 ``[B, N, 3]``, row, column and time as shares. action: stay, up, down, left, right; walls stop.
    reward: ``CoverageConfig.reward``, in cells. state: the observations of all. The time is part of the task: its end
    terminates.
    """

    position: Tensor  # int64 [B, N], row * S + column
    covered: Tensor  # bool [B, S * S]

    def __init__(self, config: CoverageConfig, copies: int, device: torch.device):
        n, size = config.agents, config.size
        spec = EnvSpec(
            agents=tuple(f"agent_{i}" for i in range(n)),
            groups={"agents": tuple(range(n))},
            observation_space={"agents": spaces.Box(0.0, 1.0, (3,), np.float32)},
            action_space={"agents": spaces.Discrete(len(MOVES))},
            state_space=spaces.Box(0.0, 1.0, (3 * n,), np.float32),
            horizon=config.horizon,
            state_per_agent=False,
            metrics={"covered": Metric("cells", "higher", "cells that some agent has seen")},
            primary_metric="covered",
            shared_reward=n == 1 or (config.reward == "marginal" and config.credit == "team"),
        )
        super().__init__(spec, copies, device)
        self.config = config
        row, column = torch.arange(size, device=self.device), torch.arange(size, device=self.device)
        cells = torch.cartesian_prod(row, column)
        apart = (cells.unsqueeze(0) - cells.unsqueeze(1)).abs().sum(-1)
        #: bool ``[cells, cells]``: what is seen from each cell.
        self.sight = apart <= config.reach
        self._moves = torch.tensor(MOVES, device=self.device)
        self._start = min(START[0], size - 1) * size + min(START[1], size - 1)
        self.keep(position=torch.zeros(copies, n, dtype=torch.int64, device=self.device))
        self.keep(covered=torch.zeros(copies, size * size, dtype=torch.bool, device=self.device))

    def begin(self, mask: Tensor) -> None:
        self.renew(mask, position=self._start)
        self.covered = torch.where(mask.unsqueeze(1), self.sight[self._start], self.covered)

    def move(self, actions: Tree) -> Moved:
        assert isinstance(actions, Tensor)
        over = (self.time + 1 >= self.config.horizon).unsqueeze(1)
        size = self.config.size
        there = torch.stack((self.position // size, self.position % size), -1) + self._moves[actions]
        there = there.clamp(0, size - 1)
        self.position = there[..., 0] * size + there[..., 1]
        seen = self.sight[self.position]
        new = seen & ~self.covered.unsqueeze(1)
        self.covered = self.covered | seen.any(1)
        if self.config.reward == "additive":
            return Moved(seen.sum(-1).float(), over)
        if self.config.credit == "team":
            return Moved(new.any(1).sum(-1, keepdim=True).float().expand(-1, self.spec.n_agents), over)
        # A difference reward: what would be missing without this agent.
        return Moved((new & (new.sum(1, keepdim=True) == 1)).sum(-1).float(), over)

    def observe(self, who: Tensor) -> Tensor:
        size = self.config.size
        time = (self.time / self.config.horizon).float().unsqueeze(1).expand_as(self.position)
        place = torch.stack((self.position // size, self.position % size), -1) / max(size - 1, 1)
        return torch.cat((place.float(), time.unsqueeze(-1)), -1)

    def central_state(self, who: Tensor) -> Tensor:
        return self.observe(who).flatten(1)

    def measure(self) -> dict[str, Tensor]:
        return {"covered": self.covered.sum(-1).float()}
