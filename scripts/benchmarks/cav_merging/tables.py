"""Train and judge the policies of cav_merging: docs/benchmarks/cav.md, row by row.

    .venv/bin/python scripts/reproduce cav train [--seeds 0:3] [--jobs 2] [--rows REGEX]    runs, below --out
    .venv/bin/python scripts/reproduce cav judge [--rows REGEX]              episodes in SUMO and in the twin
    .venv/bin/python scripts/reproduce cav tables                            docs/benchmarks/cav.json and cav.md
    .venv/bin/python scripts/reproduce cav ship                              scenarios/cav_merging/checkpoints/

One run for each module set and seed (preset ``hard``, whose curriculum begins with the easy mode) serves the three
modes. Runs and rows that exist are not made again, and an interrupted run is resumed.
"""

from __future__ import annotations

import argparse
import re
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from marl.cli_words import parse_seeds
from scripts.benchmarks import page
from scripts.benchmarks.cav_merging.runs import (
    GENERAL,
    MODES,
    MODULES,
    RULES,
    SHIPPED,
    UNSEEN_FLOW,
    UNSEEN_NET,
    judge,
    judge_general,
    ship_all,
    train_all,
)
from scripts.benchmarks.runner import PAGES, finished, prepare, read_figures, read_rows, write_figures


class Cell(NamedTuple):
    """A policy in a setting, over its training seeds."""

    policy: str
    supervised: bool
    rows: list[dict[str, Any]]

    def figure(self, metric: str, scale: float = 1.0, digits: int = 1) -> str:
        """Mean and interval: over training seeds of learned policies, over episodes of rules."""
        from marl.evaluation.statistics import over_seeds

        figures = [row["metrics"][metric] for row in self.rows if metric in row["metrics"]]
        if not figures:
            return ""
        if self.rows[0]["seed"] is None:
            mean, half = figures[0]["mean"], (figures[0]["ci_high"] - figures[0]["ci_low"]) / 2
        else:
            mean, half = over_seeds([one["mean"] for one in figures])
        return page.spread(mean, half, digits, scale)

    def collisions(self) -> str:
        """Per cent of episodes, with the interval over all episodes of all seeds."""
        from marl.evaluation.statistics import wilson

        count = sum(row["episodes"] for row in self.rows)
        share = sum(row["metrics"]["collision_rate"]["mean"] * row["episodes"] for row in self.rows) / count
        low, high = wilson(share, count)
        return f"{share * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"


def cells(rows: list[dict[str, Any]], mode: str, drivers: str, backend: str) -> list[Cell]:
    here = [row for row in rows if (row["mode"], row["drivers"], row["backend"]) == (mode, drivers, backend)]
    found = []
    for policy, supervised in product((SHIPPED, *MODULES, *RULES), (False, True)):
        own = [row for row in here if row["policy"] == policy and row["supervised"] == supervised]
        if own:
            found.append(Cell(policy, supervised, own))
    return found


HEAD = (
    "policy", "supervisor", "episodes", "collisions %", "merged %", "CAVs merged %", "m/s", "corrected %",
    "twin: collisions %", "merged %", "m/s",
)  # fmt: skip


def table(rows: list[dict[str, Any]], mode: str, drivers: str) -> list[str]:
    """SUMO's figures of one setting, and the twin's beside them."""
    lines = []
    twins = {(cell.policy, cell.supervised): cell for cell in cells(rows, mode, drivers, "twin")}
    for cell in cells(rows, mode, drivers, "sumo"):
        twin = twins.get((cell.policy, cell.supervised))
        words = [
            cell.policy,
            "on" if cell.supervised else "off",
            str(sum(row["episodes"] for row in cell.rows)),
            cell.collisions(),
            cell.figure("merged_share", 100.0),
            cell.figure("cav_merged_share", 100.0),
            cell.figure("mean_speed_mps", digits=2),
            cell.figure("interventions_per_step", 100.0),
            *(
                [twin.collisions(), twin.figure("merged_share", 100.0), twin.figure("mean_speed_mps", digits=2)]
                if twin
                else ["", "", ""]
            ),
        ]
        lines.append(words)
    return page.table(HEAD, lines)


#: Pairs that differ in intent sharing alone.
PAIRS = (("intent", "none"), ("both", "safety"))
COMPARED = {
    "collision_rate": (100.0, "points"),
    "merged_share": (100.0, "points"),
    "cav_merged_share": (100.0, "points"),
    "mean_speed_mps": (1.0, "m/s"),
}


def verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What intent sharing changes: differences seed by seed in SUMO, each policy in its own form."""
    from marl.evaluation.statistics import over_seeds

    found = []
    for mode, (first, second), metric in product(MODES, PAIRS, COMPARED):
        own = {
            (row["policy"], row["seed"]): row["metrics"][metric]["mean"]
            for row in rows
            if (row["mode"], row["drivers"], row["backend"]) == (mode, "timid", "sumo")
            and row["policy"] in (first, second)
            and row["supervised"] == ("safety" in MODULES[row["policy"]])
        }
        seeds = sorted({seed for policy, seed in own if policy == first and (second, seed) in own})
        if len(seeds) > 1:
            mean, half = over_seeds([own[first, seed] - own[second, seed] for seed in seeds])
            scale, unit = COMPARED[metric]
            found.append(
                {
                    "mode": mode, "a": first, "b": second, "metric": metric, "unit": unit, "seeds": len(seeds),
                    "difference": mean * scale, "ci_low": (mean - half) * scale, "ci_high": (mean + half) * scale,
                }
            )  # fmt: skip
    return found


#: Compared between the backends: metric, unit, factor, digits.
TWIN_METRICS = (
    ("flow_veh_per_h", "veh/h", 1.0, 0), ("mean_speed_mps", "m/s", 1.0, 2), ("merged_share", "merged %", 100.0, 1),
)  # fmt: skip


def twin_table(rows: list[dict[str, Any]]) -> list[str]:
    """What ``scripts/reproduce cav_twin`` found."""
    heads = ["preset", "humans", "CAVs drive by", "seeds"]
    heads += [f"{unit}: twin, SUMO, difference" for _, unit, _, _ in TWIN_METRICS]
    heads += ["headways, median s: twin, SUMO", "their distance (between halves of SUMO's)"]
    lines = []
    for row in rows:
        words = [row["preset"], row["drivers"], f"`{row['policy']}`", str(row["seeds"] - row["lost"])]
        for metric, _, scale, digits in TWIN_METRICS:
            twin, sumo, gap = (row[metric][key] for key in ("twin", "sumo", "difference"))
            interval = page.span(gap["ci_low"], gap["ci_high"], digits, "+", scale)
            both = ", ".join(f"{figure['mean'] * scale:.{digits}f}" for figure in (twin, sumo))
            words.append(f"{both}, {gap['mean'] * scale:+.{digits}f} {interval}")
        headway = row["headway_s"]
        words.append(f"{headway['twin']['q50']:.2f}, {headway['sumo']['q50']:.2f}")
        ks = headway["ks"]
        words.append(f"{ks['value']:.3f} {page.span(ks['ci_low'], ks['ci_high'])} ({ks['halves_of_sumo']:.3f})")
        lines.append(words)
    return page.table(heads, lines)


HEADING = """\
# CAV merging: tables

Written by `scripts/reproduce cav tables`. Policies are trained in the twin and judged in SUMO without
further training; the twin's own figures stand beside them. Collisions: episodes with one, 95 % Wilson
interval over all episodes. Other figures: mean and 95 % interval, over training seeds (Student's t) for
learned policies and over episodes for rules. `none`, `intent`, `safety`, `both`: modules that were switched
on in training; the supervisor was then put on or taken away as the second column says.
"""
ON_GENERAL = f"""\

## General policy on a road it has not seen

SUMO, network `{UNSEEN_NET}`, {UNSEEN_FLOW} cars an hour, mixed drivers, 40 s. Cars still on their way to
the acceleration lane at the end count as not merged.
"""
ON_TWIN = """\

## Twin and SUMO, the same demand

Written by `scripts/reproduce cav_twin`; differences are twin less SUMO, paired by seed, with 95 %
intervals. The distance of headways is that of Kolmogorov and Smirnov, 50 m behind the acceleration lane.
"""


def settings(rows: list[dict[str, Any]]) -> list[str]:
    """A section for each mode and kind of human drivers."""
    lines = []
    for mode, drivers in (("hard", "timid"), ("hard", "assertive"), ("medium", "timid"), ("easy", "timid")):
        lines += [f"## {mode}, {drivers} human drivers", "", *table(rows, mode, drivers), ""]
    return lines


def intent_section(intents: list[dict[str, Any]]) -> list[str]:
    """What ``verdicts`` found."""
    cells = [
        (
            one["mode"],
            f"{one['a']} - {one['b']}",
            f"`{one['metric']}`",
            f"{one['difference']:+.2f} {page.span(one['ci_low'], one['ci_high'], 2, '+')} {one['unit']}",
        )
        for one in intents
    ]
    heading = ["## Does intent sharing help?", "", "Differences seed by seed in SUMO, timid human drivers.", ""]
    return [*heading, *page.table(("mode", "policies", "metric", "difference [95 %]"), cells)]


def general_table(general: list[dict[str, Any]]) -> list[str]:
    """What ``judge_general`` found."""
    judged = []
    for row in general:
        cell = Cell(row["policy"], False, [row])
        words = [f"{row['cav_share'] * 100:.0f}", row["policy"], str(row["episodes"]), cell.collisions()]
        words += [cell.figure("merged_share", 100.0), cell.figure("mean_speed_mps", digits=2)]
        judged.append([*words, cell.figure("flow_veh_per_h", digits=0)])
    return page.table(("CAVs %", "policy", "episodes", "collisions %", "merged %", "m/s", "veh/h"), judged)


def cpu_minutes(out: Path) -> dict[str, float]:
    """By run: those of the runs that are here, and of the page's others, for policies need not be trained again."""
    from marl.training.tracking import read_metrics

    minutes: dict[str, float] = {
        folder.name: read_metrics(folder / "metrics.csv")[-1]["cpu_seconds"] / 60.0
        for folder in sorted(out.iterdir())
        if finished(folder)
    }
    return {**read_figures(PAGES / "cav.json")["cpu_minutes"], **minutes}


def tables(out: Path) -> None:
    """The figures as JSON and as a page."""
    rows, minutes = read_rows(out / "rows.jsonl"), cpu_minutes(out)
    intents = verdicts(rows)
    general = sorted(read_rows(out / "general.jsonl"), key=lambda row: row["cav_share"])
    figures = {"cpu_minutes": minutes, "rows": rows, "intent": intents, "general": general}
    write_figures(PAGES / "cav.json", "cav", figures)
    training = page.table(("run", "CPU-minutes"), [(name, f"{value:.1f}") for name, value in minutes.items()])
    twins = twin_table(read_figures(PAGES / "cav_twin.json")["rows"])
    lines = [HEADING, *settings(rows), *intent_section(intents), ON_GENERAL, *general_table(general), ON_TWIN, *twins]
    page.write(PAGES / "cav.md", [*lines, "", "## Training", "", *training])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["train", "judge", "tables", "ship"])
    parser.add_argument("--seeds", default="0:3")
    parser.add_argument("--out", type=Path, default=Path("runs/cav"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one core each")
    parser.add_argument(
        "--rows", default="", help="only runs or rows whose name matches, e.g. 'both.*/hard/timid/sumo'"
    )
    arguments = parser.parse_args()
    prepare()
    seeds = parse_seeds(arguments.seeds)
    if arguments.stage == "train":
        train_all(arguments.out, seeds, arguments.jobs, arguments.rows)
    elif arguments.stage == "judge":
        judge(arguments.out, seeds, arguments.rows)
        if re.search(arguments.rows, GENERAL):
            judge_general(arguments.out)
    elif arguments.stage == "tables":
        tables(arguments.out)
    else:
        ship_all(arguments.out)


if __name__ == "__main__":
    main()
