"""How fast the roads run: the twin, and SUMO with observation and reward; ``scripts/bench_cav`` runs it.

Random legal actions, hard mode. CPU seconds count the worker processes too; ``--pin`` keeps everything on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from scenarios.cav_merging.baselines import BASELINES
from scenarios.cav_merging.config import SUBSTEPS, CavConfig
from scenarios.cav_merging.sumo_backend import SumoBackend
from scenarios.cav_merging.world import CavMerging


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("twin", "sumo"), default="twin")
    parser.add_argument("--copies", type=int, default=None, help="default: 1024 (twin) or 16 (sumo)")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pin", action="store_true", help="run on one core, worker processes included")
    return parser.parse_args()


def worker_seconds(env: CavMerging) -> float:
    """CPU seconds of the worker processes so far."""
    if not isinstance(env.backend, SumoBackend):
        return 0.0
    ticks = 0
    for pid in env.backend.pool.pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(env: CavMerging, steps: int, repeats: int) -> list[tuple[float, float]]:
    """Vehicle-steps and decisions per CPU second, of each repeat; the policy's own time does not count."""
    policy = BASELINES["random"](env)
    timestep = env.reset(0)
    runs = []
    for _ in range(repeats + 1):
        cpu, cars = 0.0, 0.0
        before = worker_seconds(env)
        for _ in range(steps):
            actions = policy.act(timestep)
            cars += float(env.traffic.present.sum()) * SUBSTEPS
            start = time.process_time()
            timestep = env.step(actions)
            cpu += time.process_time() - start
        cpu += worker_seconds(env) - before
        runs.append((cars / cpu, env.copies * steps / cpu))
    return runs[1:]  # the first one warms up


def main() -> None:
    """Measure and write one JSON line."""
    args = parse()
    torch.set_num_threads(1)
    if args.pin:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    copies = args.copies or {"twin": 1024, "sumo": 16}[args.backend]
    env = CavMerging(CavConfig(backend=args.backend), copies)
    runs = measure(env, args.steps, args.repeats)
    env.close()
    vehicle_steps, decisions = (statistics.median(run[k] for run in runs) for k in (0, 1))
    figures = {
        "name": f"cav_merging/{args.backend}",
        "vehicle_steps_per_cpu_second": round(vehicle_steps),
        "decisions_per_cpu_second": round(decisions),
        "copies": copies,
        "repeats": args.repeats,
        "torch": version("torch"),
    }
    sys.stdout.write(json.dumps(figures) + "\n")
