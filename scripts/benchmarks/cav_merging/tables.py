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
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from marl.cli import parse_seeds
from scripts.benchmarks import page
from scripts.benchmarks.runner import (
    PAGES,
    REPO,
    add_row,
    finished,
    overrides,
    prepare,
    read_figures,
    read_rows,
    side_by_side,
    train,
    write_figures,
)

#: Module sets of the ablation: what is switched on.
MODULES: dict[str, tuple[str, ...]] = {
    "none": (),
    "intent": ("intent",),
    "safety": ("safety",),
    "both": ("intent", "safety"),
}
RULES = ("random", "idm_gap_acceptance", "fifo_merge", "sumo_default")
MODES = ("easy", "medium", "hard")
#: SUMO processes side by side; each plays the same number of episodes.
PROCESSES = 16
#: Episodes of a row, by mode: a cell of the table has three seeds' rows, or one row of a rule.
LEARNED_EPISODES = {"easy": 112, "medium": 112, "hard": 336}
SHIPPED_EPISODES = {"easy": 304, "medium": 304, "hard": 1008}
RULE_EPISODES = SHIPPED_EPISODES
GENERAL_EPISODES = 64
#: The general policy is judged on a network kept out of training, with these shares of CAVs.
UNSEEN_NET, UNSEEN_SHARES, UNSEEN_FLOW = "unseen", (0.5, 0.2, 1.0), 1800
#: The run whose policy is shipped as ``cav_merging/hard``: trained longer, without modules, and shipped supervised.
SHIPPED = "hard"
#: Trained on from it, on random roads and demand.
GENERAL = "general"
SHIPPED_STEPS = 20_000_000


def shipped(out: Path, name: str, supervised: bool) -> str:
    """A policy that is shipped, as ``marl evaluate`` knows it: that of the run here, if there is one."""
    run = str(out / name) if finished(out / name) else f"cav_merging/{name}"
    return run + ("+safety" if supervised else "-safety")


class Row(NamedTuple):
    """What is judged: a policy (a module set or a rule) of a training seed, in one setting."""

    policy: str
    seed: int | None
    supervised: bool
    mode: str
    drivers: str
    backend: str

    @property
    def name(self) -> str:
        seed = "" if self.seed is None else f"-seed{self.seed}"
        supervisor = "+safety" if self.supervised else ""
        return f"{self.policy}{seed}{supervisor}/{self.mode}/{self.drivers}/{self.backend}"

    @property
    def learned(self) -> bool:
        return self.seed is not None

    def policy_name(self, out: Path) -> str:
        """As ``marl evaluate`` knows it."""
        if self.policy == SHIPPED:
            return shipped(out, SHIPPED, self.supervised)
        if not self.learned:
            return self.policy + ("+safety" if self.supervised else "")
        folder = out / f"{self.policy}-seed{self.seed}"
        own = "safety" in MODULES[self.policy]
        return str(folder) + ("" if own == self.supervised else "+safety" if self.supervised else "-safety")

    @property
    def episodes(self) -> int:
        mode = "easy" if self.drivers == "assertive" else self.mode
        if self.policy == SHIPPED:
            return SHIPPED_EPISODES[mode]
        return (LEARNED_EPISODES if self.learned else RULE_EPISODES)[mode]

    def ready(self, out: Path) -> bool:
        """Whether what is to be judged has been trained; the shipped policy has."""
        return self.policy in (*RULES, SHIPPED) or finished(out / f"{self.policy}-seed{self.seed}")


def all_rows(seeds: list[int]) -> Iterator[Row]:
    """In the order in which they are played: the hard mode first, in SUMO."""
    for backend in ("sumo", "twin"):
        for mode, drivers in (("hard", "timid"), ("hard", "assertive"), ("easy", "timid"), ("medium", "timid")):
            for supervised in (True, False):
                yield Row(SHIPPED, None, supervised, mode, drivers, backend)
            for seed, policy in product(seeds, MODULES):
                own = "safety" in MODULES[policy]
                for supervised in (own, not own):
                    yield Row(policy, seed, supervised, mode, drivers, backend)
            for rule, supervised in product(RULES, (False, True)):
                if not (supervised and rule == "sumo_default"):
                    yield Row(rule, None, supervised, mode, drivers, backend)


class Plan(NamedTuple):
    """A training run. init: the policy whose weights it begins with."""

    name: str
    preset: str
    texts: list[str]
    init: str | None = None

    def train(self, out: Path) -> None:
        train(out / self.name, ["cav_merging", "--preset", self.preset, *overrides(self.texts)], self.init)


def train_all(out: Path, seeds: list[int], jobs: int, wanted: str) -> None:
    plans = [
        Plan(f"{modules}-seed{seed}", "hard", [f"seed={seed}", *(f"coordination.{name}.enabled=true" for name in on)])
        for seed in seeds
        for modules, on in MODULES.items()
    ]
    plans.append(Plan(SHIPPED, "hard", ["seed=0", f"total_steps={SHIPPED_STEPS}"]))
    plans.append(Plan(GENERAL, "general", ["seed=0"], f"cav_merging/{SHIPPED}"))
    side_by_side([partial(plan.train, out) for plan in plans if re.search(wanted, plan.name)], jobs)


def play(env: Any, policy: Any, episodes: int, record: dict[str, Any], file: Path) -> None:
    """Play, and append the record with its figures to a file."""
    from marl.evaluation.runner import run_policy
    from marl.evaluation.statistics import estimate
    from marl.seeding import seeds_of

    figures = run_policy(env, policy, seeds_of(0, env.copies, env.device), episodes // env.copies)
    measured = {metric: estimate(values) for metric, values in figures.metrics.items()}
    record["episodes"] = episodes
    record["ms_per_step"] = figures.act_seconds / figures.decisions * 1000.0
    record["metrics"] = {
        metric: {"mean": found.value, "ci_low": found.low, "ci_high": found.high} for metric, found in measured.items()
    }
    shown = ("collision_rate", "merged_share", "cav_merged_share", "mean_speed_mps", "interventions_per_step")
    add_row(file, record, {name: round(measured[name].value, 4) for name in shown if name in measured})


def judge(out: Path, seeds: list[int], wanted: str) -> None:
    """Play the rows that have no figures yet; a world is built once for all policies that are judged in it."""
    import torch

    from marl import api
    from marl.scenario import load_scenario

    known = {(row["name"], row["episodes"]) for row in read_rows(out / "rows.jsonl")}
    rows = [
        row
        for row in all_rows(seeds)
        if (row.name, row.episodes) not in known and re.search(wanted, row.name) and row.ready(out)
    ]
    scenario = load_scenario("cav_merging")
    for setting in dict.fromkeys(row[3:] for row in rows):
        mode, drivers, backend = setting
        config = api.configure("cav_merging", preset=mode, options={"backend": backend, "drivers": drivers})
        sizes = {row.episodes for row in rows if row[3:] == setting}
        for episodes in sorted(sizes):
            copies = PROCESSES if backend == "sumo" else episodes
            env = scenario.make(scenario.held_out(config.world), copies, torch.device("cpu"))
            for row in (row for row in rows if row[3:] == setting and row.episodes == episodes):
                policy = api.policy_builder(scenario, row.policy_name(out))(env)
                play(env, policy, episodes, {"name": row.name, **row._asdict()}, out / "rows.jsonl")
            env.close()


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


def tables(out: Path) -> None:
    """The figures as JSON and as a page."""
    from marl.training.tracking import read_metrics

    rows = read_rows(out / "rows.jsonl")
    minutes = {
        folder.name: read_metrics(folder / "metrics.csv")[-1]["cpu_seconds"] / 60.0
        for folder in sorted(out.iterdir())
        if finished(folder)
    }
    before = read_figures(PAGES / "cav.json")["cpu_minutes"]
    # Policies need not be trained again to be judged again.
    minutes = before | minutes
    intents = verdicts(rows)
    general = sorted(read_rows(out / "general.jsonl"), key=lambda row: row["cav_share"])
    figures = {"cpu_minutes": minutes, "rows": rows, "intent": intents, "general": general}
    write_figures(PAGES / "cav.json", "cav", figures)
    lines = [
        "# CAV merging: tables",
        "",
        "Written by `scripts/reproduce cav tables`. Policies are trained in the twin and judged in SUMO without",
        "further training; the twin's own figures stand beside them. Collisions: episodes with one, 95 % Wilson",
        "interval over all episodes. Other figures: mean and 95 % interval, over training seeds (Student's t) for",
        "learned policies and over episodes for rules. `none`, `intent`, `safety`, `both`: modules that were switched",
        "on in training; the supervisor was then put on or taken away as the second column says.",
        "",
    ]
    for mode, drivers in (("hard", "timid"), ("hard", "assertive"), ("medium", "timid"), ("easy", "timid")):
        lines += [f"## {mode}, {drivers} human drivers", "", *table(rows, mode, drivers), ""]
    lines += ["## Does intent sharing help?", "", "Differences seed by seed in SUMO, timid human drivers.", ""]
    lines += page.table(
        ("mode", "policies", "metric", "difference [95 %]"),
        [
            (
                one["mode"],
                f"{one['a']} - {one['b']}",
                f"`{one['metric']}`",
                f"{one['difference']:+.2f} {page.span(one['ci_low'], one['ci_high'], 2, '+')} {one['unit']}",
            )
            for one in intents
        ],
    )
    lines += ["", "## General policy on a road it has not seen", ""]
    lines += [
        f"SUMO, network `{UNSEEN_NET}`, {UNSEEN_FLOW} cars an hour, mixed drivers, 40 s. Cars still on their way to",
        "the acceleration lane at the end count as not merged.",
        "",
    ]
    judged = []
    for row in general:
        cell = Cell(row["policy"], False, [row])
        words = [f"{row['cav_share'] * 100:.0f}", row["policy"], str(row["episodes"]), cell.collisions()]
        words += [cell.figure("merged_share", 100.0), cell.figure("mean_speed_mps", digits=2)]
        judged.append([*words, cell.figure("flow_veh_per_h", digits=0)])
    lines += page.table(("CAVs %", "policy", "episodes", "collisions %", "merged %", "m/s", "veh/h"), judged)
    compared = read_figures(PAGES / "cav_twin.json")["rows"]
    lines += ["", "## Twin and SUMO, the same demand", ""]
    lines += [
        "Written by `scripts/reproduce cav_twin`; differences are twin less SUMO, paired by seed, with 95 %",
        "intervals. The distance of headways is that of Kolmogorov and Smirnov, 50 m behind the acceleration lane.",
        "",
    ]
    lines += twin_table(compared)
    lines += ["", "## Training", ""]
    lines += page.table(("run", "CPU-minutes"), [(name, f"{value:.1f}") for name, value in minutes.items()])
    page.write(PAGES / "cav.md", lines)


def judge_general(out: Path) -> None:
    """The general policy, with its supervisor and without, on a network that training has not seen."""
    import torch

    from marl import api
    from marl.scenario import load_scenario

    scenario = load_scenario("cav_merging")
    known = {row["name"] for row in read_rows(out / "general.jsonl")}
    for share in UNSEEN_SHARES:
        texts = [f"world.cav_share={share}", f"world.flow_veh_per_h={UNSEEN_FLOW}", "world.geometry={}"]
        config = api.configure(
            "cav_merging", preset="general", options={"backend": "sumo", "net": UNSEEN_NET}, overrides=texts
        )
        names = {name + "+safety": shipped(out, name, True) for name in (GENERAL, SHIPPED)}
        names |= {name: shipped(out, name, False) for name in (GENERAL, SHIPPED)}
        # The last: it hands the world's cars over to their drivers.
        names["sumo_default"] = "sumo_default"
        wanted = {name: path for name, path in names.items() if f"{name}/{share}" not in known}
        if not wanted:
            continue
        env = scenario.make(scenario.held_out(config.world), PROCESSES, torch.device("cpu"))
        for name, path in wanted.items():
            policy = api.policy_builder(scenario, path)(env)
            record = {"name": f"{name}/{share}", "policy": name, "seed": None, "cav_share": share, "net": UNSEEN_NET}
            play(env, policy, GENERAL_EPISODES, record, out / "general.jsonl")
        env.close()


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
        from marl.training.shipping import ship

        target = REPO / "scenarios" / "cav_merging" / "checkpoints"
        ship(arguments.out / SHIPPED, target / "hard", supervised=True)
        ship(arguments.out / GENERAL, target / GENERAL, supervised=True)


if __name__ == "__main__":
    main()
