#!/usr/bin/env python3
"""MAPPO on lifelong MAPF end to end beside the plainest loop of the same nets and world; prints one JSON object.

    .venv/bin/python scripts/reproduce mapf_end_to_end [--copies 128] [--agents 32] [--turns 9]

The two take turns; rates are agent-steps per CPU-second of one thread, one epoch, guidance on, 64-wide networks
(``scenarios.lifelong_mapf.raw_loop`` is the plain one). ``ratio``: the median of theirs, turn by turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import torch

from marl.api import configure
from marl.bench.clock import device_name
from marl.bench.gate import interleaved
from marl.bench.rows import SCHEMA_VERSION, rounded
from marl.bench.worlds import WorldParts
from marl.scenario import load_scenario
from marl.training.process import prepare_process
from scenarios.lifelong_mapf.raw_loop import RawLoop, loop_config


def measure(copies: int, agents: int, size: int, rollout: int, minibatches: int, turns: int) -> dict[str, Any]:
    """The row of the comparison."""
    world = loop_config(agents, size).model_dump(mode="json")
    config = configure(
        "lifelong_mapf",
        base={f"world.{key}": value for key, value in world.items()}
        | {"copies": copies, "algorithm.rollout": rollout, "algorithm.epochs": 1}
        | {"algorithm.minibatches": minibatches},
    )
    (ours,) = WorldParts(load_scenario("lifelong_mapf"), config, 1).parts(("end",))
    raw = RawLoop(copies, agents, size, rollout, minibatches)
    rates: dict[str, list[float]] = {"marl": [], "raw": []}

    def noted(name: str, rate: float) -> float:
        rates[name].append(rate)
        return rate

    ratios = interleaved(
        {"end to end": lambda: noted("marl", ours.steps() / ours.run())}, lambda: noted("raw", raw.rate()), turns
    )["end to end"]
    sizes = {"copies": copies, "agents": agents, "size": size, "minibatches": minibatches, "turns": turns}
    return {
        "name": "MAPPO on lifelong MAPF end to end, one epoch",
        "unit": "agent-steps per CPU-second",
        "device": device_name(torch.device("cpu")),
        "threads": 1,
        "work": sizes | ours.notes(),
        "value": statistics.median(rates["marl"]),
        "anchor": "the plainest loop of the same nets and world",
        "anchor_value": statistics.median(rates["raw"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "target": 1.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=128)
    parser.add_argument("--agents", type=int, default=32)
    parser.add_argument("--size", type=int, default=20, help="side of the random maps")
    parser.add_argument("--rollout", type=int, default=32)
    parser.add_argument("--minibatches", type=int, default=4)
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    prepare_process()
    row = {"schema_version": SCHEMA_VERSION, **rounded(measure(**vars(arguments)))}
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
