"""What is tuned, trained and played for docs/benchmarks/mapf.md: sets of instances, policies, and their runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.benchmarks.runner import REPO, add_row, marl, read_rows, train

VECTORS = REPO / "scenarios" / "lifelong_mapf" / "guidance" / "vectors"
CHECKPOINTS = REPO / "scenarios" / "lifelong_mapf" / "checkpoints"


class Instances(NamedTuple):
    """One set of the benchmark. published: its name in the published table, if the length is the published one.

    vector: the shipped guidance vector for maps of this kind.
    """

    title: str
    file: str
    agents: tuple[int, ...]
    steps: int
    vector: str
    published: str | None


SETS = {
    "warehouse": Instances(
        "Warehouse, 46x33", "03-warehouse/maps.yaml:wfi_warehouse", (32, 64, 96, 128, 160, 192), 256, "warehouse",
        "03-warehouse",
    ),
    "random": Instances(
        "Random maps, 17 to 21 cells a side", "01-random/maps.yaml", (8, 16, 24, 32, 48, 64), 256, "random", "01-random"
    ),
    "mazes": Instances(
        "Mazes, 17 to 21 cells a side", "02-mazes/maps.yaml", (8, 16, 24, 32, 48, 64), 256, "maze", None
    ),
    "mazes-128": Instances(
        "Mazes, 128 steps", "02-mazes/maps.yaml", (8, 16, 24, 32, 48, 64), 128, "maze", "02-mazes"
    ),
}  # fmt: skip


class Policy(NamedTuple):
    """A row of the tables.

    policy: as ``marl evaluate --policies`` knows it. overrides: texts of ``--set``; {vector} is the set's, in both.
    """

    title: str
    policy: str
    overrides: tuple[str, ...] = ()


TUNED = ("world.guidance.vector={vector}",)
#: What guided_search plans on, tuned for it (``marl tune lifelong_mapf search``).
SEARCHED = ("world.guidance.vector=search-{vector}",)
POLICIES = (
    Policy("follow_path", "follow_path"),
    Policy("follow_path, safety", "follow_path+safety"),
    Policy("pibt", "pibt:swap=false"),
    Policy("pibt, swaps", "pibt"),
    Policy("guided_pibt, default", "guided_pibt:swap=false", ("world.guidance.vector=default",)),
    Policy("guided_pibt, tuned", "guided_pibt:swap=false", TUNED),
    Policy("guided_pibt, tuned, swaps", "guided_pibt", TUNED),
    Policy("windowed", "windowed"),
    Policy("windowed, window 16, 300 iterations", "windowed:window=16:iterations=300"),
    Policy("guided_search", "guided_search:guidance=world", SEARCHED),
    Policy(
        "guided_search, window 16, 250 iterations", "guided_search:window=16:iterations=250:guidance=world", SEARCHED
    ),
    Policy("follower", "lifelong_mapf/follower"),
    Policy("scorer", "lifelong_mapf/scorer", TUNED),
    Policy("scorer of this kind of maps", "lifelong_mapf/scorer_{vector}", TUNED),
)
REFERENCE = "pibt"
EPISODES = 64
METRICS = {
    "throughput": ("Goals per step", 3),
    "bound_share": ("Share of the collision-free bound", 3),
    "latency_p50_steps": ("Steps per goal, median", 1),
    "latency_p95_steps": ("Steps per goal, 95th percentile", 1),
    "oldest_goal_steps": ("Age of the oldest goal under way at the end, steps", 0),
}

#: How the shipped vectors are made: generated maps of the kind, never the benchmark's.
_WAREHOUSES = (
    "[{kind: warehouse}, {kind: warehouse, shelf_length: 5, shelf_columns: 5}, {kind: warehouse, shelf_rows: 6, "
    "shelf_length: 12}, {kind: warehouse, missing: 0.1}, {kind: warehouse, shelf_rows: 10, aisle: 2, shelf_length: 8, "
    "shelf_columns: 4}]"
)
#: Numbers of an earlier search over the same prices, on generated warehouses.
_WAREHOUSE_START = (
    "{vector: plain, static_weight: 0.64, occupancy_weight: 0.64, waiting_weight: 1.8, decay: 0.99, "
    "opposing_weight: 8.5, flow_decay: 0.99, lanes_weight: 0.35, corridor_rows_weight: 8.0, "
    "corridor_columns_weight: 8.0, closer_first: 0.3, crowd: 0.1}"
)
_MAZES = "[{kind: maze, openings: 0.2}, {kind: maze, size: 19, openings: 0.35}, {kind: maze, size: 17, openings: 0.5}]"
#: What a search with 64 and 32 agents found, before lanes and central cells cost less where agents are few. This start
#: is what is shipped: the search below finds more goals for crowds and longer waits on quiet days (docs/decisions.md).
_MAZE_START = (
    "{vector: plain, static_weight: 0.02077, occupancy_weight: 0.8406, waiting_weight: 2.065, decay: 0.9885, "
    "opposing_weight: 13.53, flow_decay: 0.9748, corridor_rows_weight: 4.001, corridor_columns_weight: 5.106, "
    "stay_weight: 4.6, contest_weight: 0.6343, head_on_weight: 0.3181, crowd: 0.5}"
)
TUNINGS = {
    "warehouse": [
        *("--preset", "warehouse", "--set", f"world.generator={_WAREHOUSES}", "--set", "world.map_pool=10"),
        *("--set", f"world.guidance={_WAREHOUSE_START}", "--generations", "13", "--instances", "3", "--step", "0.08"),
    ],
    "random": ["--preset", "random", "--generations", "25"],
    "maze": [
        *("--preset", "maze", "--set", f"world.generator={_MAZES}", "--set", f"world.guidance={_MAZE_START}"),
        *("--generations", "12", "--instances", "8", "--step", "0.06"),
    ],
}

#: Shipped as they are: what the search finds is worse on quiet days, so its file stays in the run folder.
KEPT = ("maze",)


class Training(NamedTuple):
    """A learned policy: runs of which each starts with the weights of the one before, the last is its result."""

    runs: dict[str, list[str]]


_OF_WAREHOUSES = [
    *("--set", f"world.generator={_WAREHOUSES}", "--set", "world.map_pool=10", "--set", "world.agents=192"),
    *("--set", "world.guidance.vector=warehouse", "--set", "copies=12"),
]
_IMITATION = {"scorer-imitation": ["--preset", "scorer_imitation"]}
#: Evolution strategies for some minutes.
_LONG = ["--set", "total_steps=40000000", "--set", "algorithm.rate=0.02"]
TRAININGS = {
    "follower": Training(
        {"follower-imitation": ["--preset", "follower_imitation"], "follower": ["--preset", "follower"]}
    ),
    "scorer": Training(_IMITATION | {"scorer": ["--preset", "scorer"]}),
    "scorer_warehouse": Training({"scorer_warehouse": ["--preset", "scorer_from_rule", *_OF_WAREHOUSES]}),
    "scorer_es": Training(_IMITATION | {"scorer_es": ["--preset", "scorer_es"]}),
    "scorer_es_long": Training(_IMITATION | {"scorer_es_long": ["--preset", "scorer_es", *_LONG]}),
}

#: Trained to stand beside ``scorer``, in its CPU time and in several times that: their results are not shipped.
COMPARED = ("scorer_es", "scorer_es_long")


class Row(NamedTuple):
    instances: str
    agents: int
    policy: Policy

    @property
    def name(self) -> str:
        return f"{self.instances}/{self.agents}/{self.policy.title}"


def all_rows() -> Iterator[Row]:
    for key, instances in SETS.items():
        for agents in instances.agents:
            for policy in POLICIES:
                yield Row(key, agents, policy)


def tune(out: Path, wanted: str) -> None:
    """Each vector in its own process; the file is copied to its place, but for those of ``KEPT``."""
    for name, words in TUNINGS.items():
        folder = out / f"tune-{name}"
        if not re.search(wanted, name):
            continue
        if not (folder / "guidance.yaml").exists():
            if (folder / "tuning.yaml").exists():
                marl(["tune", "--resume", str(folder)])
            else:
                # From the built-in start or a given one, not from the vector that is to be replaced.
                begin = ["--set", "world.guidance={vector: default}"]
                marl(["tune", "lifelong_mapf", "guidance", "--out", str(folder), *begin, *words])
        if name not in KEPT:
            shutil.copy(folder / "guidance.yaml", VECTORS / f"{name}.yaml")


def train_all(out: Path, wanted: str, seeds: int) -> None:
    """Each run in its own process, in folders NAME-SEED; finished runs are left alone, interrupted ones resumed."""
    for name, training in TRAININGS.items():
        for seed in range(seeds) if re.search(wanted, name) else ():
            before = None
            for run, words in training.runs.items():
                folder = out / f"{run}-{seed}"
                train(folder, ["lifelong_mapf", *words, "--set", f"seed={seed}"], before, log=False)
                before = folder


def ship_all(out: Path, wanted: str) -> None:
    """The weights of seed 0, not of the best one."""
    from marl.training.shipping import ship

    for name, training in TRAININGS.items():
        last = out / f"{list(training.runs)[-1]}-0"
        if re.search(wanted, name) and name not in COMPARED and last.exists():
            ship(last, CHECKPOINTS / name)


def judge(out: Path, maps: Path, wanted: str) -> None:
    """Play the rows that have no figures yet."""
    import torch

    from marl import api
    from marl.errors import UserError
    from marl.evaluation.runner import run_policy
    from marl.scenario import load_scenario
    from marl.seeding import seeds_of

    scenario = load_scenario("lifelong_mapf")
    known = {row["name"] for row in read_rows(out / "rows.jsonl")}
    for row in all_rows():
        if row.name in known or not re.search(wanted, row.name):
            continue
        instances = SETS[row.instances]
        chosen = (text.format(vector=instances.vector) for text in row.policy.overrides)
        try:
            build = api.policy_builder(scenario, row.policy.policy.format(vector=instances.vector))
            config = api.configure(
                "lifelong_mapf",
                options={"map": str(maps / instances.file), "agents": row.agents, "horizon": instances.steps},
                overrides=["world.bound_share=true", *chosen],
            )
        except UserError as error:
            print(f"{row.name}: left out, {error}", flush=True)
            continue
        env = scenario.make(scenario.held_out(config.world), EPISODES, torch.device("cpu"))
        with torch.no_grad():
            build(env).act(env.reset(0))  # no timing holds a compilation
        figures = run_policy(env, build(env), seeds_of(0, EPISODES), 1)
        env.close()
        record = {
            "name": row.name,
            "instances": row.instances,
            "agents": row.agents,
            "policy": row.policy.title,
            "ms_per_step": figures.ms_per_step,
            "collisions": float(figures.metrics["collisions"].sum()),
            "figures": {metric: figures.metrics[metric].tolist() for metric in METRICS},
        }
        add_row(out / "rows.jsonl", record, round(float(figures.metrics["throughput"].mean()), 3))


def warehouse(file: Path | None) -> None:
    """Rules in one warehouse, 16 episodes a number of agents, as ``marl evaluate`` shows them."""
    words = ["--policies", "pibt,guided_pibt", "--agents", "32,64,96,128,160,192", "--seeds", "0:16"]
    marl(["evaluate", "lifelong_mapf", *words, *([] if file is None else ["--map", str(file)])])
