"""Checks of what systems claim, on tiny worlds: five seeds, differences paired by seed, 95 % intervals.

    scripts/reproduce systems                     all checks that are made here, and the pages
    scripts/reproduce systems subpo remax         these alone
    scripts/reproduce systems pages               the pages docs/systems alone

Runs lie in --out; finished ones are used again and broken-off ones resumed. Figures go to docs/benchmarks/systems.json.
Checks that need a larger world have a command of their own, which is named.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from scripts.benchmarks.runner import CONFIG, METRICS, prepare, read_figures, write_figures
from scripts.benchmarks.systems.trials import TRIALS, Arm, Trial

RUNS = Path("runs/systems")


def folder_of(out: Path, arm: Arm, seed: int) -> Path:
    """Where a run is: arms of several checks that are the same run share it."""
    words = re.sub(r"[^A-Za-z0-9.,-]+", "_", "_".join([arm.preset, arm.system, *arm.settings])).replace(
        "algorithm.", ""
    )
    return out / words[:180] / f"seed-{seed}"


def finished(folder: Path) -> bool:
    """Whether a run has made all its steps, and was evaluated after the last one."""
    from marl.training.run_folder import read_config
    from marl.training.tracking import read_metrics

    if not (folder / METRICS).is_file():
        return False
    last = read_metrics(folder / METRICS)[-1:]
    judged = any(name.startswith("evaluation/") for row in last for name in row)
    return judged and last[0]["agent_steps"] >= read_config(folder).total_steps


def run(arm: Arm, seed: int, folder: Path) -> None:
    """Make a run in this process, or go on with it; a finished one is left alone."""
    from marl.api import configure
    from marl.training.run import resume, train

    if finished(folder):
        return
    if (folder / CONFIG).is_file():
        resume(folder, live=False)
        return
    words = [*arm.settings, f"seed={seed}"]
    train(configure("miniatures", preset=arm.preset, system=arm.system, overrides=words), folder, live=False)


def measured(trial: Trial, folder: Path) -> dict[str, float]:
    """The figures of a finished run: the last value of each column."""
    from marl.training.tracking import read_metrics

    rows = read_metrics(folder / METRICS)
    found = {}
    for name, column in trial.columns.items():
        values = [row[column] for row in rows if column in row]
        found[name] = values[-1] if values else float("nan")
    return found


def check(name: str, trial: Trial, out: Path, seeds: range) -> dict[str, Any]:
    """Make the runs of a check that are missing; returns its figures."""
    runs: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        for label, arm in trial.arms.items():
            folder = folder_of(out, arm, seed)
            run(arm, seed, folder)
            runs.setdefault(label, []).append(measured(trial, folder))
            print(name, label, seed, runs[label][-1], flush=True)
    return figures_of(trial, runs)


def figures_of(trial: Trial, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """What a page shows of a check: a table of means, and differences paired by seed."""
    from marl.evaluation.statistics import over_seeds
    from scripts.benchmarks.page import spread

    table = [
        [label, *(spread(*over_seeds([run[column] for run in found]), digits=3) for column in trial.columns)]
        for label, found in runs.items()
    ]
    paired = []
    for first, second, column in trial.paired:
        each = [a[column] - b[column] for a, b in zip(runs[first], runs[second], strict=True)]
        mean, half = over_seeds(each)
        paired.append(f"{first} less {second}, {column}: {mean:+.3f} ± {half:.3f} ({len(each)} seeds)")
    return {"columns": list(trial.columns), "table": table, "paired": paired, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="systems; none: all that are checked here; pages: the pages alone")
    parser.add_argument("--out", type=Path, default=RUNS, help="folder for the runs; what is there is used")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    arguments = parser.parse_args()
    prepare()
    from marl.systems.registry import SYSTEMS
    from scripts.benchmarks.systems import pages

    names = [name for name in arguments.names if name != "pages"] or ([] if arguments.names else list(TRIALS))
    for name in names:
        if name not in TRIALS:
            system = SYSTEMS.get(name)
            elsewhere = (
                f"its check is made by '{system.check.command}'" if system and system.check else "it has no check"
            )
            parser.error(f"'{name}' is not checked here: {elsewhere if system else 'there is no such system'}")
    for name in names:
        figures = read_figures(pages.FIGURES, {"systems": {}})["systems"]
        figures[name] = check(name, TRIALS[name], arguments.out, range(arguments.seeds))
        write_figures(pages.FIGURES, "systems", {"threads": 1, "systems": figures})
    pages.write()


if __name__ == "__main__":
    main()
