"""How fast the traffic lights run beside sumo-rl alone, both on libsumo and one core, as one JSON line.

    scripts/reproduce traffic_signals_speed --anchor "PYTHON sumo_rl_speed.py --net 4x4" [--repeats 5] [--out F]

Random phases on sumo-rl's 4x4 grid, decisions 41 to 140 after a reset, as the anchor's command plays them; ours with
observation, reward, central state and metrics. The two take turns; agent-steps per CPU-second of all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from gymnasium.spaces import Discrete

    from marl.envs.batched import Tree
    from scenarios.traffic_signals.world import TrafficSignals

SKIP, STEPS = 40, 100

# Worker processes import this file too and are to stay free of torch: the functions bring it along.


def turn(env: TrafficSignals) -> float:
    """Agent-steps per CPU-second."""
    import torch

    from scenarios.cav_merging.bench import process_seconds

    timestep = env.reset(0)
    random = torch.Generator().manual_seed(0)
    cpu = before = 0.0
    for step in range(SKIP + STEPS):
        if step == SKIP:
            before = process_seconds(env.pool.pids)
        actions: dict[str, Tree] = {
            group: torch.randint(
                int(cast("Discrete", space).n), (env.copies, len(env.spec.groups[group])), generator=random
            )
            for group, space in env.spec.action_space.items()
        }
        start = time.process_time()
        timestep = env.step(actions if len(actions) > 1 else next(iter(actions.values())))
        cpu += (time.process_time() - start) if step >= SKIP else 0.0
    assert bool(timestep.alive.any())
    return STEPS * env.copies * env.spec.n_agents / (cpu + process_seconds(env.pool.pids) - before)


def main() -> None:
    import torch

    from marl.api import configure
    from scenarios.cav_merging.bench import anchor_turn
    from scenarios.traffic_signals.world import TrafficSignals

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchor", required=True, help="command that measures sumo-rl and prints one JSON line")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    config = configure("traffic_signals", overrides=["world.seconds=1000"]).world
    env = TrafficSignals(config, 1)
    turn(env)
    ours, anchors = [], []
    for _ in range(arguments.repeats):
        ours.append(turn(env))
        anchors.append(anchor_turn(arguments.anchor))
    env.close()
    theirs = [float(found["secondary"]["agent_steps_per_cpu_second"]) for found in anchors]
    figures = {
        "schema_version": 1,
        "command": "scripts/reproduce traffic_signals_speed",
        "unit": "agent-steps per CPU-second of all processes",
        "work": anchors[0]["work"],
        "value": {"median": round(statistics.median(ours)), "all": [round(rate) for rate in ours]},
        "anchor": f"{anchors[0]['anchor']} {anchors[0]['version']}",
        "anchor_value": {"median": round(statistics.median(theirs)), "all": [round(rate) for rate in theirs]},
        "ratio": round(statistics.median(ours) / statistics.median(theirs), 2),
        "target": 1.0,
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
