"""VMAS environments that do not share their random numbers.

VMAS keeps the states of the global generators in one list of its class ``Environment``, for all environments of a
process: a second one, such as that of an evaluation during training, changes the episodes of the first. Here every
environment has its own states, which are in that list while it is called and only then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Alone:
    """What ``make`` makes, called as if it were the only environment of the process.

    shared: the list of states that all environments draw from; None: there is none.
    device: where the environment draws. The states of that list are those of the CPU, so that of a GPU is swapped too.
    Offers the methods of ``scenarios.vmas_tasks.world.Simulator``.
    """

    def __init__(self, make: Callable[[], Any], shared: list[Any] | None, device: torch.device):
        self._shared, self._device = shared, device
        self._own: list[Any] | None = None
        self._own_cuda: Any = None
        with self._swapped():
            self._env = make()
        self.agents, self.scenario = self._env.agents, self._env.scenario

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        cuda = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        outside = None if self._shared is None else list(self._shared)
        if self._shared is not None and self._own is not None:
            self._shared[:] = self._own
        if cuda is not None and self._own_cuda is not None:
            torch.cuda.set_rng_state(self._own_cuda, self._device)
        try:
            yield
        finally:
            if self._shared is not None:
                self._own, self._shared[:] = list(self._shared), outside or []
            if cuda is not None:
                self._own_cuda = torch.cuda.get_rng_state(self._device)
                torch.cuda.set_rng_state(cuda, self._device)

    def seed(self, seed: int) -> Any:
        with self._swapped():
            return self._env.seed(seed)

    def reset(self, **wanted: Any) -> Any:
        with self._swapped():
            return self._env.reset(**wanted)

    def reset_at(self, index: int, **wanted: Any) -> Any:
        with self._swapped():
            return self._env.reset_at(index, **wanted)

    def step(self, actions: Any) -> Any:
        with self._swapped():
            return self._env.step(actions)

    def get_from_scenario(self, *wanted: bool, **named: bool) -> Any:
        with self._swapped():
            return self._env.get_from_scenario(*wanted, **named)

    def get_agent_action_space(self, agent: Any) -> Any:
        return self._env.get_agent_action_space(agent)
