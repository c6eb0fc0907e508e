"""What ``marl bench`` measures of this scenario."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor

from marl.envs.batched import BatchedEnv
from marl.scenario import Axis, Benchmark
from scenarios.lifelong_mapf.world import LifelongMapf

#: Read and written per agent: position, goal, goals done, age (int32 each), alive, refused, hidden (bool).
_STATE_BYTES = 2 * (4 * 4 + 3)


def _map(size: int) -> dict[str, Any]:
    return {"kind": "random", "size": size, "density": 0.2}


def _large(agents: int) -> Mapping[str, Any]:
    return {"copies": 4, "world.agents": agents, "world.generator": _map(128), "world.map_pool": 4}


def _size(size: int) -> Mapping[str, Any]:
    return {"copies": 16, "world.agents": 64, "world.generator": _map(size), "world.map_pool": 4}


def _alone(env: BatchedEnv) -> Callable[[Tensor], object]:
    return cast(LifelongMapf, env).move


BENCHMARK = Benchmark(
    settings={
        "copies": 64,
        "world.agents": 256,
        "world.generator": _map(64),
        "world.map_pool": 16,
        "algorithm.rollout": 8,
        "algorithm.epochs": 1,
        "algorithm.minibatches": 4,
    },
    axes={
        "agents": Axis("agents", {size: _large(size) for size in (8, 32, 128, 512, 2048, 10_000)}),
        "map": Axis("cells a side", {size: _size(size) for size in (16, 32, 64, 128, 256)}),
    },
    alone=_alone,
    state_bytes=lambda env: _STATE_BYTES * env.copies * env.spec.n_agents,
)
