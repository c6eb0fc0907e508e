"""``TrafficSignals``: B simulations of a road network, each in a process of its own, and the lights as agents."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import Metric
from marl.envs.foreign import ReplayableForeignEnv
from marl.envs.foreign_simulator import ForeignSimulator
from marl.envs.pools import make_pool
from scenarios.traffic_signals.config import SignalConfig
from scenarios.traffic_signals.networks import find_network, static_copy
from scenarios.traffic_signals.simulator import SignalGrid, light_name

METRICS: Mapping[str, Metric] = {
    "mean_waiting_s": Metric("s", "lower", "seconds a car stood or waited to enter, mean over the cars of the demand"),
    "queue_veh": Metric("veh", "lower", "cars standing (below 0.1 m/s) in the network, mean over time"),
    "mean_speed_mps": Metric("m/s", "higher", "mean over all cars in the network and over time"),
    "arrived_veh": Metric("veh", "higher", "cars that reached their destination"),
}


class TrafficSignals(ReplayableForeignEnv):
    """Lights of a network, all of which decide every ``delta_s`` seconds which phase is to be green next.

    Episodes are a function of the seed, so that snapshots can be replayed. Shapes: see the scenario's README.
    Raises ``UserError`` if SUMO or sumo-rl is not installed or a file cannot be used.
    """

    def __init__(self, config: SignalConfig, copies: int, device: torch.device | str = "cpu"):
        network = find_network(config)
        self._folder = tempfile.TemporaryDirectory(prefix="marl-signals-")
        if network.switching:
            network = static_copy(network, Path(self._folder.name))
        simulator = partial(ForeignSimulator, partial(SignalGrid, config, network), None, tuple(METRICS))
        pool = make_pool(simulator, copies, copies, config.workers, preload=("marl.envs.sumo.library",))
        super().__init__(pool, pool.layout.info, torch.device(device), METRICS)
        #: Decisions that the network's own program gives to each green of each light, in the order of the agents.
        self.programs = tuple(
            tuple(max(1, round(seconds / config.delta_s)) for seconds in network.programs[light])
            for light in sorted(network.programs, key=lambda light: self.spec.agents.index(light_name(light)))
        )

    def close(self) -> None:
        super().close()
        self._folder.cleanup()

    def pressures(self, state: Tensor) -> list[Tensor]:
        """Of each light, how much the incoming lanes of each phase hold more than the outgoing ones, ``[B, A]``."""
        widths = [0] * self.spec.n_agents
        sizes = 0
        for group, slots in self.spec.groups.items():
            for slot in slots:
                phases, seen = self.spec.action_space[group], self.spec.observation_space[group]
                assert isinstance(phases, spaces.Discrete) and seen.shape is not None
                widths[slot] = int(phases.n)
                sizes += int(np.prod(seen.shape))
        return list(torch.split(state[:, sizes:], widths, dim=1))
