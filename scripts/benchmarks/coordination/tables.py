"""The ablation of guidance, intent and safety in all worlds: docs/benchmarks/coordination.md, row by row.

    .venv/bin/python scripts/reproduce coordination all [--minutes 4] [--seeds 0:3]     everything below, in this order
    .venv/bin/python scripts/reproduce coordination train [--jobs 2] [--cells REGEX]    75 runs, below --out
    .venv/bin/python scripts/reproduce coordination judge                               held-out instances
    .venv/bin/python scripts/reproduce coordination messages                            late, lost and noisy ones
    .venv/bin/python scripts/reproduce coordination supervisor                          put on and taken away afterwards
    .venv/bin/python scripts/reproduce coordination tables                              the page and its plots

A run takes at most about --minutes CPU-minutes: all cells of a world get as many steps as its dearest one can make in
that time. Runs and rows that exist are not made again, and an interrupted run is resumed. What modules cost is measured
by ``scripts/reproduce coordination_cost``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from scripts.benchmarks.coordination.cells import EPISODES, HARM, WORLDS, Cell, cells
from scripts.benchmarks.coordination.page import read_rows, tables
from scripts.benchmarks.runner import PAGES, add_row, overrides, prepare, side_by_side, train


def train_cell(out: Path, cell: Cell, minutes: float) -> None:
    """One run in its own process; the log stands beside the folder."""
    world = WORLDS[cell.world]
    train(out / cell.name, [world.scenario, "--preset", world.preset, *overrides(cell.overrides(minutes))])


def train_all(out: Path, chosen: list[Cell], minutes: Mapping[str, float], jobs: int) -> None:
    side_by_side([partial(train_cell, out, cell, minutes[cell.world]) for cell in chosen], jobs)


def shown(row: dict[str, Any]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in row["metrics"].items()}


def judge(out: Path, chosen: list[Cell]) -> None:
    """The figures of finished runs on instances that training never met."""
    known = {row["name"] for row in read_rows(out / "rows.jsonl")}
    for cell in chosen:
        if cell.name in known or not cell.finished(out):
            continue
        row = {"name": cell.name, **cell._asdict(), **measured(out, cell, None)}
        add_row(out / "rows.jsonl", row, shown(row))


def harm(out: Path, chosen: list[Cell]) -> None:
    """The figures of policies that heard everything in training, when messages are late, lost or noisy."""
    known = {row["name"] for row in read_rows(out / "messages.jsonl")}
    for cell in chosen:
        if "intent" not in cell.modules or not cell.finished(out):
            continue
        for fault, level in [("none", 0), *((fault, level) for fault, levels in HARM.items() for level in levels)]:
            name = f"{cell.name}-{fault}-{level}"
            if name not in known:
                change = {} if fault == "none" else {"intent": {fault: level}}
                row = {"name": name, **cell._asdict(), "fault": fault, "level": level, **measured(out, cell, change)}
                add_row(out / "messages.jsonl", row, shown(row))


def supervise(out: Path, chosen: list[Cell]) -> None:
    """The figures of policies of the road with the supervisor put on and taken away, whatever they learned under."""
    known = {row["name"] for row in read_rows(out / "supervisor.jsonl")}
    for cell in chosen:
        if cell.world != "roads" or {"guidance", "intent"} & set(cell.modules) or not cell.finished(out):
            continue
        for enabled in (True, False):
            name = f"{cell.name}-{'on' if enabled else 'off'}"
            if name not in known:
                change = {"safety": {"enabled": enabled, "margin": 0.0}}
                row = {"name": name, **cell._asdict(), "supervised": enabled, **measured(out, cell, change)}
                add_row(out / "supervisor.jsonl", row, shown(row))


def measured(out: Path, cell: Cell, change: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """The figures of a run, and what they cost; change: options of modules that are changed for it.

    Of a language run that nothing is changed for, those of its own last evaluation.
    """
    import torch

    from marl.evaluation.runner import run_policy
    from marl.scenario import load_scenario
    from marl.seeding import seeds_of
    from marl.training.policy import LearnedPolicy, load_policy
    from marl.training.tracking import read_metrics

    folder, wanted = out / cell.name, WORLDS[cell.world].figures
    last = read_metrics(folder / "metrics.csv")[-1]
    figures = {"cpu_minutes": last["cpu_seconds"] / 60.0, "steps": last["agent_steps"]}
    if cell.world == "language" and change is None:
        found = {name: last[f"evaluation/{name}"] for name in wanted if f"evaluation/{name}" in last}
        return {**figures, "metrics": found}
    policy = load_policy(folder)
    modules = policy.config.coordination
    own = {name: getattr(modules, name).model_copy(update=dict(more)) for name, more in (change or {}).items()}
    modules = modules.model_copy(update=own)
    if isinstance(policy, LearnedPolicy):
        policy = policy.coordinated(modules)
    else:
        sampling = policy.config.algorithm.model_copy(update={"greedy": False})
        policy.config = policy.config.model_copy(update={"algorithm": sampling})
    scenario = load_scenario(WORLDS[cell.world].scenario)
    world = scenario.coordinated(scenario.held_out(policy.config.world), modules)
    env = scenario.make(world, EPISODES[cell.world], torch.device("cpu"))
    played = run_policy(env, policy.bind(env), seeds_of(0, env.copies), 1).metrics
    env.close()
    named = {name: name.removesuffix("_sampled") for name in wanted}
    found = {name: float(played[short].mean()) for name, short in named.items() if short in played}
    return {**figures, "episodes": env.copies, "metrics": found}


def minutes_of(text: str) -> dict[str, float]:
    """World -> minutes, from one number for all worlds or from ``grids=1.25,roads=0.9,language=0.9``."""
    if "=" not in text:
        return dict.fromkeys(WORLDS, float(text))
    found = {world: float(minutes) for world, minutes in (part.split("=") for part in text.split(","))}
    if set(found) != set(WORLDS):
        raise argparse.ArgumentTypeError(f"name the worlds {', '.join(WORLDS)}, each once")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = ("train", "judge", "messages", "supervisor", "tables")
    parser.add_argument("stage", choices=["all", *stages])
    parser.add_argument("--minutes", type=minutes_of, default="4", help="CPU-minutes of a run, or WORLD=M,WORLD=M,...")
    parser.add_argument("--seeds", default="0:3")
    parser.add_argument("--cells", default="", help="only cells whose name matches, e.g. 'roads.*seed0'")
    parser.add_argument("--out", type=Path, default=Path("runs/coordination"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one core each")
    arguments = parser.parse_args()
    prepare()
    from marl.cli_words import parse_seeds

    chosen = cells(parse_seeds(arguments.seeds), arguments.cells)
    for stage in stages if arguments.stage == "all" else (arguments.stage,):
        if stage == "train":
            train_all(arguments.out, chosen, arguments.minutes, arguments.jobs)
        elif stage == "judge":
            judge(arguments.out, chosen)
        elif stage == "messages":
            harm(arguments.out, chosen)
        elif stage == "supervisor":
            supervise(arguments.out, chosen)
        else:
            tables(arguments.out, PAGES)


if __name__ == "__main__":
    main()
