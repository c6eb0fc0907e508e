"""The declaration of the scenario: what the platform and the command line know about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from marl.envs.batched import BatchedEnv
from marl.envs.sumo.install import sumo_home
from marl.scenario import Axis, Benchmark, Counterparts, Option, Recorder, Scenario
from scenarios.cav_merging.baselines import BASELINES
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.inspection import inspect
from scenarios.cav_merging.render import CavRecorder
from scenarios.cav_merging.sumo.networks import shipped_networks
from scenarios.cav_merging.world import CavMerging

_PACKAGE = Path(__file__).parent


def _make(config: CavConfig, copies: int, device: torch.device) -> BatchedEnv:
    return CavMerging(config, copies, device)


def _instance(config: CavConfig) -> dict[str, Any]:
    return {
        "backend": config.backend,
        "net": Path(config.net).name if config.net else "geometry",
        **({"routes": Path(config.routes).name} if config.routes else {}),
        "drivers": config.drivers,
        "cavs": "-".join(str(number) for number in config.cavs),
        "humans": "-".join(str(number) for number in config.humans),
    }


def _held_out(config: CavConfig) -> CavConfig:
    """Evaluation begins where a curriculum ends."""
    return config.model_copy(update={"curriculum_episodes": 0})


def _alone(env: BatchedEnv) -> Callable[[Tensor], object]:
    return cast(CavMerging, env).move


def _crowd(cars: int) -> dict[str, Any]:
    """Slots for so many cars, and as many arriving as the road can take."""
    slots = {"world.max_cavs": cars // 2, "world.max_humans": cars - cars // 2}
    return {"copies": 64, "world.flow_veh_per_h": [2000.0, 2000.0], **slots}


_BENCHMARK = Benchmark(
    settings={"copies": 1024, "algorithm.rollout": 10},
    steps=100,
    axes={
        "copies": Axis("copies", {copies: {"copies": copies} for copies in (1, 16, 128, 1024, 4096)}),
        "vehicles": Axis("cars", {cars: _crowd(cars) for cars in (16, 40, 100, 200, 400)}),
    },
    alone=_alone,
    state_bytes=lambda env: 2 * sum(x.nbytes for x in cast(CavMerging, env).traffic.tensors().values()),
)


def _judged(config: CavConfig, policy: str) -> CavConfig:
    if config.sumo_output is None:
        return config
    return config.model_copy(update={"sumo_output": str(Path(config.sumo_output) / re.sub(r"[^\w+-]+", "_", policy))})


#: How far the twin may be from SUMO: a twentieth of the mean speed, half a point of collisions.
_APART = {"relative": {"mean_speed_mps": 0.05}, "absolute": {"collision_rate": 0.005}}


def _counterparts(config: CavConfig) -> Counterparts:
    """The twin and SUMO with the same cars, those of a user's demand at its rates."""
    sumo_home()
    same = {"demand": "rates", "gui": False, "warm_up_s": 0.0}
    worlds = {
        name: config.model_copy(update={**same, "backend": backend})
        for name, backend in (("the twin", "twin"), ("SUMO", "sumo"))
    }
    foreign = config.backend == "twin" and config.net is not None and config.net not in shipped_networks()
    return Counterparts(worlds, "sumo_default", mend="judge with --backend sumo", doubtful=foreign, **_APART)


def _recorder(env: BatchedEnv) -> Recorder:
    return CavRecorder(cast(CavMerging, env))


SCENARIO = Scenario(
    name="cav_merging",
    summary="automated and human-driven cars on a highway on-ramp, in SUMO and in a batched twin of it",
    config=CavConfig,
    make=_make,
    instance=_instance,
    presets=_PACKAGE / "presets",
    default_preset="hard",
    baselines=BASELINES,
    extras={"sumo": "the backend sumo and networks of your own"},
    options=(
        Option("--backend", "world.backend", "twin (tensors) or sumo (libsumo in worker processes)"),
        Option("--workers", "world.workers", "where SUMO runs: processes, ray or ray://HOST:PORT"),
        Option("--drivers", "world.drivers", "human drivers: timid (SUMO's defaults), assertive or mixed"),
        Option("--net", "world.net", "a SUMO network (.net.xml), a set-up (.sumocfg) or a shipped network"),
        Option("--edges", "world.edges", "its edges: ramp=A,main=B,merge=C,after=D; else the merge is looked for"),
        Option("--routes", "world.routes", "a SUMO route file (.rou.xml): its cars in SUMO, its rates in the twin"),
        Option("--additional", "world.additional", "SUMO's additional files, A,B"),
        Option("--cav-types", "world.cav_types", "vTypes of --routes that are automated, A,B; none: a share of all"),
        Option("--warm-up", "world.warm_up_s", "seconds that SUMO drives the cars of --routes before an episode"),
        Option(
            "--sumo-output",
            "world.sumo_output",
            "a folder for SUMO's own files of each episode: tripinfo, fcd, ssm, emission, statistic, collision",
            also={"world.backend": "sumo"},
        ),
        Option(
            "--sumo-gui",
            "world.gui",
            "show the episode in SUMO's window",
            switch={"world.gui": True, "world.backend": "sumo"},
        ),
        Option("--horizon", "world.horizon", "decisions of 0.2 s in an episode"),
    ),
    system="mappo",
    recorder=_recorder,
    maps=lambda: sorted(shipped_networks()),
    held_out=_held_out,
    checkpoints=_PACKAGE / "checkpoints",
    counterparts=_counterparts,
    judged=_judged,
    inspect=inspect,
    benchmark=_BENCHMARK,
)
