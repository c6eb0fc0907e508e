"""Lifelong path finding on 256 x 256 cells with 1,000 and 10,000 agents: docs/benchmarks/mapf_large.json.

    .venv/bin/python scripts/reproduce mapf_large [--policies NAME,NAME] [--agents 1000,10000] [--steps 100]

Each row runs in a process of its own. first: the first decision, when every agent needs the way to its goal; ms: CPU
time of the policy for all agents and one step, the median over the later steps, one thread; world: that of the world's
own step; memory: peak resident of the whole process, and what it was before the policy was made.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any, cast

from scripts.benchmarks.runner import PAGES, REPO, read_figures, write_figures

TARGET = PAGES / "mapf_large.json"
MAPS = {
    "random": "{kind: random, size: 256, density: 0.1}",
    "maze": "{kind: maze, size: 256, openings: 0.5}",
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(policy: str, kind: str, agents: int, steps: int) -> dict[str, Any]:
    """One row, measured in this process."""
    import torch

    from marl import api
    from marl.scenario import load_scenario
    from scenarios.lifelong_mapf.world import LifelongMapf

    torch.set_num_threads(1)
    scenario = load_scenario("lifelong_mapf")
    overrides = [f"world.generator={MAPS[kind]}", "world.map_pool=1", "world.central_state=false"]
    options = {"agents": agents, "horizon": steps, "guidance": kind}  # the vector for maps of this kind
    small = api.configure("lifelong_mapf", options=options | {"agents": 10}, overrides=overrides)
    build = api.policy_builder(scenario, policy)
    env = scenario.make(small.world, 1, torch.device("cpu"))
    build(env).act(env.reset(0))  # compiles
    config = api.configure("lifelong_mapf", options=options, overrides=overrides)
    env = cast(LifelongMapf, scenario.make(config.world, 1, torch.device("cpu")))
    timestep = env.reset(0)
    before = peak_mib()
    times, world = [], []
    bound = build(env)
    for _ in range(steps):
        began = time.process_time()
        actions = bound.act(timestep)
        times.append(1e3 * (time.process_time() - began))
        began = time.process_time()
        timestep = env.step(actions)
        world.append(1e3 * (time.process_time() - began))
    return {
        "policy": policy,
        "map": kind,
        "cells": f"{env.height}x{env.width}",
        "agents": agents,
        "steps": steps,
        "first_ms": round(times[0], 1),
        "ms_per_step": round(statistics.median(times[1:]), 2),
        "world_ms_per_step": round(statistics.median(world), 2),
        "throughput": float(timestep.metrics["throughput"][0]),
        "collisions": float(timestep.metrics["collisions"][0]),
        "peak_mib": round(peak_mib()),
        "before_policy_mib": round(before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", default="pibt:swap=false,guided_pibt:swap=false")
    parser.add_argument("--maps", default=",".join(MAPS))
    parser.add_argument("--agents", default="1000,10000")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row is not None:
        policy, kind, agents = arguments.row.split("|")
        print(json.dumps(measure(policy, kind, int(agents), arguments.steps)))
        return
    rows = {(row["policy"], row["map"], row["agents"]): row for row in read_figures(TARGET)["rows"]}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    for kind in arguments.maps.split(","):
        for agents in map(int, arguments.agents.split(",")):
            for policy in arguments.policies.split(","):
                words = ["--steps", str(arguments.steps), "--row", f"{policy}|{kind}|{agents}"]
                done = subprocess.run(
                    [sys.executable, __file__, *words], env=environment, check=True, stdout=subprocess.PIPE, text=True
                )
                rows[policy, kind, agents] = json.loads(done.stdout)
                print(done.stdout.strip(), flush=True)
                write_figures(TARGET, "mapf_large", {"rows": list(rows.values())})


if __name__ == "__main__":
    main()
