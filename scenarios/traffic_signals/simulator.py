"""sumo-rl's ``SumoEnvironment`` as a PettingZoo ``ParallelEnv`` with a central state and figures in SI units.

sumo-rl's own PettingZoo factory asks for an ``agent_selector`` that PettingZoo 1.25 no longer has; its
``SumoEnvironment`` works, and is what moves everything here. Free of torch, for worker processes.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from marl.envs.sumo.install import import_libsumo, sumo_home, unwrap
from scenarios.traffic_signals.config import SignalConfig
from scenarios.traffic_signals.networks import SignalNetwork

#: Pressures are counted in units of this many cars.
PRESSURE_UNIT = 10.0
#: What sumo-rl and we ask of SUMO in every step, tens of thousands of times an episode.
ASKED = {
    "vehicle": ("getLaneID", "getAccumulatedWaitingTime"),
    "lane": ("getLastStepVehicleNumber", "getLastStepVehicleIDs", "getLastStepLength", "getLastStepHaltingNumber"),
    "edge": ("getLastStepVehicleNumber", "getLastStepMeanSpeed", "getLastStepHaltingNumber"),
    "simulation": ("getTime",),
}

Observation = NDArray[np.float32]


def light_name(light: str) -> str:
    """The agent of SUMO's light of that name."""
    return f"light_{light}"


class SignalGrid(ParallelEnv[str, Observation, int]):  # type: ignore[misc]  # PettingZoo has no types
    """One libsumo simulation: a process can hold no second one.

    Observation, reward and actions of a light are sumo-rl's defaults. ``state()``: for each light its observation,
    then for each light the pressures of its phases. With the end of an episode comes ``info["metrics"]``.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "traffic_signals", "render_modes": [], "is_parallelizable": True}

    def __init__(self, config: SignalConfig, network: SignalNetwork):
        # Both are read when sumo-rl is imported, and with it traci; libsumo imports traci too and has to come after.
        os.environ["LIBSUMO_AS_TRACI"] = "1"
        os.environ["SUMO_HOME"] = str(sumo_home())
        sumo_rl = importlib.import_module("sumo_rl")
        sumo = import_libsumo()
        if sumo.isLoaded():
            raise RuntimeError("this process runs a SUMO simulation already, which a second start would replace")
        unwrap(sumo, ASKED)
        self._config = config
        self.max_cycles = config.horizon
        self._env = sumo_rl.SumoEnvironment(
            net_file=str(network.net),
            route_file=str(network.routes),
            begin_time=network.begin_s,
            num_seconds=config.seconds,
            delta_time=config.delta_s,
            yellow_time=config.yellow_s,
            min_green=config.min_green_s,
            reward_fn=config.reward,
            sumo_seed=0,
            sumo_warnings=False,
            # Its own figures go through all cars several times a decision.
            add_system_info=False,
            add_per_agent_info=False,
            additional_sumo_cmd="--no-step-log --duration-log.disable",
        )
        self._lights = {light_name(light): light for light in self._env.ts_ids}
        self.possible_agents = list(self._lights)
        self.agents: list[str] = []
        self._observations: dict[str, Observation] = {}
        self._seen: dict[str, spaces.Box] = {a: self._env.observation_spaces(i) for a, i in self._lights.items()}
        self._acts: dict[str, spaces.Discrete] = {a: self._env.action_spaces(i) for a, i in self._lights.items()}
        width = sum(int(np.prod(space.shape)) for space in self._seen.values())
        width += sum(int(space.n) for space in self._acts.values())
        self.state_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def observation_space(self, agent: str) -> spaces.Box:
        return self._seen[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        return self._acts[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        seen = self._env.reset(seed=seed)
        self._edges = [edge for edge in self._env.sumo.edge.getIDList() if not edge.startswith(":")]
        self._phases = {agent: self._movements(light) for agent, light in self._lights.items()}
        self._decisions, self._standing, self._outside = 0, 0, 0
        self._cars, self._speed = 0, 0.0
        self.agents = list(self.possible_agents)
        return self._named(seen), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, int]
    ) -> tuple[dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        acting = self.agents
        seen, paid, _, _ = self._env.step({self._lights[agent]: int(actions[agent]) for agent in acting})
        self._count()
        over = self._decisions >= self.max_cycles
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in acting}
        if over:
            infos[acting[0]]["metrics"] = self._figures()
            self.agents = []
        rewards = {agent: float(paid[self._lights[agent]]) for agent in acting}
        return self._named(seen), rewards, dict.fromkeys(acting, False), dict.fromkeys(acting, over), infos

    def state(self) -> NDArray[np.float32]:
        number = self._env.sumo.lane.getLastStepVehicleNumber
        cars: dict[str, int] = {}
        pressures = []
        for phases in self._phases.values():
            for movements in phases:
                total = 0
                for entry, way_out in movements:
                    for lane in (entry, way_out):
                        if lane not in cars:
                            cars[lane] = number(lane)
                    total += cars[entry] - cars[way_out]
                pressures.append(total / PRESSURE_UNIT)
        seen = [self._observations[agent] for agent in self.possible_agents]
        return np.concatenate([*seen, np.array(pressures, np.float32)])

    def close(self) -> None:
        self._env.close()

    def _named(self, seen: dict[str, Observation]) -> dict[str, Observation]:
        self._observations = {agent: seen[light] for agent, light in self._lights.items()}
        return dict(self._observations)

    def _movements(self, light: str) -> list[list[tuple[str, str]]]:
        """For each green phase the pairs of lanes between which it lets cars pass."""
        links = self._env.sumo.trafficlight.getControlledLinks(light)
        return [
            [link[0][:2] for link, signal in zip(links, phase.state, strict=True) if link and signal in "Gg"]
            for phase in self._env.traffic_signals[light].green_phases
        ]

    def _count(self) -> None:
        """A sample of the traffic, one per decision."""
        edge = self._env.sumo.edge
        self._decisions += 1
        self._outside += self._vehicles("waiting")
        for name in self._edges:
            number = edge.getLastStepVehicleNumber(name)
            if number:
                self._cars += number
                self._speed += number * edge.getLastStepMeanSpeed(name)
                self._standing += edge.getLastStepHaltingNumber(name)

    def _vehicles(self, kind: str) -> int:
        """SUMO's count of vehicles since the beginning: loaded, inserted, running, or waiting to enter."""
        return int(self._env.sumo.simulation.getParameter("", f"stats.vehicles.{kind}"))

    def _figures(self) -> dict[str, float]:
        waited_s = (self._standing + self._outside) * self._config.delta_s
        return {
            "mean_waiting_s": waited_s / max(1, self._vehicles("loaded")),
            "queue_veh": self._standing / self._decisions,
            "mean_speed_mps": self._speed / max(1, self._cars),
            "arrived_veh": float(self._vehicles("inserted") - self._vehicles("running")),
        }
