"""The declaration of the scenario: what the platform and the command line know about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from marl.envs.batched import BatchedEnv
from marl.scenario import Option, Plans, Recorder, Scenario
from scenarios.lifelong_mapf.baselines import BASELINES
from scenarios.lifelong_mapf.bench import BENCHMARK
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.sources import INLINE, shipped_maps
from scenarios.lifelong_mapf.maps.tasks import is_text
from scenarios.lifelong_mapf.plans.recorder import PlanRecorder, RecordedWorld
from scenarios.lifelong_mapf.plans.replay import replay
from scenarios.lifelong_mapf.render import MapfRecorder
from scenarios.lifelong_mapf.step.instances import number_of_agents
from scenarios.lifelong_mapf.tunables import TUNABLES
from scenarios.lifelong_mapf.world import LifelongMapf

_PACKAGE = Path(__file__).parent
_SEEDS = 1_000_000  # of map pools


def _make(config: MapfConfig, copies: int, device: torch.device) -> BatchedEnv:
    return LifelongMapf(config, copies, device)


def _instance(config: MapfConfig) -> dict[str, Any]:
    if config.tasks is not None or config.map is not None:
        given = config.map or config.tasks or ""
        name = INLINE if "\n" in given or is_text(given) else Path(given).name
    else:
        name = "+".join(dict.fromkeys(generator.kind for generator in config.generator))
    return {"map": name, "agents": number_of_agents(config)}


def _held_out(config: MapfConfig) -> MapfConfig:
    """The same options with another pool of generated maps; a map file stays what it is, with other
    tasks on it; given tasks stay what they are."""
    other = (config.map_seed + _SEEDS // 2) % _SEEDS
    return config.model_copy(update={"map_seed": other})


def _recorder(env: BatchedEnv) -> Recorder:
    world = cast(LifelongMapf, env)
    return MapfRecorder(world, world.heading if world.turning else None)


def _plan_recorder(env: BatchedEnv) -> PlanRecorder:
    return PlanRecorder(cast(RecordedWorld, env))


SCENARIO = Scenario(
    name="lifelong_mapf",
    summary="lifelong multi-agent path finding: agents on a grid get a new goal whenever they reach one",
    config=MapfConfig,
    make=_make,
    instance=_instance,
    presets=_PACKAGE / "presets",
    default_preset="default",
    demo_preset="demo",
    demo_rule="guided_pibt",
    demo_baselines=("random", "follow_path", "pibt", "guided_pibt", "windowed"),
    demo_reading=(
        "windowed searches ahead: it is better, and takes several times as long for a decision.",
        "Guidance: guided_pibt is pibt on prices that rise where there is traffic; their difference is what it brings.",
        "Intent: off; beside guidance it is not seen to change anything on grids (docs/benchmarks/coordination.md).",
    ),
    baselines=BASELINES,
    options=(
        Option(
            "--map",
            "world.map",
            "a map file (MovingAI .map, POGEMA .yaml, FILE.yaml:NAME), a shipped map, or a problem's .json",
            endings={".json": "world.tasks"},
        ),
        Option("--problem", "world.tasks", "a problem of the League of Robot Runners (.json): map, starts and tasks"),
        Option("--agents", "world.agents", "number of agents"),
        Option("--tasks", "world.tasks", "a file of starts and goals (.json or MovingAI .scen), or a folder of them"),
        Option("--motion", "world.motion", "moves: to any neighbour; turning: robots turn, drive ahead or wait"),
        Option("--collision", "world.collision", "who may move where: priority, soft or block_both"),
        Option(
            "--guidance", "world.guidance.vector", "numbers of the guidance: a shipped vector, or a file of marl tune"
        ),
        Option("--horizon", "world.horizon", "steps of an episode"),
    ),
    gives_way={"world.tasks": ("world.agents",)},
    system="mappo",
    recorder=_recorder,
    maps=shipped_maps,
    tunables=TUNABLES,
    held_out=_held_out,
    checkpoints=_PACKAGE / "checkpoints",
    plans=Plans(_plan_recorder, replay),
    benchmark=BENCHMARK,
)
