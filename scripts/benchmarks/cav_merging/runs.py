"""What is trained and played for docs/benchmarks/cav.md: runs, and rows of episodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from scripts.benchmarks.runner import REPO, add_row, finished, overrides, read_rows, side_by_side, train

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


def ship_all(out: Path) -> None:
    """The shipped policies, each supervised, from their runs."""
    from marl.training.shipping import ship

    target = REPO / "scenarios" / "cav_merging" / "checkpoints"
    ship(out / SHIPPED, target / "hard", supervised=True)
    ship(out / GENERAL, target / GENERAL, supervised=True)
