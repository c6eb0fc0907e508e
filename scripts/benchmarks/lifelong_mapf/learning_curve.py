"""The learning curve of the demo: three seeds by agent-steps and CPU-minutes, with the rules as lines.

    .venv/bin/python scripts/reproduce learning_curve [--seeds 0:3] [--out runs/curve] [--jobs 2]

Trains the preset once per seed (folders that hold a finished run are used again), evaluates every seed and the rules
on held-out instances, paired, and writes docs/benchmarks/learning_curve.json and .svg.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from marl.api import policy_builder
from marl.cli_words import parse_seeds
from marl.evaluation.runner import evaluate
from marl.evaluation.statistics import estimate
from marl.scenario import load_scenario
from marl.training.policy import load_policy
from marl.training.provenance import provenance
from marl.training.run_folder import read_config
from marl.training.tracking import read_metrics
from scripts.benchmarks import page
from scripts.benchmarks.runner import PAGES, prepare, side_by_side, train, write_figures

METRIC = "throughput"
#: The one that the demo begins as, first.
RULES = ("guided_pibt", "pibt")


def smooth(values: np.ndarray, width: int = 15) -> np.ndarray:
    """Running mean over finished episodes; shorter at the beginning."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - width, 0)
    return np.asarray((sums[last] - sums[first]) / (last - first))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:3")
    parser.add_argument("--out", type=Path, default=Path("runs/curve"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one core each")
    arguments = parser.parse_args()
    seeds = parse_seeds(arguments.seeds)
    prepare()
    folders = [arguments.out / f"seed-{seed}" for seed in seeds]
    runs = [["lifelong_mapf", "--preset", "demo", "--set", f"seed={seed}"] for seed in seeds]
    side_by_side([partial(train, *run) for run in zip(folders, runs, strict=True)], arguments.jobs)

    scenario = load_scenario("lifelong_mapf")
    config = read_config(folders[0])
    world = scenario.held_out(config.world)
    learned = {f"mappo, seed {seed}": load_policy(folder).bind for seed, folder in zip(seeds, folders, strict=True)}
    policies = {**learned, **{name: policy_builder(scenario, name) for name in RULES}}
    instances = scenario.instance(world)
    results = evaluate(scenario, policies, [(instances, world)], range(config.evaluation.seeds))
    rows = {row.policy: row for row in results.rows if row.metric == METRIC}
    over_seeds = estimate(np.array([rows[name].mean for name in learned]))
    pairs = [results.difference(name, rule, METRIC, instances) for name in learned for rule in RULES]
    figures = {
        "metric": METRIC,
        "seeds": seeds,
        "mean_over_seeds": over_seeds.value,
        "interval_over_seeds": [over_seeds.low, over_seeds.high],
        "rows": [
            {"policy": row.policy, "mean": row.mean, "ci_low": row.ci_low, "ci_high": row.ci_high, "n": row.n}
            for row in rows.values()
        ],
        "differences": [
            {"policy": pair.a, "rule": pair.b, "mean": pair.difference, "ci_low": pair.ci_low, "ci_high": pair.ci_high}
            for pair in pairs
        ],
        "cpu_minutes": [read_metrics(folder / "metrics.csv")[-1]["cpu_seconds"] / 60 for folder in folders],
        "provenance": provenance(config, []),
    }
    write_figures(PAGES / "learning_curve.json", "learning_curve", figures, indent=2)

    _draw(folders, {name: rows[name].mean for name in RULES})
    sys.stdout.write(json.dumps({key: figures[key] for key in ("mean_over_seeds", "differences")}) + "\n")


def _draw(folders: Sequence[Path], rules: Mapping[str, float]) -> None:
    """The curves of the runs over agent-steps and over CPU time; rules: name -> its mean, a grey line each."""
    figure, axes = page.subplots(2, 10, 3.6, sharey=True, constrained_layout=True)
    for axis, column, scale, label in (
        (axes[0], "agent_steps", 1e6, "million agent-steps"),
        (axes[1], "cpu_seconds", 60.0, "CPU-minutes"),
    ):
        for folder in folders:
            done = [row for row in read_metrics(folder / "metrics.csv") if f"episode/{METRIC}" in row]
            x = np.array([row[column] for row in done]) / scale
            axis.plot(
                x,
                smooth(np.array([row[f"episode/{METRIC}"] for row in done])),
                label=f"mappo, {folder.name.replace('-', ' ')}",
            )
        for (name, mean), style in zip(rules.items(), ("--", ":"), strict=True):
            axis.axhline(mean, color="grey", linestyle=style, label=name)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("goals reached per step")
    axes[1].legend(fontsize=8)
    page.save(figure, PAGES / "learning_curve.svg")


if __name__ == "__main__":
    main()
