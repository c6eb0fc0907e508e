"""The cells of the ablation of guidance, intent and safety: worlds, rows, and what is done to messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import NamedTuple

MODULES = ("guidance", "intent", "safety")
#: The eight rows: which modules are on.
SETS = tuple(tuple(name for name, on in zip(MODULES, mask, strict=True) if on) for mask in product((0, 1), repeat=3))


class World(NamedTuple):
    """One family of worlds.

    smaller: what is set beside the preset, for runs so short. switches: module -> the key that switches it. rate: steps
    (of agents, or tokens) that its dearest cell makes in a CPU-minute; before: CPU-minutes of a run that make no steps
    (imitation). least: steps of the shortest run.
    figures: metric -> (column of the table, scale, digits); the first one is drawn.
    """

    scenario: str
    preset: str
    smaller: tuple[str, ...]
    switches: dict[str, str]
    rate: float
    before: float
    least: int
    figures: dict[str, tuple[str, float, int]]

    def steps(self, minutes: float) -> int:
        return max(self.least, int(self.rate * (minutes - self.before)))


_TENSOR = {name: f"coordination.{name}.enabled" for name in MODULES}
_SAFE = {"interventions_per_step": ("corrected %", 100.0, 1)}
WORLDS = {
    "grids": World(
        "lifelong_mapf",
        "small",
        (
            "evaluation.seeds=4",
            "world.agents=10",
            "world.generator=[{kind: random, size: 9, density: 0.2}, {kind: maze, size: 9, openings: 0.5}, "
            "{kind: warehouse, shelf_rows: 1, shelf_columns: 2, shelf_length: 3, stations: 2}]",
        ),
        _TENSOR,
        4.4e6,
        0.0,
        100_000,
        {
            "throughput": ("goals per step", 1.0, 3),
            "latency_p95_steps": ("latency p95, steps", 1.0, 1),
            "refused_share": ("refused moves %", 100.0, 1),
            "collisions": ("collisions", 1.0, 1),
            **_SAFE,
        },
    ),
    "roads": World(
        "cav_merging",
        "hard",
        ("evaluation.seeds=4", "world.curriculum_episodes=10"),
        _TENSOR,
        2.4e6,
        0.0,
        100_000,
        {
            "collision_rate": ("collisions % of episodes", 100.0, 1),
            "merged_share": ("merged %", 100.0, 1),
            "mean_speed_mps": ("m/s", 1.0, 2),
            **_SAFE,
        },
    ),
    "language": World(
        "agent_hierarchy",
        "quick",
        ("evaluation.every_iterations=100", "world.tasks.hops=[1,1,2]", "algorithm.warm_start.steps=180"),
        {**_TENSOR, "guidance": "world.plan"},
        3.5e5,
        0.2,
        20_000,
        {
            "success_sampled": ("success %, sampled", 100.0, 1),
            "success_greedy": ("success %, greedy", 100.0, 1),
            "calls_greedy": ("calls", 1.0, 2),
            "invalid_actions_sampled": ("invalid calls", 1.0, 2),
            "corrections_sampled": ("corrected calls", 1.0, 2),
        },
    ),
}
#: Episodes of a judgement, one for each seed of held-out instances.
EPISODES = {"grids": 64, "roads": 256, "language": 200}
#: What is done to the messages of policies that were trained with perfect ones.
HARM = {"delay": (1, 2, 4), "loss": (0.25, 0.5, 1.0), "noise": (0.05, 0.2, 0.5)}


#: Rows beside the eight, on the road: a supervisor that is strict at first and all but gone at the end.
VARIANTS = {
    "annealed": (
        "coordination.safety.early_margin=3.0",
        "coordination.safety.margin=-30.0",
        "coordination.safety.annealed=0.7",
    )
}


class Cell(NamedTuple):
    """A row of the ablation with one seed."""

    world: str
    modules: tuple[str, ...]
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        kind = "+".join(self.modules) or "none"
        return f"{self.world}-{kind}{self.variant and '-' + self.variant}-seed{self.seed}"

    def overrides(self, minutes: float) -> list[str]:
        """As ``--set`` takes them."""
        world = WORLDS[self.world]
        on = [f"{key}={str(name in self.modules).lower()}" for name, key in world.switches.items()]
        own = VARIANTS.get(self.variant, ())
        return [*world.smaller, *on, *own, f"seed={self.seed}", f"total_steps={world.steps(minutes)}"]

    def finished(self, out: Path) -> bool:
        return (out / self.name / "report.html").exists()


def cells(seeds: Iterable[int], wanted: str = "") -> list[Cell]:
    """In the order in which they are trained: every cell of the first seed before any of the second."""
    every: list[Cell] = []
    for seed in seeds:
        every += [Cell(world, modules, seed) for world in WORLDS for modules in SETS]
        every += [Cell("roads", ("safety",), seed, variant) for variant in VARIANTS]
    return [cell for cell in every if re.search(wanted, cell.name)]
