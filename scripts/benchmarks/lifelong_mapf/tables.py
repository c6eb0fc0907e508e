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
Another policy is another line of POLICIES in runs.py.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from scripts.benchmarks import page
from scripts.benchmarks.lifelong_mapf.runs import (
    EPISODES,
    METRICS,
    POLICIES,
    REFERENCE,
    SETS,
    Instances,
    all_rows,
    judge,
    ship_all,
    train_all,
    tune,
    warehouse,
)
from scripts.benchmarks.runner import PAGES, prepare, read_figures, read_rows, write_figures

HEADING = f"""\
# Lifelong path finding: tables

Written by `scripts/reproduce mapf tables`. Maps of the POGEMA benchmark (`soft` collisions), which nothing
was tuned or trained on; {EPISODES} episodes a cell, all policies on the same ones; ± half of the 95 %
bootstrap interval. ms: CPU time of the policy for all agents and one step, its 64 copies deciding together,
one thread, shared machine: quote ratios. Rules play the swap rule, as they do unless told otherwise, where
the row says *swaps*; the other rows are `pibt:swap=false`, `guided_pibt:swap=false`.
*Published* rows are other starts and goals on the same maps (raw results of the POGEMA benchmark, 128
instances; its RHCR knows future goals, ours never do).
"""
#: (set, agents) -> algorithm -> throughput with its interval and milliseconds per step.
Published = dict[tuple[str, int], dict[str, dict[str, float]]]
#: (policy, agents) -> the entry of a set.
Entries = dict[tuple[str, int], dict[str, Any]]


def read_published(file: Path | None) -> Published:
    """The published results of a CSV file; none without one."""
    figures: Published = {}
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


def metric_lines(
    metric: str, digits: int, instances: Instances, titles: list[str], here: Entries, others: Published
) -> dict[str, list[str]]:
    """Title -> a metric's figure for each number of agents; published figures last, where the metric has some.

    Args:
        metric: a key of ``METRICS``.
        digits: behind the point.
        instances: the set.
        titles: of the policies that were played on it.
        here: their entries.
        others: published results of all sets.
    """
    lines = {}
    for title in titles:
        cells = [here.get((title, agents), {}).get(metric) for agents in instances.agents]
        lines[title] = [page.spread(c["mean"], (c["ci_high"] - c["ci_low"]) / 2, digits) if c else "" for c in cells]
    if metric == "throughput" and instances.published is not None:
        cells_of = [others.get((instances.published, agents), {}) for agents in instances.agents]
        for algorithm in dict.fromkeys(name for cell in cells_of for name in cell):
            found = [cell.get(algorithm) for cell in cells_of]
            lines[f"*{algorithm}, published*"] = [f"*{one['mean']:.3f}*" if one else "" for one in found]
    return lines


def ratio(throughput: dict[str, Any]) -> str:
    """Times the reference, and the interval of the difference; nothing where there is no reference."""
    if not throughput.get(f"times_{REFERENCE}"):
        return ""
    difference = page.span(throughput["difference_ci_low"], throughput["difference_ci_high"], sign="+")
    return f"{throughput[f'times_{REFERENCE}']:.3f} {difference}"


def section(instances: Instances, here: Entries, others: Published) -> list[str]:
    """What the page says of one set."""
    titles = [policy.title for policy in POLICIES if any(name == policy.title for name, _ in here)]
    lines = [f"## {instances.title}", ""]
    for metric, (meaning, digits) in METRICS.items():
        figures = metric_lines(metric, digits, instances, titles, here, others)
        lines += grid(meaning, instances.agents, figures)
    ratios = {
        title: [ratio(here.get((title, agents), {}).get("throughput", {})) for agents in instances.agents]
        for title in titles
        if title != REFERENCE
    }
    lines += grid(f"Goals per step, times `{REFERENCE}` [paired difference]", instances.agents, ratios)
    times = {
        title: [f"{here[title, n]['ms_per_step']:.3f}" if (title, n) in here else "" for n in instances.agents]
        for title in titles
    }
    return [*lines, *grid("ms per step", instances.agents, times)]


def tables(out: Path, published: Path | None) -> None:
    """The figures as JSON and as a page."""
    order = {row.name: number for number, row in enumerate(all_rows())}
    # The rows that the tables hold already may have been played elsewhere.
    written = read_figures(PAGES / "mapf.json")["rows"]
    known = {row_name(entry): entry for entry in [*written, *measured(read_rows(out / "rows.jsonl"))]}
    entries = [known[name] for name in sorted(known.keys() & order.keys(), key=order.__getitem__)]
    others = read_published(published)
    lines = [HEADING]
    for key, instances in SETS.items():
        here = {(entry["policy"], entry["agents"]): entry for entry in entries if entry["instances"] == key}
        if here:
            lines += section(instances, here, others)
    write_figures(PAGES / "mapf.json", "mapf", {"episodes": EPISODES, "rows": entries})
    page.write(PAGES / "mapf.md", lines)


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
