"""Twin against SUMO: flow, speed and headways for the same demand, 100 seeds, both backends, with 95 % intervals.

    .venv/bin/python scripts/reproduce cav_twin [--seeds 100] [--presets hard,flow]

Rows: presets by human drivers by who drives the automated cars. Metrics are paired by seed. Headways are those 50 m
behind the acceleration lane; their distance is that of Kolmogorov and Smirnov, with an interval from seeds drawn again,
beside the distance between two halves of SUMO's own seeds. Writes docs/benchmarks/cav_twin.json; rows that are in the
file are kept, so delete it to make all of them again. Minutes on one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.runner import PAGES, read_figures, write_figures

if TYPE_CHECKING:
    from scenarios.cav_merging.compare import Floats
    from scenarios.cav_merging.config import CavConfig

METRICS = ("flow_veh_per_h", "mean_speed_mps", "merged_share", "travel_time_s", "collision_rate")
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
RESAMPLES = 1000

# Worker processes import this file too and are to stay free of torch: the functions that do the work bring it along.


def distance(a: Floats, b: Floats) -> float:
    """Largest difference of the two empirical distribution functions; NaN if one of the samples is empty."""
    import numpy as np

    if not len(a) or not len(b):
        return float("nan")
    grid = np.concatenate((a, b))
    below = [np.searchsorted(np.sort(sample), grid, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def headways(twin: Sequence[Floats], sumo: Sequence[Floats]) -> dict[str, dict[str, float]]:
    """Quantiles in seconds, and the distance of the distributions with its interval over seeds."""
    import numpy as np

    pooled = {"twin": np.concatenate(twin), "sumo": np.concatenate(sumo)}
    draw = np.random.default_rng(0)
    again = []
    for _ in range(RESAMPLES):
        chosen = draw.integers(0, len(twin), len(twin))
        drawn = [np.concatenate([sample[i] for i in chosen]) for sample in (twin, sumo)]
        again.append(distance(drawn[0], drawn[1]))
    low, high = np.nanquantile(again, (0.025, 0.975))
    figures: dict[str, dict[str, float]] = {
        name: {"n": len(values)} | {f"q{round(100 * q)}": round(float(np.quantile(values, q)), 3) for q in QUANTILES}
        for name, values in pooled.items()
    }
    figures["ks"] = {
        "value": round(distance(pooled["twin"], pooled["sumo"]), 4),
        "ci_low": round(float(low), 4),
        "ci_high": round(float(high), 4),
        "halves_of_sumo": round(distance(np.concatenate(sumo[0::2]), np.concatenate(sumo[1::2])), 4),
    }
    return figures


def world(preset: str, **options: str) -> CavConfig:
    """The world of a preset without its curriculum."""
    from marl.api import configure
    from scenarios.cav_merging.scenario import SCENARIO

    config: CavConfig = SCENARIO.held_out(configure(SCENARIO.name, preset=preset).world)
    return config.model_copy(update=options)


def row(preset: str, drivers: str, policy: str, seeds: Sequence[int]) -> dict[str, Any]:
    """One row of the table."""
    from marl.evaluation.statistics import estimate, mean, paired_difference
    from scenarios.cav_merging.compare import play

    twin, sumo = (play(world(preset, backend=backend, drivers=drivers), policy, seeds) for backend in ("twin", "sumo"))
    kept = sumo.metrics["lost"] == 0.0
    found: dict[str, Any] = {"preset": preset, "drivers": drivers, "policy": policy, "seeds": len(seeds)}
    found["lost"] = int((~kept).sum())
    for name in METRICS:
        a, b = twin.metrics[name][kept], sumo.metrics[name][kept]
        estimates = {
            "twin": estimate(a, mean), "sumo": estimate(b, mean), "difference": paired_difference(a, b, mean),
        }  # fmt: skip
        found[name] = {
            key: {"mean": round(e.value, 4), "ci_low": round(e.low, 4), "ci_high": round(e.high, 4)}
            for key, e in estimates.items()
        }
    chosen = [i for i in range(len(seeds)) if kept[i]]
    found["headway_s"] = headways([twin.headways[i] for i in chosen], [sumo.headways[i] for i in chosen])
    return found


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--presets", default="hard,flow")
    parser.add_argument("--out", type=Path, default=PAGES / "cav_twin.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    before = read_figures(arguments.out)["rows"]
    known = {(made["preset"], made["drivers"], made["policy"], made["seeds"]): made for made in before}
    cases = (arguments.presets.split(","), ("timid", "assertive"), ("sumo_default", "idm_gap_acceptance"))
    for preset, drivers, policy in itertools.product(*cases):
        made = known.get((preset, drivers, policy, arguments.seeds))
        rows.append(made or row(preset, drivers, policy, range(10_000, 10_000 + arguments.seeds)))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
        write_figures(arguments.out, "cav_twin", {"rows": rows}, indent=2)


if __name__ == "__main__":
    main()
