"""The declaration of the scenario: what the platform and the command line know about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from marl.envs.batched import BatchedEnv
from marl.scenario import Axis, Benchmark, Option, Scenario
from scenarios.traffic_signals.baselines import BASELINES
from scenarios.traffic_signals.config import SignalConfig
from scenarios.traffic_signals.networks import NETWORKS
from scenarios.traffic_signals.world import TrafficSignals


def _make(config: SignalConfig, copies: int, device: torch.device) -> BatchedEnv:
    return TrafficSignals(config, copies, device)


def _instance(config: SignalConfig) -> dict[str, Any]:
    return {"net": Path(config.net).name, "seconds": config.seconds}


SCENARIO = Scenario(
    name="traffic_signals",
    summary="traffic lights of a road network, sumo-rl's environment in libsumo processes",
    config=SignalConfig,
    make=_make,
    instance=_instance,
    presets=Path(__file__).parent / "presets",
    default_preset="grid",
    baselines=BASELINES,
    extras={"sumo": "all of it"},
    options=(
        Option("--net", "world.net", "one of sumo-rl's networks, or a .net.xml file (.gz as well)"),
        Option("--routes", "world.routes", "the demand, a .rou.xml file (.gz as well)"),
        Option("--begin", "world.begin_s", "second of the demand at which an episode begins"),
        Option("--seconds", "world.seconds", "simulated seconds of an episode"),
        Option("--workers", "world.workers", "where SUMO runs: processes, ray or ray://HOST:PORT"),
    ),
    system="mappo",
    maps=lambda: sorted(NETWORKS),
    benchmark=Benchmark(
        settings={"copies": 2, "algorithm.rollout": 10},
        steps=20,
        axes={"copies": Axis("copies", {copies: {"copies": copies} for copies in (1, 2, 4)})},
    ),
)
