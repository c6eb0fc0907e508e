"""Tune and judge the policies of lifelong_mapf: docs/benchmarks/mapf.md, row by row.

    .venv/bin/python scripts/reproduce mapf tune [--rows REGEX]                       the shipped guidance vectors
    .venv/bin/python scripts/reproduce mapf train [--rows REGEX] [--seeds N]          the learned policies, and those
                                                                                      that they are compared with
    .venv/bin/python scripts/reproduce mapf ship [--rows REGEX]                       the shipped ones, from their runs
    .venv/bin/python scripts/reproduce mapf judge --maps DIR [--rows REGEX]           episodes, below --out
    .venv/bin/python scripts/reproduce mapf tables [--published FILE]                 docs/benchmarks/mapf.json, mapf.md

--maps is a copy of the POGEMA benchmark's maps (github.com/Cognitive-AI-Systems/pogema-benchmark, folders 01-random,
02-mazes, 03-warehouse with a maps.yaml each), which are not shipped here and which nothing is tuned on. --published is
a table of published results, to stand beside. Rows that exist are not made again, and an interrupted tuning is resumed.
Another policy is another line of POLICIES.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scripts.benchmarks import page
from scripts.benchmarks.runner import (
    PAGES,
    REPO,
    add_row,
    marl,
    prepare,
    read_figures,
    read_rows,
    train,
    write_figures,
)

VECTORS = REPO / "scenarios" / "lifelong_mapf" / "guidance" / "vectors"
CHECKPOINTS = REPO / "scenarios" / "lifelong_mapf" / "checkpoints"


class Instances(NamedTuple):
    """One set of the benchmark. published: its name in the published table, if the length is the published one.

    vector: the shipped guidance vector for maps of this kind.
    """

    title: str
    file: str
    agents: tuple[int, ...]
    steps: int
    vector: str
    published: str | None


SETS = {
    "warehouse": Instances(
        "Warehouse, 46x33", "03-warehouse/maps.yaml:wfi_warehouse", (32, 64, 96, 128, 160, 192), 256, "warehouse",
        "03-warehouse",
    ),
    "random": Instances(
        "Random maps, 17 to 21 cells a side", "01-random/maps.yaml", (8, 16, 24, 32, 48, 64), 256, "random", "01-random"
    ),
    "mazes": Instances(
        "Mazes, 17 to 21 cells a side", "02-mazes/maps.yaml", (8, 16, 24, 32, 48, 64), 256, "maze", None
    ),
    "mazes-128": Instances(
        "Mazes, 128 steps", "02-mazes/maps.yaml", (8, 16, 24, 32, 48, 64), 128, "maze", "02-mazes"
    ),
}  # fmt: skip


class Policy(NamedTuple):
    """A row of the tables.

    policy: as ``marl evaluate --policies`` knows it. overrides: texts of ``--set``; {vector} is the set's, in both.
    """

    title: str
    policy: str
    overrides: tuple[str, ...] = ()


TUNED = ("world.guidance.vector={vector}",)
#: What guided_search plans on, tuned for it (``marl tune lifelong_mapf search``).
SEARCHED = ("world.guidance.vector=search-{vector}",)
POLICIES = (
    Policy("follow_path", "follow_path"),
    Policy("follow_path, safety", "follow_path+safety"),
    Policy("pibt", "pibt:swap=false"),
    Policy("pibt, swaps", "pibt"),
    Policy("guided_pibt, default", "guided_pibt:swap=false", ("world.guidance.vector=default",)),
    Policy("guided_pibt, tuned", "guided_pibt:swap=false", TUNED),
    Policy("guided_pibt, tuned, swaps", "guided_pibt", TUNED),
    Policy("windowed", "windowed"),
    Policy("windowed, window 16, 300 iterations", "windowed:window=16:iterations=300"),
    Policy("guided_search", "guided_search:guidance=world", SEARCHED),
    Policy(
        "guided_search, window 16, 250 iterations", "guided_search:window=16:iterations=250:guidance=world", SEARCHED
    ),
    Policy("follower", "lifelong_mapf/follower"),
    Policy("scorer", "lifelong_mapf/scorer", TUNED),
    Policy("scorer of this kind of maps", "lifelong_mapf/scorer_{vector}", TUNED),
)
REFERENCE = "pibt"
EPISODES = 64
METRICS = {
    "throughput": ("Goals per step", 3),
    "bound_share": ("Share of the collision-free bound", 3),
    "latency_p50_steps": ("Steps per goal, median", 1),
    "latency_p95_steps": ("Steps per goal, 95th percentile", 1),
    "oldest_goal_steps": ("Age of the oldest goal under way at the end, steps", 0),
}

#: How the shipped vectors are made: generated maps of the kind, never the benchmark's.
_WAREHOUSES = (
    "[{kind: warehouse}, {kind: warehouse, shelf_length: 5, shelf_columns: 5}, {kind: warehouse, shelf_rows: 6, "
    "shelf_length: 12}, {kind: warehouse, missing: 0.1}, {kind: warehouse, shelf_rows: 10, aisle: 2, shelf_length: 8, "
    "shelf_columns: 4}]"
)
#: Numbers of an earlier search over the same prices, on generated warehouses.
_WAREHOUSE_START = (
    "{vector: plain, static_weight: 0.64, occupancy_weight: 0.64, waiting_weight: 1.8, decay: 0.99, "
    "opposing_weight: 8.5, flow_decay: 0.99, lanes_weight: 0.35, corridor_rows_weight: 8.0, "
    "corridor_columns_weight: 8.0, closer_first: 0.3, crowd: 0.1}"
)
_MAZES = "[{kind: maze, openings: 0.2}, {kind: maze, size: 19, openings: 0.35}, {kind: maze, size: 17, openings: 0.5}]"
#: What a search with 64 and 32 agents found, before lanes and central cells cost less where agents are few. This start
#: is what is shipped: the search below finds more goals for crowds and longer waits on quiet days (docs/decisions.md).
_MAZE_START = (
    "{vector: plain, static_weight: 0.02077, occupancy_weight: 0.8406, waiting_weight: 2.065, decay: 0.9885, "
    "opposing_weight: 13.53, flow_decay: 0.9748, corridor_rows_weight: 4.001, corridor_columns_weight: 5.106, "
    "stay_weight: 4.6, contest_weight: 0.6343, head_on_weight: 0.3181, crowd: 0.5}"
)
TUNINGS = {
    "warehouse": [
        *("--preset", "warehouse", "--set", f"world.generator={_WAREHOUSES}", "--set", "world.map_pool=10"),
        *("--set", f"world.guidance={_WAREHOUSE_START}", "--generations", "13", "--instances", "3", "--step", "0.08"),
    ],
    "random": ["--preset", "random", "--generations", "25"],
    "maze": [
        *("--preset", "maze", "--set", f"world.generator={_MAZES}", "--set", f"world.guidance={_MAZE_START}"),
        *("--generations", "12", "--instances", "8", "--step", "0.06"),
    ],
}

#: Shipped as they are: what the search finds is worse on quiet days, so its file stays in the run folder.
KEPT = ("maze",)


class Training(NamedTuple):
    """A learned policy: runs of which each starts with the weights of the one before, the last is its result."""

    runs: dict[str, list[str]]


_OF_WAREHOUSES = [
    *("--set", f"world.generator={_WAREHOUSES}", "--set", "world.map_pool=10", "--set", "world.agents=192"),
    *("--set", "world.guidance.vector=warehouse", "--set", "copies=12"),
]
_IMITATION = {"scorer-imitation": ["--preset", "scorer_imitation"]}
#: Evolution strategies for some minutes.
_LONG = ["--set", "total_steps=40000000", "--set", "algorithm.rate=0.02"]
TRAININGS = {
    "follower": Training(
        {"follower-imitation": ["--preset", "follower_imitation"], "follower": ["--preset", "follower"]}
    ),
    "scorer": Training(_IMITATION | {"scorer": ["--preset", "scorer"]}),
    "scorer_warehouse": Training({"scorer_warehouse": ["--preset", "scorer_from_rule", *_OF_WAREHOUSES]}),
    "scorer_es": Training(_IMITATION | {"scorer_es": ["--preset", "scorer_es"]}),
    "scorer_es_long": Training(_IMITATION | {"scorer_es_long": ["--preset", "scorer_es", *_LONG]}),
}

#: Trained to stand beside ``scorer``, in its CPU time and in several times that: their results are not shipped.
COMPARED = ("scorer_es", "scorer_es_long")


class Row(NamedTuple):
    instances: str
    agents: int
    policy: Policy

    @property
    def name(self) -> str:
        return f"{self.instances}/{self.agents}/{self.policy.title}"


def all_rows() -> Iterator[Row]:
    for key, instances in SETS.items():
        for agents in instances.agents:
            for policy in POLICIES:
                yield Row(key, agents, policy)


def tune(out: Path, wanted: str) -> None:
    """Each vector in its own process; the file is copied to its place, but for those of ``KEPT``."""
    for name, words in TUNINGS.items():
        folder = out / f"tune-{name}"
        if not re.search(wanted, name):
            continue
        if not (folder / "guidance.yaml").exists():
            if (folder / "tuning.yaml").exists():
                marl(["tune", "--resume", str(folder)])
            else:
                # From the built-in start or a given one, not from the vector that is to be replaced.
                begin = ["--set", "world.guidance={vector: default}"]
                marl(["tune", "lifelong_mapf", "guidance", "--out", str(folder), *begin, *words])
        if name not in KEPT:
            shutil.copy(folder / "guidance.yaml", VECTORS / f"{name}.yaml")


def train_all(out: Path, wanted: str, seeds: int) -> None:
    """Each run in its own process, in folders NAME-SEED; finished runs are left alone, interrupted ones resumed."""
    for name, training in TRAININGS.items():
        for seed in range(seeds) if re.search(wanted, name) else ():
            before = None
            for run, words in training.runs.items():
                folder = out / f"{run}-{seed}"
                train(folder, ["lifelong_mapf", *words, "--set", f"seed={seed}"], before, log=False)
                before = folder


def ship_all(out: Path, wanted: str) -> None:
    """The weights of seed 0, not of the best one."""
    from marl.training.shipping import ship

    for name, training in TRAININGS.items():
        last = out / f"{list(training.runs)[-1]}-0"
        if re.search(wanted, name) and name not in COMPARED and last.exists():
            ship(last, CHECKPOINTS / name)


def judge(out: Path, maps: Path, wanted: str) -> None:
    """Play the rows that have no figures yet."""
    import torch

    from marl import api
    from marl.errors import UserError
    from marl.evaluation.runner import run_policy
    from marl.scenario import load_scenario
    from marl.seeding import seeds_of

    scenario = load_scenario("lifelong_mapf")
    known = {row["name"] for row in read_rows(out / "rows.jsonl")}
    for row in all_rows():
        if row.name in known or not re.search(wanted, row.name):
            continue
        instances = SETS[row.instances]
        chosen = (text.format(vector=instances.vector) for text in row.policy.overrides)
        try:
            build = api.policy_builder(scenario, row.policy.policy.format(vector=instances.vector))
            config = api.configure(
                "lifelong_mapf",
                options={"map": str(maps / instances.file), "agents": row.agents, "horizon": instances.steps},
                overrides=["world.bound_share=true", *chosen],
            )
        except UserError as error:
            print(f"{row.name}: left out, {error}", flush=True)
            continue
        env = scenario.make(scenario.held_out(config.world), EPISODES, torch.device("cpu"))
        with torch.no_grad():
            build(env).act(env.reset(0))  # no timing holds a compilation
        figures = run_policy(env, build(env), seeds_of(0, EPISODES), 1)
        env.close()
        record = {
            "name": row.name,
            "instances": row.instances,
            "agents": row.agents,
            "policy": row.policy.title,
            "ms_per_step": figures.ms_per_step,
            "collisions": float(figures.metrics["collisions"].sum()),
            "figures": {metric: figures.metrics[metric].tolist() for metric in METRICS},
        }
        add_row(out / "rows.jsonl", record, round(float(figures.metrics["throughput"].mean()), 3))


def read_published(file: Path | None) -> dict[tuple[str, int], dict[str, dict[str, float]]]:
    """(set, agents) -> algorithm -> throughput with its interval and milliseconds per step."""
    figures: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    if file is None:
        return figures
    with file.open(encoding="utf-8", newline="") as table:
        for line in csv.DictReader(table):
            cell = figures.setdefault((line["map_set"], int(line["num_agents"])), {})
            cell[line["algorithm"]] = {
                "mean": float(line["throughput_mean"]),
                "ci_low": float(line["throughput_ci95_low"]),
                "ci_high": float(line["throughput_ci95_high"]),
                "ms_per_step": 1e3 * float(line["runtime_median_s"]) / int(line["episode_steps"]),
            }
    return figures


def row_name(entry: dict[str, Any]) -> str:
    return f"{entry['instances']}/{entry['agents']}/{entry['policy']}"


def measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with means and intervals, and its paired differences and ratios to the reference."""
    from marl.evaluation.statistics import estimate, paired_difference

    by_name = {row["name"]: row for row in rows}
    found = []
    for row in rows:
        reference = by_name.get(f"{row['instances']}/{row['agents']}/{REFERENCE}")
        entry = {key: row[key] for key in ("instances", "agents", "policy", "ms_per_step", "collisions")}
        entry["episodes"] = len(row["figures"]["throughput"])
        for metric, values in row["figures"].items():
            mean = estimate(values)
            entry[metric] = {"mean": mean.value, "ci_low": mean.low, "ci_high": mean.high}
            if reference is not None and row is not reference:
                gain = paired_difference(values, reference["figures"][metric])
                base = estimate(reference["figures"][metric]).value
                entry[metric] |= {
                    f"minus_{REFERENCE}": gain.value,
                    "difference_ci_low": gain.low,
                    "difference_ci_high": gain.high,
                    f"times_{REFERENCE}": mean.value / base if base else None,
                }
        found.append(entry)
    return found


def grid(title: str, agents: tuple[int, ...], lines: dict[str, list[str]]) -> list[str]:
    return [*page.table([title, *agents], [[name, *cells] for name, cells in lines.items()]), ""]


def tables(out: Path, published: Path | None) -> None:
    """The figures as JSON and as a page."""
    order = {row.name: number for number, row in enumerate(all_rows())}
    # The rows that the tables hold already may have been played elsewhere.
    written = read_figures(PAGES / "mapf.json")["rows"]
    entries = {row_name(entry): entry for entry in [*written, *measured(read_rows(out / "rows.jsonl"))]}
    entries = [entries[name] for name in sorted(entries.keys() & order.keys(), key=order.__getitem__)]
    others = read_published(published)
    lines_of_page = [
        "# Lifelong path finding: tables",
        "",
        "Written by `scripts/reproduce mapf tables`. Maps of the POGEMA benchmark (`soft` collisions), which nothing",
        f"was tuned or trained on; {EPISODES} episodes a cell, all policies on the same ones; ± half of the 95 %",
        "bootstrap interval. ms: CPU time of the policy for all agents and one step, its 64 copies deciding together,",
        "one thread, shared machine: quote ratios. Rules play the swap rule, as they do unless told otherwise, where",
        "the row says *swaps*; the other rows are `pibt:swap=false`, `guided_pibt:swap=false`.",
        "*Published* rows are other starts and goals on the same maps (raw results of the POGEMA benchmark, 128",
        "instances; its RHCR knows future goals, ours never do).",
        "",
    ]
    for key, instances in SETS.items():
        here = {(entry["policy"], entry["agents"]): entry for entry in entries if entry["instances"] == key}
        titles = [policy.title for policy in POLICIES if any(name == policy.title for name, _ in here)]
        if not here:
            continue
        lines_of_page += [f"## {instances.title}", ""]
        for metric, (meaning, digits) in METRICS.items():
            lines = {}
            for title in titles:
                cells = [here.get((title, n), {}).get(metric) for n in instances.agents]
                lines[title] = [
                    page.spread(c["mean"], (c["ci_high"] - c["ci_low"]) / 2, digits) if c else "" for c in cells
                ]
            if metric == "throughput" and instances.published is not None:
                cells_of = [others.get((instances.published, n), {}) for n in instances.agents]
                for algorithm in dict.fromkeys(name for cell in cells_of for name in cell):
                    found = [cell.get(algorithm) for cell in cells_of]
                    lines[f"*{algorithm}, published*"] = [f"*{one['mean']:.3f}*" if one else "" for one in found]
            lines_of_page += grid(meaning, instances.agents, lines)
        ratios = {}
        for title in titles:
            if title != REFERENCE:
                found = [here.get((title, n), {}).get("throughput", {}) for n in instances.agents]
                ratios[title] = [
                    f"{one[f'times_{REFERENCE}']:.3f} "
                    f"{page.span(one['difference_ci_low'], one['difference_ci_high'], sign='+')}"
                    if one.get(f"times_{REFERENCE}")
                    else ""
                    for one in found
                ]
        lines_of_page += grid(f"Goals per step, times `{REFERENCE}` [paired difference]", instances.agents, ratios)
        times = {
            title: [f"{here[title, n]['ms_per_step']:.3f}" if (title, n) in here else "" for n in instances.agents]
            for title in titles
        }
        lines_of_page += grid("ms per step", instances.agents, times)
    write_figures(PAGES / "mapf.json", "mapf", {"episodes": EPISODES, "rows": entries})
    page.write(PAGES / "mapf.md", lines_of_page)


def warehouse(file: Path | None) -> None:
    """Rules in one warehouse, 16 episodes a number of agents, as ``marl evaluate`` shows them."""
    words = ["--policies", "pibt,guided_pibt", "--agents", "32,64,96,128,160,192", "--seeds", "0:16"]
    marl(["evaluate", "lifelong_mapf", *words, *([] if file is None else ["--map", str(file)])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["tune", "train", "ship", "judge", "tables", "warehouse"])
    parser.add_argument("--maps", type=Path, help="judge: folder of the POGEMA benchmark's maps")
    parser.add_argument("--map", type=Path, help="warehouse: a map file, such as the benchmark's warehouse")
    parser.add_argument("--published", type=Path, help="tables: CSV of published results")
    parser.add_argument("--out", type=Path, default=Path("runs/mapf"))
    parser.add_argument("--rows", default="", help="only what matches, e.g. 'warehouse/(128|192)/.*tuned'")
    parser.add_argument("--seeds", type=int, default=3, help="train: seeds from 0 on; seed 0 is shipped")
    arguments = parser.parse_args()
    prepare()
    if arguments.stage == "tune":
        tune(arguments.out, arguments.rows)
    elif arguments.stage == "train":
        train_all(arguments.out, arguments.rows, arguments.seeds)
    elif arguments.stage == "ship":
        ship_all(arguments.out, arguments.rows)
    elif arguments.stage == "judge":
        if arguments.maps is None or not arguments.maps.is_dir():
            parser.error("judge needs --maps DIR, the folder of the POGEMA benchmark's maps")
        judge(arguments.out, arguments.maps, arguments.rows)
    elif arguments.stage == "warehouse":
        warehouse(arguments.map)
    else:
        tables(arguments.out, arguments.published)


if __name__ == "__main__":
    main()
