"""The two forms in which the world runs: numba kernels on the CPU, plain torch on any device."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scenarios.lifelong_mapf import observation
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.state import Goals, State
from scenarios.lifelong_mapf.step import kernels, reference
from scenarios.lifelong_mapf.step.kernels import BLOCK_BOTH, FINISH, NOTHING, PRIORITY, RESTART, SOFT
from scenarios.lifelong_mapf.step.pool import MapPool

_COLLISION = {"priority": PRIORITY, "soft": SOFT, "block_both": BLOCK_BOTH}
_ON_TARGET = {"restart": RESTART, "nothing": NOTHING, "finish": FINISH}

#: An observation (``observation.observation_space``) of all agents, and the central state if it is wanted.
View = tuple[dict[str, Tensor], Tensor | None]


class Engine(Protocol):
    """Moves a ``State`` on, in place, and looks at it."""

    def step(self, actions: Tensor) -> Tensor:
        """Joint moves, arrivals and new goals by int64 actions [B, N]; returns the reward, float32 [B, N]."""

    def keys(self) -> Tensor:
        """int64 [B], of the present moment of each copy."""

    def view(self) -> View:
        """What there is to see, in fresh tensors."""

    def view_again(self, before: View, changed: Tensor) -> View:
        """Fresh tensors of the present view, given the one ``before`` the copies ``changed`` (bool [B]) did."""


class TorchEngine:
    """Plain torch (``reference``), for any device."""

    def __init__(self, config: MapfConfig, pool: MapPool, goals: Goals, state: State):
        device = state.position.device
        self._config, self._state, self._height, self._width = config, state, pool.height, pool.width
        self._exits = pool.exits.to(device)
        self._free_cells = pool.free_cells.to(device)
        self._obstacle_rows = pool.obstacle_rows(config.radius).to(device)
        self._goals = Goals(*(table.to(device) for table in goals))

    def step(self, actions: Tensor) -> Tensor:
        collision, on_target = _COLLISION[self._config.collision], _ON_TARGET[self._config.on_target]
        return reference.step(self._state, self._goals, self._exits, self._width, collision, on_target, actions)

    def keys(self) -> Tensor:
        return reference.step_keys(self._state)

    def view(self) -> View:
        config, state = self._config, self._state
        window, goal = reference.observe(
            state, self._height, self._width, config.radius, config.pogema_observation_fault, self._obstacle_rows
        )
        central = None
        if config.central_state:
            central = reference.central_state(
                state,
                self._width,
                config.radius,
                config.horizon,
                self._height + self._width,
                self._exits,
                self._free_cells,
                window,
                goal,
            )
        return {"window": window, "goal": goal}, central

    def view_again(self, before: View, changed: Tensor) -> View:
        return self.view()


class CompiledEngine:
    """The kernels, on the memory of CPU tensors."""

    def __init__(self, config: MapfConfig, pool: MapPool, goals: Goals, state: State):
        self._config, self._width, self._reach = config, pool.width, pool.height + pool.width
        self._state = State(*(tensor.numpy() for tensor in state))
        self._goals = Goals(*(table.numpy() for table in goals))
        self._exits, self._free_cells = pool.exits.numpy(), pool.free_cells.numpy()
        self._obstacle_rows = pool.obstacle_rows(config.radius).numpy()
        copies, agents = state.position.shape
        self._all_copies = np.arange(copies)
        self._occupant, self._winner = np.full((2, pool.height * pool.width), -1, np.int16)
        self._wanted, self._target = np.empty((2, agents), np.int32)
        self._words = np.zeros(observation.words_shape(pool.height, pool.width, config.radius), np.uint32)
        self._edges = observation.partition(config.radius)
        sides = np.diff(self._edges)
        self._inverse_areas = np.float32(1) / np.outer(sides, sides).astype(np.float32)

    def step(self, actions: Tensor) -> Tensor:
        reward = torch.empty(actions.shape, dtype=torch.float32)
        faulty = kernels.step(
            self._state,
            self._goals,
            self._exits,
            self._width,
            _COLLISION[self._config.collision],
            _ON_TARGET[self._config.on_target],
            actions.contiguous().numpy(),
            reward.numpy(),
            self._occupant,
            self._winner,
            self._wanted,
            self._target,
        )
        if faulty >= 0:
            copy, agent = divmod(faulty, actions.shape[1])
            raise ValueError(f"action of agent {agent} in copy {copy} is {actions[copy, agent]}, expected 0 to 4")
        return reward

    def keys(self) -> Tensor:
        keys = torch.empty(self._all_copies.size, dtype=torch.int64)
        kernels.step_keys(self._state, keys.numpy())
        return keys

    def view(self) -> View:
        copies, agents = self._state.position.shape
        side = 2 * self._config.radius + 1
        window = torch.empty(copies, agents, 2, side, dtype=torch.int16)
        goal = torch.empty(copies, agents, 3)
        central = torch.empty(copies, agents, observation.N_STATE) if self._config.central_state else None
        return self._write(window, goal, central, self._all_copies)

    def view_again(self, before: View, changed: Tensor) -> View:
        seen, central = before
        copies = np.flatnonzero(changed.numpy())
        return self._write(
            seen["window"].clone(), seen["goal"].clone(), None if central is None else central.clone(), copies
        )

    def _write(self, window: Tensor, goal: Tensor, central: Tensor | None, copies: NDArray[np.int64]) -> View:
        config = self._config
        observation.observe(
            self._state,
            copies,
            self._width,
            config.radius,
            config.pogema_observation_fault,
            self._obstacle_rows,
            self._words,
            window.numpy(),
            goal.numpy(),
        )
        if central is not None:
            observation.central_state(
                self._state,
                copies,
                self._width,
                config.radius,
                config.horizon,
                self._reach,
                self._exits,
                self._free_cells,
                self._edges,
                self._inverse_areas,
                window.numpy(),
                goal.numpy(),
                central.numpy(),
            )
        return {"window": window, "goal": goal}, central
