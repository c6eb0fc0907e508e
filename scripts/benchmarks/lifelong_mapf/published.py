"""Play POGEMA's own starts and goals, beside results published for them; adds to docs/benchmarks/mapf_published.json
and .md.

    scripts/reproduce mapf_published --tasks DIR --steps 128 --published FILE --set 02-mazes --agents 64

DIR holds one task file per instance, as ``scripts/assets/export_pogema_tasks.py`` writes them (map for map, or seed
for seed). FILE is a table of published results with the columns map_set, num_agents, algorithm, episode_steps,
throughput_mean and throughput_ci95_low and _high. The instances are the same, but published figures come as means, so
nothing is paired; the published RHCR knew future goals, the policies here do not.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import torch

from marl import api
from marl.evaluation.runner import run_policy
from marl.evaluation.statistics import estimate
from marl.scenario import load_scenario
from scenarios.lifelong_mapf.maps.tasks import task_files
from scripts.benchmarks import page
from scripts.benchmarks.runner import PAGES, prepare, read_figures, write_figures

TARGET = PAGES / "mapf_published.json"
#: Title of each set, and the published methods that its table shows.
SETS = {"01-random": "Random maps, 17 to 21 cells a side", "02-mazes": "Mazes", "03-warehouse": "Warehouse, 46x33"}
SHOWN = ("RHCR", "Follower", "MATS-LP")


def play(policy: str, tasks: Path, agents: int, steps: int, overrides: list[str]) -> dict[str, Any]:
    """One policy on every task file of a folder, all at once: figures of all instances together."""
    scenario = load_scenario("lifelong_mapf")
    build = api.policy_builder(scenario, policy)
    instances = len(task_files(str(tasks)))
    config = api.configure(
        "lifelong_mapf",
        options={"tasks": str(tasks), "agents": agents, "horizon": steps},
        overrides=["world.central_state=false", *overrides],
    )
    env = scenario.make(config.world, instances, torch.device("cpu"))
    with torch.no_grad():
        build(env).act(env.reset(0))  # no timing holds a compilation
    figures = run_policy(env, build(env), torch.arange(instances), 1)
    found = estimate(figures.metrics["throughput"])
    return {
        "policy": Path(policy).name if Path(policy).is_dir() else policy,
        "n": instances,
        "throughput": found.value,
        "ci_low": found.low,
        "ci_high": found.high,
        "latency_p95_steps": float(figures.metrics["latency_p95_steps"].mean()),
        "collisions": float(figures.metrics["collisions"].sum()),
        "ms_per_step": figures.ms_per_step,
        "copies": instances,
    }


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    """The figures as tables: policies by numbers of agents."""
    lines = [
        "# Lifelong path finding: published starts and goals",
        "",
        "Written by `scripts/reproduce mapf_published`. Goals per step on the starts and goals of the POGEMA",
        "benchmark, as POGEMA 1.4.0 draws them, with their 95 % intervals over instances. *Published* figures are",
        "means of the same instances, so nothing is paired; the published RHCR knew future goals. In brackets: times",
        "the published Follower.",
    ]
    for key, steps in sorted({(row["set"], row["steps"]) for row in rows}):
        here = [row for row in rows if (row["set"], row["steps"]) == (key, steps)]
        agents, instances = (sorted({row[name] for row in here}) for name in ("agents", "n"))
        lines += ["", f"## {SETS[key]}, {steps} steps, {' or '.join(map(str, instances))} instances", ""]
        body = []
        for policy in sorted({row["policy"] for row in here}):
            cells = {row["agents"]: row for row in here if row["policy"] == policy}
            body.append([policy, *(_cell(cells.get(n)) for n in agents)])
        published = {row["agents"]: row["published"] for row in here}
        for method in SHOWN:
            texts = [f"*{published[n][method][0]:.3f}*" if method in published[n] else "" for n in agents]
            body.append([f"*{method}, published*", *texts])
        lines += page.table(["agents", *agents], body)
    return lines


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    times = row["times_published"].get("Follower")
    return f"{row['throughput']:.3f} {page.span(row['ci_low'], row['ci_high'])}" + (
        "" if times is None else f" ({times:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True, help="folder of task files")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--set", dest="map_set", required=True, choices=list(SETS), help="as in the published table")
    parser.add_argument("--agents", type=int, required=True)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument(
        "--policies", default="windowed:window=16:iterations=100,guided_search:window=16:iterations=100"
    )
    parser.add_argument("--override", action="append", default=[], help="as --set of marl, such as world.guidance...=")
    arguments = parser.parse_args()
    prepare()
    if not arguments.tasks.is_dir():
        parser.error(f"{arguments.tasks} is no folder of task files")
    with arguments.published.open(encoding="utf-8", newline="") as table:
        others = {
            line["algorithm"]: [float(line[f"throughput_{x}"]) for x in ("mean", "ci95_low", "ci95_high")]
            for line in csv.DictReader(table)
            if (line["map_set"], int(line["num_agents"]), int(line["episode_steps"]))
            == (arguments.map_set, arguments.agents, arguments.steps)
        }
    known = read_figures(TARGET)["rows"]
    for policy in arguments.policies.split(","):
        row = {"set": arguments.map_set, "agents": arguments.agents, "steps": arguments.steps}
        row |= play(policy, arguments.tasks, arguments.agents, arguments.steps, arguments.override)
        row["times_published"] = {name: round(row["throughput"] / found[0], 3) for name, found in others.items()}
        row["published"] = others
        known = [old for old in known if any(old[key] != row[key] for key in ("set", "agents", "steps", "policy"))]
        known.append(row)
        print(json.dumps({key: value for key, value in row.items() if key != "published"}), flush=True)
        write_figures(TARGET, "mapf_published", {"rows": known})
        page.write(TARGET.with_suffix(".md"), lines_of(known))


if __name__ == "__main__":
    main()
