"""guided_search beside windowed at equal milliseconds, and what more work brings: docs/benchmarks/mapf_search.md.

    scripts/reproduce mapf_search equal --maps DIR [--cells REGEX] [--episodes 64]   the benchmark's maps
    scripts/reproduce mapf_search budgets                              windows x iterations, a generated map
    scripts/reproduce mapf_search page

equal: how many iterations windowed gets is chosen by time alone, on other episodes, where both play in turns; then both
play in turns of eight episodes on the benchmark's maps (see ``scripts/reproduce mapf``). Times are CPU milliseconds of
the policy for all agents and one step, one thread, the median of the turns: compare within a line.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from marl import api
from marl.envs.batched import BatchedEnv
from marl.evaluation.runner import EpisodeFigures, run_policy
from marl.evaluation.statistics import estimate, paired_difference
from marl.scenario import load_scenario
from marl.seeding import seeds_of
from scripts.benchmarks import page
from scripts.benchmarks.runner import PAGES, prepare, read_figures, write_figures

TARGET = PAGES / "mapf_search.json"
SCENARIO = load_scenario("lifelong_mapf")
TURN = 8
#: Windows and iterations of guided_search that are compared.
BUDGETS = ((8, 50), (16, 250))
#: First seeds of the episodes that are judged, and of those that iterations are chosen on.
JUDGED, CHOSEN_ON = 0, 100_000


class Cell(NamedTuple):
    """file: below --maps. vector: of guided_search."""

    file: str
    agents: int
    vector: str


CELLS = {
    "warehouse/128": Cell("03-warehouse/maps.yaml:wfi_warehouse", 128, "search-warehouse"),
    "warehouse/192": Cell("03-warehouse/maps.yaml:wfi_warehouse", 192, "search-warehouse"),
    "random/64": Cell("01-random/maps.yaml", 64, "search-random"),
    "mazes/64": Cell("02-mazes/maps.yaml", 64, "search-maze"),
}
#: The work that is varied.
WORK = ((8, 50), (8, 200), (12, 200), (16, 100), (16, 300), (16, 1000), (24, 300), (24, 1000))


def world(cell: Cell, copies: int, maps: Path | None, steps: int = 256) -> BatchedEnv:
    """The cell's maps, or a generated warehouse with starts and goals that nothing was tuned on."""
    options: dict[str, Any] = {"agents": cell.agents, "horizon": steps}
    lean = ["world.central_state=false", "world.radius=1", "world.bound_share=true"]
    lean.append(f"world.guidance.vector={cell.vector}")
    if maps is not None:
        options["map"] = str(maps / cell.file)
        config = api.configure("lifelong_mapf", options=options, overrides=lean)
        return SCENARIO.make(config.world, copies, torch.device("cpu"))
    generated = ["world.generator={kind: warehouse}", "world.map_pool=1"]
    config = api.configure("lifelong_mapf", options=options, overrides=[*generated, *lean])
    return SCENARIO.make(SCENARIO.held_out(config.world), copies, torch.device("cpu"))


def guided(window: int, iterations: int) -> str:
    return f"guided_search:guidance=world:window={window}:iterations={iterations}"


def plain(cell: Cell, window: int, iterations: int) -> str:
    """windowed as it comes, on the vector that it takes for this kind of map."""
    vector = "warehouse" if cell.vector == "search-warehouse" else "plain"
    return f"windowed:guidance={vector}:window={window}:iterations={iterations}"


def in_turns(
    env: BatchedEnv, policies: tuple[str, ...], episodes: int, begin: int = JUDGED
) -> list[list[EpisodeFigures]]:
    """The turns of each policy: ``env.copies`` episodes, then the next policy, until each played all ``episodes``."""
    builders = [api.policy_builder(SCENARIO, name) for name in policies]
    found: list[list[EpisodeFigures]] = [[] for _ in policies]
    with torch.no_grad():
        for build in builders:
            build(env).act(env.reset(0))  # no timing holds a compilation
        for first in range(0, episodes, env.copies):
            seeds = seeds_of(begin, episodes)[first : first + env.copies]
            for figures, build in zip(found, builders, strict=True):
                figures.append(run_policy(env, build(env), seeds, 1))
    return found


def median_ms(turns: list[EpisodeFigures]) -> float:
    """Of the turns: other work on the machine comes and goes."""
    return statistics.median(figures.ms_per_step for figures in turns)


def iterations_for(cell: Cell, window: int, iterations: int, maps: Path) -> int:
    """How many iterations windowed makes in the time of guided_search."""
    env = world(cell, 4, maps, steps=64)
    low, high = iterations, 3 * iterations
    names = (guided(window, iterations), plain(cell, window, low), plain(cell, window, high))
    wanted, least, most = map(median_ms, in_turns(env, names, 32 if window == 8 else 16, CHOSEN_ON))
    env.close()
    return max(low, math.ceil(low + (high - low) * (wanted - least) / max(most - least, 1e-9)))


def known() -> dict[str, Any]:
    return read_figures(TARGET, {"equal": {}, "budgets": []})


def write(figures: Mapping[str, Any]) -> None:
    write_figures(TARGET, "mapf_search", {key: figures[key] for key in ("equal", "budgets")})


def summary(figures: EpisodeFigures, metric: str) -> list[float]:
    found = estimate(figures.metrics[metric])
    return [round(value, 5) for value in (found.value, found.low, found.high)]


def equal(maps: Path, wanted: str, episodes: int) -> None:
    for name, cell in CELLS.items():
        for window, iterations in BUDGETS:
            key = f"{name}/{window}/{iterations}"
            if not re.search(wanted, key):
                continue
            more = iterations_for(cell, window, iterations, maps)
            env = world(cell, TURN, maps)
            turns = in_turns(env, (guided(window, iterations), plain(cell, window, more)), episodes)
            env.close()
            times = list(map(median_ms, turns))
            ours, other = map(EpisodeFigures.concatenate, turns)
            gain = paired_difference(ours.metrics["throughput"], other.metrics["throughput"])
            row = {
                "window": window,
                "iterations": iterations,
                "windowed_iterations": more,
                "episodes": episodes,
                "difference": [round(value, 5) for value in (gain.value, gain.low, gain.high)],
                "collisions": float(ours.metrics["collisions"].sum() + other.metrics["collisions"].sum()),
            }
            for title, figures, ms in zip(("guided_search", "windowed"), (ours, other), times, strict=True):
                row[title] = {
                    "throughput": summary(figures, "throughput"),
                    "bound_share": summary(figures, "bound_share"),
                    "latency_p95_steps": summary(figures, "latency_p95_steps"),
                    "ms_per_step": round(ms, 4),
                }
            document = known()
            document["equal"][key] = row
            write(document)
            print(key, json.dumps(row), flush=True)


def budgets() -> None:
    """What windows and iterations bring in warehouses with 192 agents, beside the time of pibt:swap=false."""
    cell = CELLS["warehouse/192"]
    env = world(cell, 2, None)
    names = tuple(plain(cell, window, iterations) for window, iterations in WORK)
    rule, *found = in_turns(env, ("pibt:swap=false", *names), 8)
    env.close()
    base = median_ms(rule)
    rows = []
    for (window, iterations), turns in zip(WORK, found, strict=True):
        figures = EpisodeFigures.concatenate(turns)
        rows.append(
            {
                "window": window,
                "iterations": iterations,
                "episodes": 8,
                "throughput": summary(figures, "throughput"),
                "bound_share": summary(figures, "bound_share"),
                "ms_per_step": round(median_ms(turns), 4),
                "times_pibt": round(median_ms(turns) / base, 1),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    write({**known(), "budgets": rows})


def write_page() -> None:
    figures = known()
    lines = [
        "# Search: equal milliseconds, and more work",
        "",
        "Written by `scripts/reproduce mapf_search`. Maps of the POGEMA benchmark, paired episodes of 256 steps, 95 %",
        "intervals; iterations of `windowed` chosen on other episodes so that it takes as long. ms: CPU time of",
        "the policy for all agents and one step, one thread; both played in turns: compare within a line.",
        "",
    ]
    compared = []
    for key in (f"{name}/{window}/{iterations}" for name in CELLS for window, iterations in BUDGETS):
        if key not in figures["equal"]:
            continue
        row, name = figures["equal"][key], ", ".join(key.split("/")[:2])
        ours, other = row["guided_search"], row["windowed"]
        value, low, high = row["difference"]
        compared.append(
            [
                name,
                row["episodes"],
                row["window"],
                f"{ours['throughput'][0]:.3f}, {row['iterations']}",
                f"{ours['ms_per_step']:.3f}",
                f"{other['throughput'][0]:.3f}, {row['windowed_iterations']}",
                f"{other['ms_per_step']:.3f}",
                f"{value:+.3f} {page.span(low, high, sign='+')}",
            ]
        )
    search = ("guided_search, iterations", "ms", "windowed, iterations", "ms")
    lines += page.table(["map, agents", "episodes", "window", *search, "difference"], compared)
    lines += [
        "",
        "What more work brings `windowed` in a generated warehouse with 192 agents (8 episodes), and its time as a",
        "multiple of that of `pibt:swap=false` in the same run:",
        "",
    ]
    work = []
    for row in figures["budgets"]:
        value, low, high = row["throughput"]
        goals, share = page.spread(value, (high - low) / 2, 3), f"{row['bound_share'][0]:.3f}"
        costs = f"{row['ms_per_step']:.2f}", f"{row['times_pibt']:.0f}"
        work.append([row["window"], row["iterations"], goals, share, *costs])
    lines += page.table(["window", "iterations", "goals per step", "share of the bound", "ms", "times pibt"], work)
    page.write(TARGET.with_suffix(".md"), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["equal", "budgets", "page"])
    parser.add_argument("--maps", type=Path, help="equal: folder of the POGEMA benchmark's maps")
    parser.add_argument("--cells", default="", help="equal: only what matches, e.g. 'warehouse/.*/8/'")
    parser.add_argument("--episodes", type=int, default=64, help="equal: paired episodes, a multiple of 8")
    arguments = parser.parse_args()
    prepare()
    if arguments.stage == "equal":
        if arguments.maps is None or not arguments.maps.is_dir():
            parser.error("equal needs --maps DIR, the folder of the POGEMA benchmark's maps")
        equal(arguments.maps, arguments.cells, arguments.episodes)
    elif arguments.stage == "budgets":
        budgets()
    write_page()


if __name__ == "__main__":
    main()
