"""The pictures of the README: ``docs/pictures``, moving ones by ``marl watch``, still ones from the same recordings.

.venv/bin/python scripts/assets/pictures.py [grid road talk flow diagram success] [--out DIR]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from marl import api
from marl.scenario import load_scenario
from marl.training.report import record
from marl.training.tracking import read_metrics
from scripts.benchmarks import page
from scripts.benchmarks.runner import REPO, marl, prepare, train

WAREHOUSE = ["--preset", "warehouse", "--agents", "60"]


def grid(out: Path) -> None:
    """A warehouse in motion."""
    marl(["watch", "guided_pibt", "--scenario", "lifelong_mapf", *WAREHOUSE, "--gif", str(out / "grid.gif")])


def road(out: Path) -> None:
    """An on-ramp in motion; the lines before automated cars are where they will be."""
    marl(["watch", "cav_merging/hard", "--gif", str(out / "road.gif")])


def talk(out: Path) -> None:
    """A planner, its sub-agents and a tool."""
    words = ["--scenario", "agent_hierarchy", "--preset", "full", "--seed", "8"]
    marl(["watch", "flawless", *words, "--gif", str(out / "talk.gif")])


def recorded(scenario: str, policy: str, seed: int = 0, **configuration: Any) -> Any:
    """A recorder of one episode, and its world's configuration."""
    found = load_scenario(scenario)
    config = api.configure(scenario, **configuration)
    return record(found, found.held_out(config.world), api.policy_builder(found, policy), seed)


def flow(out: Path) -> None:
    """How often each cell of the warehouse was entered, by the plain rule and by the guided one."""
    figure, axes = page.subplots(2, 9.0, 3.4, constrained_layout=True)
    options = {"agents": 120, "horizon": 512}
    for axis, policy in zip(axes, ("pibt", "guided_pibt"), strict=True):
        seen = recorded("lifelong_mapf", policy, preset="warehouse", options=options)
        image = axis.imshow(np.where(seen.blocked, np.nan, seen.visits()), cmap="viridis")
        axis.set_title(f"{policy}: {seen.figures['throughput']:.2f} goals a step", fontsize=10)
        axis.set_axis_off()
        figure.colorbar(image, ax=axis, shrink=0.8)
    page.save(figure, out / "flow.svg")


def diagram(out: Path) -> None:
    """Where cars were over time: automated ones blue, human ones brown."""
    figure, axes = page.subplots(2, 9.0, 3.4, sharey=True, constrained_layout=True)
    for axis, policy in zip(axes, ("sumo_default", "cav_merging/hard"), strict=True):
        seen = recorded("cav_merging", policy, 3, preset="hard")
        for track, automated in seen.tracks():
            axis.plot(*track, color="tab:blue" if automated else "tab:brown", linewidth=1.2)
        axis.set_title(policy, fontsize=10)
        axis.set_xlabel("s")
    axes[0].set_ylabel("place along the road, m")
    page.save(figure, out / "diagram.svg")


def success(out: Path) -> None:
    """What a minute and a half of training does to a planner and its sub-agents."""
    run = REPO / "runs" / "pictures" / "quick"
    train(run, ["agent_hierarchy", "--preset", "quick"])
    rows = [row for row in read_metrics(run / "metrics.csv") if "evaluation/success_greedy" in row]
    figure, axis = page.subplots(1, 9.0, 2.8, constrained_layout=True)
    seconds = [row["cpu_seconds"] for row in rows]
    for name in ("greedy", "sampled"):
        axis.plot(seconds, [100 * row[f"evaluation/success_{name}"] for row in rows], "o-", markersize=3, label=name)
    axis.set_xlabel("CPU-seconds")
    axis.set_ylabel("unseen questions answered, %")
    axis.legend(fontsize=8)
    page.save(figure, out / "success.svg")


PICTURES: dict[str, Callable[[Path], None]] = {
    made.__name__: made for made in (grid, road, talk, flow, diagram, success)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*PICTURES], metavar="NAME", help=f"of {', '.join(PICTURES)}")
    parser.add_argument("--out", type=Path, default=REPO / "docs" / "pictures")
    arguments = parser.parse_args()
    prepare()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        PICTURES[name](arguments.out)


if __name__ == "__main__":
    main()
