"""Traffic lights on sumo-rl's 4x4 grid: trains MAPPO, compares it with fixed-time and max-pressure control.

    .venv/bin/python scripts/reproduce traffic_signals --out runs/traffic_signals [--seeds 1] [--instances 8]

A run takes about 8 CPU-minutes; those that are in --out already are kept. Writes docs/benchmarks/traffic_signals.json:
means with 95 % intervals over the instances, for each training seed.
"""

import argparse
from pathlib import Path
from typing import Any

from scripts.benchmarks import page
from scripts.benchmarks.runner import PAGES, write_figures

BASELINES = ("random", "fixed_time", "max_pressure")
METRICS = ("mean_waiting_s", "queue_veh", "mean_speed_mps", "arrived_veh")


def main() -> None:
    # Worker processes import this file too and are to stay free of torch.
    from marl.api import configure, evaluate
    from marl.training.run import train

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=1, help="training runs")
    parser.add_argument("--instances", type=int, default=8, help="held-out seeds, one process each")
    arguments = parser.parse_args()
    folders = [arguments.out / f"seed-{seed}" for seed in range(arguments.seeds)]
    for seed, folder in enumerate(folders):
        if not folder.exists():
            train(configure("traffic_signals", overrides=[f"seed={seed}"]), folder, live=False)
    policies = [*BASELINES, *map(str, folders)]
    results = evaluate("traffic_signals", policies, seeds=range(arguments.instances))
    names = {str(folder): f"mappo, seed {seed}" for seed, folder in enumerate(folders)}
    rows: list[dict[str, Any]] = [
        {
            "policy": names.get(row.policy, row.policy),
            "metric": row.metric,
            "mean": row.mean,
            "ci_low": row.ci_low,
            "ci_high": row.ci_high,
            "n": row.n,
        }
        for row in results.rows
        if row.metric in METRICS
    ]
    write_figures(PAGES / "traffic_signals.json", "traffic_signals", {"net": "4x4", "rows": rows}, indent=2)
    lines = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        own = {row["metric"]: row for row in rows if row["policy"] == policy}
        cells = [f"{r['mean']:.1f} {page.span(r['ci_low'], r['ci_high'], 1)}" for r in (own[name] for name in METRICS)]
        lines.append([policy, *cells])
    print("\n".join(page.table(["policy", *METRICS], lines)))


if __name__ == "__main__":
    main()
