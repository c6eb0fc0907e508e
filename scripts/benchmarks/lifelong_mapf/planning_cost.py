#!/usr/bin/env python3
"""What guidance costs beside the world that it plans for; prints one JSON object.

    .venv/bin/python scripts/reproduce mapf_planning [--agents 192] [--turns 5]

A warehouse of 35 x 46 cells, one copy, an episode of 256 steps whose actions are those of `guided_pibt`. The same
episode is played with and without planning, in turns; what it costs is the difference, in CPU-milliseconds per step of
all agents together. Two kinds of guidance: `shared`, one field per goal, and `follower`, a path search for each agent
at each step, as in the Follower paper.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor

from marl.api import configure
from marl.bench.clock import device_name
from marl.bench.rows import SCHEMA_VERSION, rounded
from marl.training.process import prepare_process
from scenarios.lifelong_mapf.baselines import BASELINES
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.world import LifelongMapf

#: Follower's planner at 192 agents in the warehouse, milliseconds per step: a measurement of another machine.
FOLLOWER_MS = 25.0
STEPS = 256


def _world(kind: str, agents: int, vector: str | None) -> LifelongMapf:
    guidance = [f"world.guidance.kind={kind}", *([f"world.guidance.vector={vector}"] if vector else [])]
    config = configure(
        "lifelong_mapf",
        preset="warehouse",
        overrides=[f"world.agents={agents}", f"world.horizon={STEPS + 1}", *guidance],
    ).world
    assert isinstance(config, MapfConfig)
    return LifelongMapf(config, 1)


def _episode(agents: int) -> list[Tensor]:
    world = _world("shared", agents, "warehouse")
    policy = BASELINES["guided_pibt"](world)
    timestep, actions = world.reset(0), []
    for _ in range(STEPS):
        action = policy.act(timestep)
        assert isinstance(action, Tensor)
        actions.append(action)
        timestep = world.step(action)
    return actions


def _play(world: LifelongMapf, actions: list[Tensor], planned: bool) -> float:
    """CPU-milliseconds per step."""
    world.reset(0)
    began = time.process_time()
    for action in actions:
        world.step(action)
        if planned:
            world.plan()
    return 1000 * (time.process_time() - began) / len(actions)


def measure(agents: int, turns: int) -> list[dict[str, Any]]:
    """A row for each kind."""
    actions = _episode(agents)
    plain = _world("shared", agents, "warehouse")
    _play(plain, actions, False)
    rows = []
    for kind, vector in (("shared", "warehouse"), ("follower", None)):
        world = _world(kind, agents, vector)
        world.enable_plan()
        _play(world, actions, True)
        spent = []
        for _ in range(turns):
            alone = _play(plain, actions, False)
            spent.append(_play(world, actions, True) - alone)
        rows.append(
            {
                "name": f"guided planning, kind `{kind}`, {agents} agents",
                "unit": "CPU-ms per step",
                "device": device_name(torch.device("cpu")),
                "threads": 1,
                "work": {"agents": agents, "steps": STEPS, "turns": turns, "map": "warehouse, 35 x 46"},
                "value": statistics.median(spent),
                "anchor": "Follower's planner, another machine",
                "anchor_value": FOLLOWER_MS,
                "ratio": FOLLOWER_MS / statistics.median(spent),
                "ratios": [FOLLOWER_MS / each for each in spent],
                "target": 20.0,
                "differences": ["their figure was not measured side by side"],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=192)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    prepare_process()
    rows = rounded(measure(arguments.agents, arguments.turns))
    sys.stdout.write(json.dumps({"schema_version": SCHEMA_VERSION, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
