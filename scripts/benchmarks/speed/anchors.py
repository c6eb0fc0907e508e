"""Ours and theirs side by side: the same work in turns, one thread each, per CPU-second.

    .venv/bin/python scripts/reproduce speed --anchors FOLDER --environments FOLDER [--only NAME,...] [--rounds 5]
    .venv/bin/python scripts/reproduce speed --own         # the plainest loop, the cost of planning
    .venv/bin/python scripts/reproduce speed --scaling     # curves over sizes, and where training spends its time
    .venv/bin/python scripts/reproduce speed --page        # write the page again from the stored figures

--anchors: the folder of scripts that measure established packages, with ``requirements/NAME.txt`` beside them.
--environments: a virtual environment is made here for each of them, once (NAME is in the table below).
VMAS itself is measured where the package ``vmas`` is installed beside ours: --marl-python names that interpreter.

Figures are kept in docs/benchmarks/speed.json and scaling.json, a row for each comparison, so that one can be measured
again without the others; docs/benchmarks/speed.md is written from them, with its plots.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from marl.bench import bench
from marl.bench.clock import device_name
from marl.bench.rows import SCHEMA_VERSION, rounded
from marl.bench.sides import Side, compare, environment, ratio_row
from marl.errors import UserError
from marl.training.process import prepare_process
from scripts.benchmarks.lifelong_mapf import end_to_end, planning_cost
from scripts.benchmarks.runner import PAGES, REPO
from scripts.benchmarks.speed.page import write_page

VMAS = "scenarios.vmas_tasks.scenario:SCENARIO"
#: Of lifelong path finding, world and observations alone.
SEEN = ["lifelong_mapf", "--parts", "world", "--repeats", "3"]


@dataclass(frozen=True)
class Comparison:
    """One row.

    anchor: its environment's and script's name. theirs, ours: what follows the script, and ``marl bench``.
    row: of ours. read: their figure. per: agent-steps of ours that one of theirs counts. differences: of the work.
    """

    unit: str
    target: float
    anchor: str
    script: str
    theirs: list[str]
    ours: list[str]
    row: str
    read: Callable[[Mapping[str, Any]], float]
    per: float = 1.0
    differences: tuple[str, ...] = ()


_VMAS_DIFFERENCES = (
    "a normal distribution with a learned deviation that is clipped to the range, for a tanh-normal one whose "
    "deviation the network puts out",
    "the time limit is a truncation and bootstraps, for a termination",
    "copies that end together are restarted together",
)


def _frames(said: Mapping[str, Any]) -> float:
    return float(said["secondary"]["frames_per_cpu_second"])


def _vmas(task: str, size: str, agents: int, target: float) -> Comparison:
    wide = ["--set", "copies=600", "--set", "algorithm.rollout=20"] if size == "wide" else []
    return Comparison(
        unit="frames per CPU-second",
        target=target,
        anchor="benchmarl_vmas",
        script="benchmarl_vmas.py",
        theirs=["--task", task, "--size", size, "--repeats", "3"],
        ours=[VMAS, "--preset", task, "--parts", "end", "--repeats", "3", "--seconds", "0", *wide],
        row="end to end",
        read=_frames,
        per=agents,
        differences=_VMAS_DIFFERENCES,
    )


COMPARISONS: dict[str, Comparison] = {
    "world and observations, POGEMA": Comparison(
        unit="agent-steps per CPU-second",
        target=100.0,
        anchor="pogema_speed",
        script="pogema_speed.py",
        theirs=["--config", "random-64x64-256", "--collision", "soft", "--repeats", "3"],
        ours=[*SEEN, "--set", "world.central_state=false"],
        row="world with observations",
        read=lambda said: float(said["median"]),
        differences=("64 copies are stepped at once, which is what a trainer does; POGEMA has one",),
    ),
    "MAPPO on VMAS navigation": _vmas("navigation", "narrow", 3, 1.2),
    "MAPPO on VMAS balance": _vmas("balance", "narrow", 4, 1.2),
    "MAPPO on VMAS navigation, 600 copies": _vmas("navigation", "wide", 3, 1.2),
    "MAPPO on VMAS balance, 600 copies": _vmas("balance", "wide", 4, 1.2),
}

#: (scenario, part, size to run through, further options) of the curves.
CURVES: list[tuple[str, str, str, list[str]]] = [
    ("lifelong_mapf", "world", "copies", []),
    ("lifelong_mapf", "world", "agents", []),
    ("lifelong_mapf", "world", "map", []),
    ("cav_merging", "world", "copies", []),
    ("cav_merging", "world", "vehicles", []),
    ("agent_hierarchy", "policy", "copies", []),
]
CURVE_STEPS = 32
#: Training paths whose time is told apart.
PATHS = ["lifelong_mapf", "cav_merging", "agent_hierarchy"]


def _ours(python: str, words: list[str], row: str, per: float, json_file: Path) -> Side:
    """``marl bench`` in a process of its own; its figure is read from the file that it writes."""
    code = (
        "import json, sys; from marl.cli import main; code = main(sys.argv[2:] + ['--json', sys.argv[1]]); "
        "print(json.dumps(json.load(open(sys.argv[1])))) if code == 0 else sys.exit(code)"
    )

    def read(said: Mapping[str, Any]) -> float:
        (found,) = [one for one in said["rows"] if one["name"] == row]
        return float(found["value"]) / per

    path = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    return Side([python, "-c", code, str(json_file), "bench", *words], read, REPO, {"PYTHONPATH": path})


def run_comparison(name: str, one: Comparison, arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Measure both sides and keep the row."""
    python = environment(
        arguments.environments / one.anchor, arguments.anchors / "requirements" / f"{one.anchor}.txt", say
    )
    theirs = Side([str(python), str(arguments.anchors / one.script), *one.theirs], one.read, arguments.anchors)
    with tempfile.TemporaryDirectory() as folder:
        ours = _ours(arguments.marl_python, one.ours, one.row, one.per, Path(folder) / "rows.json")
        mine, other, said, anchor = compare(ours, theirs, arguments.rounds, say)
    (row,) = [each for each in said["rows"] if each["name"] == one.row]
    kept = ratio_row(
        name,
        one.unit,
        device_name(torch.device("cpu")),
        mine,
        other,
        target=one.target,
        anchor=f"{anchor['anchor']} {anchor['version']}",
        work=row["work"],
        anchor_work=anchor["work"],
        differences=list(one.differences),
    )
    say(f"{name}: {kept['ratio']:.2f} times ({one.target:g} asked)")
    keep("speed.json", [kept])


def keep(file: str, rows: list[dict[str, Any]], key: str = "name") -> None:
    """Put rows into a file of figures, in the place of those of the same name."""
    path = PAGES / file
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    new = {row[key] for row in rows}
    kept = [row for row in record["rows"] if row[key] not in new] + [rounded(row) for row in rows]
    command = "scripts/reproduce speed"
    text = json.dumps({"schema_version": SCHEMA_VERSION, "command": command, "rows": kept}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def run_curves(say: Callable[[str], None]) -> None:
    """Time of a step over sizes, and the shares of training."""
    for scenario in PATHS:
        say(f"{scenario}, training")
        rows = bench(scenario, parts=("world", "guidance", "policy", "update", "end"), repeats=5, seconds=0.1, steps=64)
        own = [row.plain() for row in rows]
        keep("scaling.json", [{"name": f"{scenario}, training", "scenario": scenario, "rows": own}])
    for scenario, part, vary, options in CURVES:
        label = f"{scenario}, {part} by {vary}"
        say(label)
        rows = bench(scenario, overrides=options, parts=(part,), vary=vary, repeats=3, seconds=0.0, steps=CURVE_STEPS)
        curve = {"name": label, "scenario": scenario, "vary": vary, "rows": [row.plain() for row in rows]}
        keep("scaling.json", [curve | ({"steps": CURVE_STEPS} if part == "world" else {})])


def run_own(say: Callable[[str], None]) -> None:
    """Comparisons with yardsticks of our own."""
    prepare_process()
    say("the plainest loop")
    keep("speed.json", [end_to_end.measure(copies=128, agents=32, size=20, rollout=32, minibatches=4, turns=9)])
    say("planning")
    keep("speed.json", planning_cost.measure(agents=192, turns=9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=Path, help="folder of the anchors' scripts")
    parser.add_argument("--environments", type=Path, help="folder for their environments")
    parser.add_argument("--only", help="comparisons, by semicolon; default: all. " + "; ".join(COMPARISONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--marl-python", default=sys.executable, help="interpreter for our side")
    parser.add_argument("--own", action="store_true", help="measure beside our own yardsticks instead")
    parser.add_argument("--scaling", action="store_true", help="measure curves and shares instead")
    parser.add_argument("--page", action="store_true", help="write the page only")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        if arguments.own:
            run_own(say)
        elif arguments.scaling:
            run_curves(say)
        elif not arguments.page:
            if arguments.anchors is None or arguments.environments is None:
                parser.error("name the folders with --anchors and --environments")
            chosen = arguments.only.split(";") if arguments.only else list(COMPARISONS)
            for name in chosen:
                if name not in COMPARISONS:
                    parser.error(f"there is no comparison '{name}'")
                run_comparison(name, COMPARISONS[name], arguments, say)
    except UserError as error:
        sys.exit(f"scripts/reproduce speed: {error}")
    write_page(PAGES)


if __name__ == "__main__":
    main()
