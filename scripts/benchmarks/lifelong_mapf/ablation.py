"""The ablation's policies of grids on the benchmark's maps: docs/benchmarks/mapf_ablation.json and .md.

    .venv/bin/python scripts/reproduce coordination train --cells grids --out RUNS
    .venv/bin/python scripts/reproduce mapf_ablation --runs RUNS --maps DIR

RUNS holds the policies that ``scripts/reproduce coordination`` trains on small generated maps, with and without
guidance, intent and safety. --maps is a copy of the POGEMA benchmark's maps, on which nothing is trained. Rows that
exist are not played again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from marl import api
from marl.evaluation.runner import run_policy
from marl.evaluation.statistics import estimate, over_seeds
from marl.scenario import load_scenario
from marl.seeding import seeds_of
from marl.training.run_folder import read_config
from scripts.benchmarks import page
from scripts.benchmarks.coordination.cells import SETS
from scripts.benchmarks.runner import PAGES, prepare, read_figures, write_figures

TARGET = PAGES / "mapf_ablation.json"
CELLS = {"warehouse 128": ("03-warehouse/maps.yaml:wfi_warehouse", 128), "mazes 64": ("02-mazes/maps.yaml", 64)}
#: metric -> (column, scale, digits)
COLUMNS = {
    "throughput": ("goals per step", 1.0, 3),
    "latency_p95_steps": ("p95, steps", 1.0, 0),
    "refused_share": ("refused moves %", 100.0, 1),
    "collisions": ("collisions", 1.0, 0),
}
EPISODES, TURN = 64, 16


def judge(runs: Path, maps: Path) -> list[dict[str, Any]]:
    scenario = load_scenario("lifelong_mapf")
    rows: list[dict[str, Any]] = read_figures(TARGET)["rows"]
    known = {(row["cell"], row["run"]) for row in rows}
    finished = sorted(path.parent for path in runs.glob("grids-*/report.html"))
    wanted = {f"grids-{'+'.join(modules) or 'none'}-seed" for modules in SETS}
    for cell, (file, agents) in CELLS.items():
        for run in (run for run in finished if run.name.rstrip("0123456789") in wanted):
            if (cell, run.name) in known:
                continue
            config = api.configure(
                "lifelong_mapf",
                options={"map": str(maps / file), "agents": agents, "horizon": 256},
                overrides=["world.central_state=false"],
            )
            env = scenario.make(config.world, TURN, torch.device("cpu"))
            build = api.policy_builder(scenario, str(run))
            turns = [
                run_policy(env, build(env), seeds_of(0, EPISODES)[first : first + TURN], 1)
                for first in range(0, EPISODES, TURN)
            ]
            figures = type(turns[0]).concatenate(turns)
            row: dict[str, Any] = {"cell": cell, "run": run.name, "modules": run.name.split("-")[1]}
            trained = read_config(run)
            row |= {"agent_steps": trained.total_steps, "trained_agents": trained.world["agents"], "episodes": EPISODES}
            row["ms_per_step"] = round(figures.ms_per_step, 3)
            for metric in COLUMNS:
                found = estimate(figures.metrics[metric])
                row[metric] = [round(value, 5) for value in (found.value, found.low, found.high)]
            rows.append(row)
            print(json.dumps(row), flush=True)
            write_figures(TARGET, "mapf_ablation", {"rows": rows})
    return rows


def write_page(rows: list[dict[str, Any]]) -> None:
    steps = sorted({row["agent_steps"] for row in rows})
    agents = sorted({row["trained_agents"] for row in rows})
    lines = [
        "# Ablation of guidance, intent and safety on the benchmark's maps",
        "",
        "Written by `scripts/reproduce mapf_ablation`. Policies of the [ablation in three worlds](coordination.md),",
        f"trained on small generated maps with {', '.join(map(str, agents))} agents for "
        f"{', '.join(f'{n / 1e6:.1f}' for n in steps)} million agent-steps, judged",
        "with the modules that they were trained with, on maps and numbers of agents that they have not met;",
        f"{EPISODES} episodes of 256 steps a cell and run. ±: 95 % interval over training seeds (Student's t); with",
        "one seed, over its episodes (bootstrap). Safety: priority inheritance with backtracking on its scores.",
    ]
    for cell in CELLS:
        lines += ["", f"## {cell.capitalize()} agents", ""]
        body = []
        for modules in SETS:
            name = "+".join(modules) or "none"
            here = [row for row in rows if (row["cell"], row["modules"]) == (cell, name)]
            if not here:
                continue
            cells = []
            for metric, (_, scale, digits) in COLUMNS.items():
                mean, half = over_seeds([row[metric][0] for row in here])
                if len(here) == 1:
                    half = (here[0][metric][2] - here[0][metric][1]) / 2
                cells.append(page.spread(mean, half, digits, scale))
            ms = sum(row["ms_per_step"] for row in here) / len(here)
            body.append([name, len(here), *cells, f"{ms:.2f}"])
        lines += page.table(["modules", "seeds", *(column for column, _, _ in COLUMNS.values()), "ms"], body)
    page.write(TARGET.with_suffix(".md"), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of runs")
    parser.add_argument("--maps", type=Path, required=True, help="folder of the POGEMA benchmark's maps")
    arguments = parser.parse_args()
    for folder in (arguments.runs, arguments.maps):
        if not folder.is_dir():
            parser.error(f"{folder} is no folder")
    prepare()
    write_page(judge(arguments.runs, arguments.maps))


if __name__ == "__main__":
    main()
