"""What guidance, intent and safety cost in each world: CPU-milliseconds for one decision of all agents of one copy.

    .venv/bin/python scripts/reproduce coordination_cost [--repeats 7]      docs/benchmarks/coordination_cost.json

Tables: ``scripts/reproduce coordination tables``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from marl.api import configure
from marl.coordination.pipeline import Pipeline
from marl.scenario import load_scenario
from marl.systems.registry import load_system
from scripts.benchmarks.runner import PAGES

TARGET = PAGES / "coordination_cost.json"
SCENARIOS = {"grids": ("lifelong_mapf", "small"), "roads": ("cav_merging", "hard")}
SWITCHES = {name: f"coordination.{name}.enabled" for name in ("guidance", "intent", "safety")}
LANGUAGE = {**SWITCHES, "guidance": "world.plan"}
#: Modules by themselves; ``intent, late``: without drafts, because messages take a step.
COSTS = {"none": {}, "guidance": {}, "intent": {}, "intent, late": {"coordination.intent.delay": 1}, "safety": {}}


def tensor_cost(world: str, repeats: int, copies: int = 128, steps: int = 20) -> Iterator[dict[str, Any]]:
    """The whole step (view, decision, world) with an untrained policy, less the same without modules."""
    scenario = load_scenario(SCENARIOS[world][0])
    loops = {}
    for name, more in COSTS.items():
        on = [f"{key}={str(module == name.split(',')[0]).lower()}" for module, key in SWITCHES.items()]
        overrides = [*on, *(f"{key}={value}" for key, value in more.items())]
        config = configure(SCENARIOS[world][0], preset=SCENARIOS[world][1], overrides=overrides)
        env = scenario.make(config.world, copies, torch.device("cpu"))
        pipeline = Pipeline(env, config.coordination)
        algorithm = load_system(config.system).build(
            env.spec, pipeline.observation_space, config.algorithm, 0, torch.device("cpu")
        )
        loops[name] = [pipeline, algorithm.policy, pipeline.view(env.reset(0)), None]
    agents = env.spec.n_agents
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    with torch.no_grad():
        for _ in range(repeats + 1):  # the first round compiles
            for name, loop in loops.items():
                pipeline, policy, seen, memory = loop
                memory = memory or pipeline.begin(policy, seen)
                began = time.process_time()
                for _ in range(steps):
                    decision = pipeline.act(policy, seen, memory)
                    seen, memory = pipeline.view(pipeline.env.step(decision.executed)), decision.memory
                seconds[name].append((time.process_time() - began) / (steps * copies))
                loop[2:] = seen, memory
    rounds = {name: values[1:] for name, values in seconds.items()}
    for name, values in rounds.items():
        added = [1e3 * (one - plain) for one, plain in zip(values, rounds["none"], strict=True)]
        yield {
            "world": world,
            "module": name,
            "copies": copies,
            "agents": agents,
            "ms": 1e3 * statistics.median(values),
            "added_ms": statistics.median(added),
            "repeats": len(values),
        }


def language_cost(repeats: int, episodes: int = 100) -> Iterator[dict[str, Any]]:
    """A turn of the scripted expert with each switch; the guard's own work is measured on texts that are no calls."""
    scenario = load_scenario("agent_hierarchy")
    assert scenario.language is not None
    rounds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, broken in (("none", 0), ("guidance", 0), ("intent", 0), ("safety", 0), ("none", 1), ("safety", 1)):
            on = [f"{key}={str(module == name).lower()}" for module, key in LANGUAGE.items()]
            world = scenario.language(configure("agent_hierarchy", preset="quick", overrides=on).world)
            env, turns, spent = world.make(), 0, 0.0
            for seed in range(episodes):
                env.reset(seed=seed)
                while (turn := env.turn()) is not None:
                    text = world.expert(turn, turns)
                    began = time.process_time()
                    env.step("x" + text if broken else text)
                    spent += time.process_time() - began
                    turns += 1
            rounds.setdefault(f"{name}, texts that are no calls" if broken else name, []).append(1e3 * spent / turns)
    for name, values in rounds.items():
        plain = rounds["none" + name[name.index(",") :] if "," in name else "none"]
        yield {
            "world": "language",
            "module": name,
            "copies": 1,
            "agents": 1,
            "ms": statistics.median(values),
            "added_ms": statistics.median([one - other for one, other in zip(values, plain, strict=True)]),
            "repeats": repeats,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="interleaved rounds")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rows = [*tensor_cost("grids", repeats), *tensor_cost("roads", repeats), *language_cost(repeats)]
    data = {
        "schema_version": 1,
        "command": "scripts/reproduce coordination_cost",
        "threads": 1,
        "unit": "ms",
        "rows": rows,
    }
    TARGET.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
