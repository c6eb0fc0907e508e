"""The learning curve of the demo: how far its policy is ahead of the rule it begins as, three seeds.

    .venv/bin/python scripts/reproduce learning_curve [--seeds 0:3] [--out runs/curve] [--jobs 2]

Trains the preset once per seed (folders that hold a finished run are used again), judges its checkpoints and the rules
on the same held-out instances, and writes docs/benchmarks/learning_curve.json and .svg.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from marl.api import policy_builder
from marl.cli_words import parse_seeds
from marl.evaluation.runner import evaluate
from marl.evaluation.statistics import estimate
from marl.scenario import load_scenario
from marl.training.checkpoint import CheckpointStore, load
from marl.training.policy import LearnedPolicy
from marl.training.provenance import provenance
from marl.training.run_folder import read_config
from marl.training.tracking import read_metrics
from scripts.benchmarks import page
from scripts.benchmarks.runner import PAGES, overrides, prepare, side_by_side, train, write_figures

METRIC = "throughput"
#: The one that the demo begins as, first.
RULES = ("guided_pibt", "pibt")
#: Checkpoints of a run: every so many iterations, all of them kept.
CHECKPOINTS = ("checkpoint.every_iterations=8", "checkpoint.keep=20")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:3")
    parser.add_argument("--out", type=Path, default=Path("runs/curve"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one core each")
    arguments = parser.parse_args()
    seeds = parse_seeds(arguments.seeds)
    prepare()
    folders = [arguments.out / f"seed-{seed}" for seed in seeds]
    runs = [["lifelong_mapf", "--preset", "demo", *overrides([f"seed={seed}", *CHECKPOINTS])] for seed in seeds]
    side_by_side([partial(train, *run) for run in zip(folders, runs, strict=True)], arguments.jobs)

    curves = [_curve(folder) for folder in folders]
    last = estimate(np.array([curve["points"][-1]["mean"] for curve in curves]))
    config = read_config(folders[0])
    figures = {
        "metric": METRIC,
        "seeds": seeds,
        "mean_over_seeds": last.value,
        "interval_over_seeds": [last.low, last.high],
        "rules": curves[0]["rules"],
        "curves": [{"seed": seed, "points": curve["points"]} for seed, curve in zip(seeds, curves, strict=True)],
        "provenance": provenance(config, []),
    }
    write_figures(PAGES / "learning_curve.json", "learning_curve", figures, indent=2)
    _draw(figures["curves"])
    ends = [curve["points"][-1] for curve in curves]
    sys.stdout.write(json.dumps({"mean_over_seeds": last.value, "rules": figures["rules"], "ends": ends}) + "\n")


def _curve(folder: Path) -> dict[str, Any]:
    """``points``, one for each checkpoint of a run, and the means of ``rules``, all on the same held-out instances."""
    scenario, config, store = load_scenario("lifelong_mapf"), read_config(folder), CheckpointStore(folder)
    # The first checkpoint was written before any iteration.
    spent = {int(row["iteration"]): row["cpu_seconds"] for row in read_metrics(folder / "metrics.csv")}
    steps = sorted(store.steps())
    trees = {step: load(store.path(step))[0] for step in steps}
    learned = {
        f"iteration {step}": LearnedPolicy(
            folder.name, config, tree["algorithm"]["policy"], tree.get("modules", {})
        ).bind
        for step, tree in trees.items()
    }
    world = scenario.held_out(config.world)
    instances = scenario.instance(world)
    policies = {**learned, **{name: policy_builder(scenario, name) for name in RULES}}
    results = evaluate(scenario, policies, [(instances, world)], range(config.evaluation.seeds))
    means = {row.policy: row.mean for row in results.rows if row.metric == METRIC}
    points = []
    for step, name in zip(steps, learned, strict=True):
        pair = results.difference(name, RULES[0], METRIC, instances)
        ahead: dict[str, Any] = {
            "ahead": pair.difference,
            "ci_low": pair.ci_low,
            "ci_high": pair.ci_high,
            "episodes": pair.n,
        }
        if step != steps[0]:
            own = results.difference(name, next(iter(learned)), METRIC, instances)
            ahead["learned"] = [own.difference, own.ci_low, own.ci_high]
        points.append({"iteration": step, "cpu_seconds": spent.get(step, 0.0), "mean": means[name], **ahead})
    return {"points": points, "rules": {name: means[name] for name in RULES}}


def _draw(curves: list[dict[str, Any]]) -> None:
    """How far each seed is ahead of the first rule, over CPU time, with 95 % intervals."""
    figure, axes = page.subplots(1, 8, 3.2, constrained_layout=True)
    axes.axhline(0.0, color="grey", linestyle="--", label=f"{RULES[0]}, after which it is made")
    for place, curve in enumerate(curves):
        points = curve["points"]
        x = [point["cpu_seconds"] for point in points]
        y = [point["ahead"] for point in points]
        (drawn,) = axes.plot(x, y, marker="o", markersize=3, label=f"learned, seed {curve['seed']}")
        end = points[-1]
        error = [[end["ahead"] - end["ci_low"]], [end["ci_high"] - end["ahead"]]]
        axes.errorbar([x[-1] + place], [end["ahead"]], yerr=error, color=drawn.get_color(), capsize=3)
    axes.set_xlabel("CPU-seconds of training")
    axes.set_ylabel("goals a step, ahead of the rule")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    page.save(figure, PAGES / "learning_curve.svg")


if __name__ == "__main__":
    main()
