"""How fast the roads run: twin, SUMO with observation and reward, highway-env; ``scripts/reproduce cav_speed`` runs it.

Random legal actions, hard mode. The three take turns, and medians are compared: vehicle-steps of 0.1 s for twin and
SUMO, decisions of 0.2 s of one world for SUMO and highway-env, both per CPU-second. CPU-seconds are those of all
processes, worker processes included; everything stays on one core, so that SUMO's processes take turns as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from scenarios.cav_merging.baselines import BASELINES
from scenarios.cav_merging.config import SUBSTEPS, CavConfig
from scenarios.cav_merging.sumo.backend import SumoBackend
from scenarios.cav_merging.world import CavMerging

COPIES = {"twin": 1024, "sumo": 16}
STEPS = 100
#: Ratios aimed at.
TARGETS = {"twin_to_sumo": 50.0, "sumo_to_highway_env": 25.0}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchor", help="command that measures highway-env's merge and prints one JSON line")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    return parser.parse_args()


def worker_seconds(env: CavMerging) -> float:
    """CPU seconds of the worker processes so far."""
    return process_seconds(env.backend.pool.pids) if isinstance(env.backend, SumoBackend) else 0.0


def process_seconds(pids: list[int]) -> float:
    """CPU seconds of these processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Runner:
    """One backend, kept running between its turns; the time of the policy does not count."""

    def __init__(self, backend: str):
        self.env = CavMerging(CavConfig.model_validate({"backend": backend}), COPIES[backend])
        self._policy = BASELINES["random"](self.env)
        self._timestep = self.env.reset(0)

    def turn(self) -> dict[str, float]:
        """Rates of one episode of all copies."""
        cpu, cars = 0.0, 0.0
        before = worker_seconds(self.env)
        for _ in range(STEPS):
            actions = self._policy.act(self._timestep)
            cars += float(self.env.traffic.present.sum()) * SUBSTEPS
            start = time.process_time()
            self._timestep = self.env.step(actions)
            cpu += time.process_time() - start
        cpu += worker_seconds(self.env) - before
        return {"vehicle_steps": cars / cpu, "decisions": self.env.copies * STEPS / cpu}


def anchor_turn(command: str) -> dict[str, Any]:
    """The JSON line of the anchor's command."""
    done = subprocess.run(shlex.split(command), check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main() -> None:
    """Measure and write one JSON line."""
    args = parse()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    runners = {backend: Runner(backend) for backend in COPIES}
    for runner in runners.values():
        runner.turn()
    turns: dict[str, list[dict[str, float]]] = {backend: [] for backend in COPIES}
    anchors = []
    for _ in range(args.repeats):
        for backend, runner in runners.items():
            turns[backend].append(runner.turn())
        if args.anchor:
            anchors.append(anchor_turn(args.anchor))
    for runner in runners.values():
        runner.env.close()

    def median(backend: str, rate: str) -> float:
        return statistics.median(turn[rate] for turn in turns[backend])

    ratios = {"twin_to_sumo": median("twin", "vehicle_steps") / median("sumo", "vehicle_steps")}
    figures: dict[str, Any] = {
        "schema_version": 1,
        "command": "scripts/reproduce cav_speed",
        "work": {"preset": "hard", "copies": COPIES, "steps": STEPS, "actions": "random legal", "cores": 1},
        "unit": "per CPU-second of all processes",
        "rows": {
            backend: {
                rate: {"median": round(median(backend, rate)), "all": [round(t[rate]) for t in own]} for rate in own[0]
            }
            for backend, own in turns.items()
        },
        "torch": version("torch"),
    }
    if anchors:
        rates = [float(a["secondary"]["policy_steps_per_cpu_second"]) for a in anchors]
        figures["anchor"] = {"name": f"{anchors[0]['anchor']} {anchors[0]['version']}", "work": anchors[0]["work"]}
        figures["anchor_value"] = {"median": statistics.median(rates), "all": rates}
        ratios["sumo_to_highway_env"] = median("sumo", "decisions") / statistics.median(rates)
    figures["ratio"] = {name: round(ratio, 1) for name, ratio in ratios.items()}
    figures["target"] = {name: TARGETS[name] for name in ratios}
    if args.out is not None:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(figures) + "\n")
