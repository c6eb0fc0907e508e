#!/usr/bin/env python3
"""MAPPO on lifelong MAPF end to end beside the plainest loop of the same nets and world; prints one JSON object.

    .venv/bin/python scripts/raw_loop.py [--copies 128] [--agents 32] [--turns 9]

The two take turns; rates are agent-steps per CPU-second of one thread, one epoch, guidance on, 64-wide networks
(``scenarios.lifelong_mapf.raw_loop`` is the plain one). ``ratio``: the median of theirs, turn by turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

import torch

from marl.api import configure
from marl.bench.clock import device_name
from marl.bench.gate import interleaved
from marl.bench.worlds import WorldParts
from marl.scenario import load_scenario
from marl.training.process import prepare_process
from scenarios.lifelong_mapf.raw_loop import RawLoop, loop_config


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
    world = loop_config(arguments.agents, arguments.size).model_dump(mode="json")
    config = configure(
        "lifelong_mapf",
        base={f"world.{key}": value for key, value in world.items()}
        | {"copies": arguments.copies, "algorithm.rollout": arguments.rollout, "algorithm.epochs": 1}
        | {"algorithm.minibatches": arguments.minibatches},
    )
    (ours,) = WorldParts(load_scenario("lifelong_mapf"), config, 1).parts(("end",))
    raw = RawLoop(arguments.copies, arguments.agents, arguments.size, arguments.rollout, arguments.minibatches)
    rates: dict[str, list[float]] = {"marl": [], "raw": []}

    def noted(name: str, rate: float) -> float:
        rates[name].append(rate)
        return rate

    ratios = interleaved(
        {"end to end": lambda: noted("marl", ours.steps() / ours.run())},
        lambda: noted("raw", raw.rate()),
        arguments.turns,
    )["end to end"]
    row = {
        "schema_version": 1,
        "name": "mappo on lifelong_mapf, end to end",
        "unit": "agent-steps per CPU-second",
        "device": device_name(torch.device("cpu")),
        "threads": 1,
        "work": vars(arguments) | ours.notes(),
        "value": statistics.median(rates["marl"]),
        "anchor": "the plainest loop of the same nets and world",
        "anchor_value": statistics.median(rates["raw"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
