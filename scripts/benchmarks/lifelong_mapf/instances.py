"""Play the instances of others (League of Robot Runners, SILLM, MovingAI) beside the figures published for them.

    scripts/reproduce instances [--instances DIR] [--policies A,B] [--only NAME] [--large]

DIR holds the instances, by default ``../shared/instances`` beside the repository; what is not there is skipped, and
what has been played is not played again (``--anew`` plays it). Every episode is saved as a plan, which is then judged
by the validator that shares nothing with the world: a row is *valid* if it found no fault and counted as many tasks.
Writes docs/benchmarks/mapf_instances.json and .md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from marl import api
from marl.errors import UserError
from scenarios.lifelong_mapf.baselines import BASELINES
from scripts.benchmarks import page
from scripts.benchmarks.runner import PAGES, REPO, prepare, read_figures, write_figures

TARGET = PAGES / "mapf_instances.json"
#: Tasks that the best known solutions of the league finish, with headings (MAPF-Competition/Benchmark-Archive).
BEST_KNOWN = {"MR23-I-03": 3042, "MR23-I-04": 1741, "MR23-I-05": 7432, "MR23-I-10": 194677}
BEST_KNOWN |= {"RANDOM-01": 696, "RANDOM-02": 1260}
#: Goals per step of the learned policy with static guidance ("Deploying Ten Thousand Robots", ICRA 2025, table IV).
SILLM = {"sortation_small": 16.52, "warehouse_small": 14.28, "Paris_1_256_small": 8.85}
#: Policies of robots that do not turn, and of those that do.
MOVES = ("pibt", "guided_pibt", "windowed", "guided_search", "chains")
TURNING = ("pibt", "guided_pibt", "chains")
#: Instances that take many minutes.
LARGE = ("MR23-I-10",)
#: The numbers of agents of the one-shot scenario, and its steps.
ONE_SHOT, ONE_SHOT_STEPS = (100, 200, 400), 512


@dataclass(frozen=True)
class Instance:
    """One instance as it is played. options: of ``marl.api.evaluate``. published: in the unit of the primary metric."""

    group: str
    name: str
    motion: str
    steps: int
    options: dict[str, Any]
    published: float | None = None
    overrides: tuple[str, ...] = field(default=())


def league(folder: Path, year: str, turning_only: bool) -> Iterator[Instance]:
    """The problems of a year with official steps; those of 2023 without headings as well, which is easier."""
    if not (folder / f"lorr{year}" / "simulation_time.json").is_file():
        return
    steps = json.loads((folder / f"lorr{year}" / "simulation_time.json").read_text())
    for path in sorted((folder / f"lorr{year}").glob("*.domain/*.json")):
        official = steps[path.stem.removeprefix("MR23-")]
        best = BEST_KNOWN.get(path.stem)
        for motion in ("turning",) if turning_only else ("turning", "moves"):
            published = best / official if best is not None and motion == "turning" else None
            yield Instance(f"LoRR {year}", path.stem, motion, official, {"problem": str(path)}, published)


def sillm(folder: Path, scratch: Path) -> Iterator[Instance]:
    """Four instances of 600 robots on each map; they come as starts and tasks, for which problem files are written."""
    for name, published in SILLM.items():
        for agents in sorted((folder / "sillm" / name).glob("*.agents")):
            number = agents.stem.partition("_")[0]
            files = {"mapFile": f"{name}.map", "agentFile": agents.name, "taskFile": f"{number}.tasks"}
            header: dict[str, Any] = {key: str((agents.parent / file).resolve()) for key, file in files.items()}
            path = scratch / f"{name}-{number}.json"
            path.write_text(json.dumps(header | {"teamSize": 600, "taskAssignmentStrategy": "roundrobin"}))
            yield Instance("SILLM", f"{name}-{number}", "moves", 500, {"problem": str(path)}, published)


def one_shot(folder: Path) -> Iterator[Instance]:
    """MovingAI's scenario; agents stay on their goals."""
    path = folder / "movingai" / "random-32-32-20-random-1.scen"
    if path.is_file():
        for agents in ONE_SHOT:
            options = {"tasks": str(path), "agents": agents}
            more = ("world.on_target=nothing",)
            yield Instance("one-shot", f"{path.stem}, {agents}", "moves", ONE_SHOT_STEPS, options, None, more)


def play(instance: Instance, policy: str) -> dict[str, Any]:
    """Figures of one episode in a process of its own, whose memory is measured."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        options: dict[str, Any] = {**instance.options, "motion": instance.motion}
        results = api.evaluate(
            "lifelong_mapf",
            [policy],
            seeds=[0],
            save_plan=plan,
            horizon=instance.steps,
            overrides=["world.central_state=false", *instance.overrides],
            **options,
        )
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        judged = api.replay("lifelong_mapf", plan, overrides=list(instance.overrides), **options)
    figures = {row.metric: row.mean for row in results.rows}
    row = {key: value for key, value in asdict(instance).items() if key not in ("options", "overrides")}
    return row | {
        "policy": policy,
        "figures": figures,
        "faults": list(judged.faults),
        "tasks": judged.figures.get("tasks_finished"),
        "forward_share": judged.figures.get("forward_share"),
        "ms": results.rows[0].ms_per_step,
        "mib": memory,
    }


def valid(row: dict[str, Any]) -> bool:
    """Whether the validator found no fault and counted what the world did."""
    counted = (
        "throughput" not in row["figures"] or abs(row["figures"]["throughput"] * row["steps"] - row["tasks"]) < 0.5
    )
    return not row["faults"] and counted


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    """The page."""
    lines = [
        "# Lifelong path finding: instances of others",
        "",
        "Written by `scripts/reproduce instances`. One core; *valid*: the plan, judged by a validator that shares",
        "nothing with the world, has no fault and as many tasks; ms: CPU per step for all robots; MiB: peak of the",
        "process. Published: best known solutions of the League of Robot Runners, and of SILLM the learned policy with",
        "static guidance. Without headings the league's problems are easier.",
    ]
    for group in dict.fromkeys(row["group"] for row in rows):
        here = [row for row in rows if row["group"] == group]
        lines += ["", f"## {group}", ""]
        if group == "one-shot":
            head = ["agents", "policy", "home", "makespan", "sum of costs", "valid", "ms", "MiB"]
            lines += page.table(head, [_one_shot(row) for row in here])
        else:
            head = ["instance", "heading", "steps", "policy", "tasks", "a step", "published", "oldest", "3 x p95"]
            lines += page.table([*head, "drives", "valid", "ms", "MiB"], [_lifelong(row) for row in here])
    return lines


def _cost(row: dict[str, Any]) -> list[str]:
    return ["yes" if valid(row) else "**no**", f"{row['ms']:.1f}", f"{row['mib']:.0f}"]


def _one_shot(row: dict[str, Any]) -> list[str]:
    found = row["figures"]
    home = f"{found['arrived_share']:.3f}"
    counts = [f"{found[name]:.0f}" for name in ("makespan", "sum_of_costs")]
    return [row["name"].rpartition(", ")[2], row["policy"], home, *counts, *_cost(row)]


def _lifelong(row: dict[str, Any]) -> list[str]:
    found = row["figures"]
    published = "" if row["published"] is None else f"{row['published']:.2f}"
    drives = "" if row["forward_share"] is None else f"{row['forward_share']:.2f}"
    heading = "yes" if row["motion"] == "turning" else "no"
    ages = [f"{found['oldest_goal_steps']:.0f}", f"{3 * found['latency_p95_steps']:.0f}"]
    rate = f"{found['throughput']:.2f}"
    first = [row["name"], heading, str(row["steps"]), row["policy"], f"{row['tasks']:.0f}", rate, published]
    return [*first, *ages, drives, *_cost(row)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=Path, default=REPO.parent / "shared" / "instances", help="their folder")
    parser.add_argument("--policies", help="by default all that can play an instance")
    parser.add_argument("--only", default="", help="instances whose group or name holds this text")
    parser.add_argument("--large", action="store_true", help=f"{', '.join(LARGE)} as well")
    parser.add_argument("--anew", action="store_true", help="play what has been played before")
    arguments = parser.parse_args()
    prepare()
    if not arguments.instances.is_dir():
        print(f"{arguments.instances} is not there: nothing to play")
        return
    rows = read_figures(TARGET).get("rows", [])
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.instances
        found = [*league(folder, "2023", False), *league(folder, "2024", True), *sillm(folder, Path(scratch))]
        for instance in [*found, *one_shot(folder)]:
            if arguments.only not in f"{instance.group} {instance.name}" or (
                instance.name in LARGE and not arguments.large
            ):
                continue
            default = TURNING if instance.motion == "turning" else MOVES
            wanted = arguments.policies.split(",") if arguments.policies else [n for n in default if n in BASELINES]
            for policy in wanted:
                rows = _played(instance, policy, rows, arguments.anew)


def _played(instance: Instance, policy: str, rows: list[dict[str, Any]], anew: bool) -> list[dict[str, Any]]:
    """The rows with one more, unless it is there already."""
    key = (instance.group, instance.name, instance.motion, policy)

    def key_of(row: dict[str, Any]) -> tuple[str, ...]:
        return row["group"], row["name"], row["motion"], row["policy"]

    if not anew and any(key_of(row) == key for row in rows):
        return rows
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            row = pool.submit(play, instance, policy).result()
    except UserError as error:
        print(f"{instance.name}, {policy}: {error}")
        return rows
    rows = [*(other for other in rows if key_of(other) != key), row]
    print(json.dumps({name: row[name] for name in ("name", "motion", "policy", "tasks", "ms", "faults")}), flush=True)
    write_figures(TARGET, "instances", {"rows": rows})
    page.write(
        TARGET.with_suffix(".md"), lines_of(sorted(rows, key=lambda row: (row["group"], row["name"], row["motion"])))
    )
    return rows


if __name__ == "__main__":
    main()
