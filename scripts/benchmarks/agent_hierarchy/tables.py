"""The table of language systems: each on the preset ``quick`` at equal generated tokens, MAPPO on the discrete face.

    .venv/bin/python scripts/reproduce hierarchy --out runs/hierarchy [--rows "M-GRPO;Dr. MAS"] [--seeds 0:5]

A run takes about a minute on one core. Rows that imitate the same demonstrations begin from one warm start per seed,
which is made once and whose CPU time is part of each. Finished runs in ``--out`` are used again and broken-off ones
resumed, so the table can be made row by row; after each run, what there is goes to docs/benchmarks/hierarchy.json and
.md. Figures are those of the last evaluation on held-out questions, with 95 % intervals over seeds (Student's t);
differences are paired by seed.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from marl.api import configure
from marl.cli_words import parse_seeds
from marl.config import AnyRunConfig
from marl.evaluation.statistics import over_seeds
from marl.training.run import resume, train
from marl.training.run_folder import CONFIG, METRICS
from marl.training.tracking import read_metrics
from scripts.benchmarks import page
from scripts.benchmarks.runner import PAGES, write_figures

#: Generated tokens of a run by its preset; MAPPO's agent-steps on the discrete face for about as many episodes.
TOKENS = {"quick": 150_000, "avoidable": 350_000, "full": 400_000}
DISCRETE_STEPS = 330_000
#: A run that ends with imitation: one update that changes nothing.
STILL = ("total_steps=1", "copies=8", "algorithm.rate=1e-30")
ONCE = "evaluation.every_iterations=100000"  # at the end alone


class Recipe(NamedTuple):
    """What a row of the table is trained with. world: overrides that its warm start needs as well. whole: the preset as
    it is, with its own imitation and to its end."""

    system: str
    overrides: tuple[str, ...] = ()
    preset: str = "quick"
    world: tuple[str, ...] = ()
    whole: bool = False


ROWS = {
    "preset quick, to its end": Recipe("m_grpo", whole=True),
    "preset full, to its end": Recipe("m_grpo", preset="full", whole=True),
    "preset thrifty, to its end": Recipe("m_grpo", preset="thrifty", whole=True),
    "warm start alone": Recipe("m_grpo", STILL),
    "M-GRPO": Recipe("m_grpo"),
    "M-GRPO, not aligned": Recipe("m_grpo", ("algorithm.align=false",)),
    "GRPO, one normalisation": Recipe("grpo", ("algorithm.scale=0.25",)),
    "GRPO, one normalisation, by standard deviation": Recipe("grpo"),
    "Dr. MAS": Recipe("dr_mas"),
    "sub-agents frozen": Recipe("m_grpo", ("algorithm.frozen=[north, south]",)),
    "single agent GRPO": Recipe("grpo", ("algorithm.scale=0.25",), world=("world.graph=single",)),
    "Flow-GRPO": Recipe("flow_grpo"),
    "Flow-GRPO, as its trainer": Recipe("flow_grpo", ("algorithm.compare=turn", "algorithm.loss=token")),
    "GiGPO": Recipe("gigpo"),
    "GiGPO, the team's clock": Recipe("gigpo", ("algorithm.clock=team",)),
    "HGPO": Recipe("hgpo"),
    "HGPO, begin padded": Recipe("hgpo", ("algorithm.begin=padded",)),
    "POAD": Recipe("poad"),
    "MAPPO, critic of turns": Recipe("mappo_text"),
    "IPPO, critic of turns": Recipe("mappo_text", ("algorithm.critic_input=observation",)),
    "AT-GRPO's groups": Recipe("at_grpo", ("algorithm.tree=false",)),
    "AT-GRPO's groups, by mean alone": Recipe("at_grpo", ("algorithm.tree=false", "algorithm.scale=1")),
    "hierarchical GRPO": Recipe("hierarchical_grpo"),
    "GDPO": Recipe("gdpo"),
    "MAPPO, discrete face": Recipe("mappo", (f"total_steps={DISCRETE_STEPS}", ONCE), "discrete"),
    "avoidable calls: warm start": Recipe("otc", STILL, "avoidable"),
    "avoidable calls: GRPO without a price": Recipe("grpo", ("algorithm.reward.cost=0",), "avoidable"),
    "avoidable calls: OTC": Recipe("otc", (), "avoidable"),
    "rarely needed: GRPO, one normalisation, by standard deviation": Recipe("grpo", (), "full"),
    "rarely needed: Dr. MAS": Recipe("dr_mas", (), "full"),
}
#: Pairs of rows whose difference says whether a published claim holds here.
CLAIMS = (
    ("M-GRPO", "GRPO, one normalisation"),
    ("M-GRPO", "M-GRPO, not aligned"),
    ("M-GRPO", "sub-agents frozen"),
    ("M-GRPO", "single agent GRPO"),
    ("Dr. MAS", "GRPO, one normalisation, by standard deviation"),
    ("GiGPO", "GRPO, one normalisation"),
    ("HGPO", "GRPO, one normalisation, by standard deviation"),
    ("HGPO", "GiGPO"),
    ("POAD", "MAPPO, critic of turns"),
    ("POAD", "GRPO, one normalisation"),
    ("Flow-GRPO", "sub-agents frozen"),
    ("avoidable calls: OTC", "avoidable calls: GRPO without a price"),
    ("rarely needed: Dr. MAS", "rarely needed: GRPO, one normalisation, by standard deviation"),
)
#: Column -> the figure of a language run, and that of a run on the discrete face ("" where there is none).
COLUMNS = {
    "greedy": ("evaluation/success_greedy", "evaluation/success"),
    "sampled": ("evaluation/success_sampled", "episode/success"),
    "calls": ("evaluation/calls_greedy", "evaluation/calls"),
    "least calls": ("evaluation/optimal_calls_greedy", "evaluation/optimal_calls"),
    "cost": ("evaluation/cost_greedy", "evaluation/cost"),
    "least cost": ("evaluation/optimal_cost_greedy", "evaluation/optimal_cost"),
    "invalid": ("evaluation/invalid_actions_sampled", "episode/invalid_actions"),
    "tokens": ("agent_steps", ""),
    "episodes": ("episodes", "episodes"),
    "CPU min": ("cpu_seconds", "cpu_seconds"),
}
NOTES = """\
Made by `scripts/reproduce hierarchy`; figures of single seeds are in `hierarchy.json`. Preset `quick`, 200 held-out
questions, last evaluation of each run, mean and 95 % interval over seeds. At equal tokens all language rows generate
150,000, a fifth of what the preset takes to its end, so that rows differ; they begin with the same imitation of each
seed, which is part of their CPU-minutes. *calls* and *cost* are those of acting greedily, beside the least that the
questions take; *sampled* and *invalid* are of sampling at temperature 1. MAPPO on the discrete face begins from
nothing, meets about as many episodes, and its sampled figures are those of its last training episodes, whose questions
are new too. *spikes* are updates whose gradient norm is above three times the run's median. Rows "avoidable calls" are
of the preset `avoidable`, with 350,000 tokens, rows "rarely needed" of `full`, whose calculator few questions need,
with 400,000, on three seeds. Rows GiGPO, HGPO, POAD, "AT-GRPO's groups" and "MAPPO, critic of turns" were measured
before an illegal call cost once and these recipes took their published forms; the forms beside each other, measured
since: [hierarchy_forms.md](hierarchy_forms.md).
"""


def spikes(rows: list[dict[str, float]]) -> float:
    """Updates whose gradient norm of any unit is above three times its median."""
    found = 0
    for name in {key for row in rows for key in row if "grad_norm" in key}:
        norms = [row[name] for row in rows if name in row]
        found += sum(norm > 3.0 * statistics.median(norms) for norm in norms)
    return float(found)


def configured(recipe: Recipe, seed: int, overrides: Sequence[str]) -> AnyRunConfig:
    length = () if recipe.whole or recipe.preset == "discrete" else (f"total_steps={TOKENS[recipe.preset]}", ONCE)
    every = [*length, *recipe.world, *recipe.overrides, *overrides, f"seed={seed}"]
    return configure("agent_hierarchy", preset=recipe.preset, system=recipe.system, overrides=every)


def warm_folder(recipe: Recipe, seed: int, out: Path) -> Path | None:
    """Where the run is whose weights a row begins with; None where nothing is imitated first."""
    if recipe.whole or recipe.preset == "discrete":
        return None
    kind = "-".join([recipe.preset, *recipe.world]).replace("world.graph=", "")
    return out / "warm" / kind / f"seed-{seed}"


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Where a row's run is."""
    return out / re.sub(r"[^A-Za-z0-9-]+", "-", name) / f"seed-{seed}"


def run(recipe: Recipe, config: AnyRunConfig, overrides: Sequence[str], folder: Path, warm: Path | None) -> None:
    """Train a row's run, or go on with it; before that, the warm start, if it is not there."""
    if warm is not None and not (warm / METRICS).is_file():
        train(configured(recipe._replace(system="m_grpo", overrides=STILL), config.seed, overrides), warm, live=False)
    if (folder / CONFIG).is_file():
        resume(folder, live=False)
    else:
        train(config, folder, live=False, init=warm)


def measured(folder: Path, config: AnyRunConfig, warm: Path | None) -> dict[str, float] | None:
    """The figures of a finished run, or None. warm: the run that it began with, whose CPU time counts."""
    if not (folder / METRICS).is_file():
        return None
    rows = read_metrics(folder / METRICS)
    discrete = config.preset == "discrete"
    keys = {column: pair[discrete] for column, pair in COLUMNS.items() if pair[discrete]}
    last = rows[-1] if rows else {}
    if last.get("agent_steps", 0) < config.total_steps or keys["greedy"] not in last:
        return None
    figures = {column: last[key] for column, key in keys.items()}
    figures["CPU min"] += 0.0 if warm is None else read_metrics(warm / METRICS)[-1]["cpu_seconds"]
    figures["CPU min"] /= 60.0
    for key, value in last.items():
        if key.startswith("evaluation/success_hops_"):
            hops, mode = key.removeprefix("evaluation/success_hops_").split("_")
            figures[f"{mode}, {hops} hops"] = value
    judged = [row[keys["greedy"]] for row in rows if keys["greedy"] in row]
    return figures | {"warm start, greedy": judged[0], "spikes": spikes(rows)}


def interval(values: list[float]) -> str:
    if not values:
        return "-"
    if len(values) < 2:
        return f"{values[0]:.4g}"
    mean, half = over_seeds(values)
    return f"{mean:.4g} ± {0.0 if half < 1e-12 else half:.2g}"  # equal figures differ by rounding alone


def write(table: dict[str, dict[str, Any]]) -> None:
    """Both files, from what has been measured so far."""
    write_figures(PAGES / "hierarchy.json", "hierarchy", {"threads": 1, "rows": list(table.values())}, indent=2)
    lines = ["# Language systems compared", "", NOTES]
    for title, whole in (("Presets to their end", True), ("Systems at equal tokens", False)):
        rows = [row for name, row in table.items() if ROWS[name].whole == whole]
        columns = [*COLUMNS, "spikes"]
        if whole:
            hops = sorted({key for row in rows for run in row["runs"].values() for key in run if key.endswith(" hops")})
            columns = ["warm start, greedy", *COLUMNS, *hops]
        figures = [
            [
                row["row"],
                len(row["runs"]),
                *(interval([run[c] for run in row["runs"].values() if c in run]) for c in columns),
            ]
            for row in rows
        ]
        lines += [f"## {title}", "", *page.table(["row", "seeds", *columns], figures), ""]
    claims = []
    for first, second in CLAIMS:
        if first in table and second in table:
            one, other = table[first]["runs"], table[second]["runs"]
            seeds = sorted(one.keys() & other.keys())
            cells = [interval([one[s][c] - other[s][c] for s in seeds]) for c in ("greedy", "sampled", "calls")]
            claims.append([first, second, *cells])
    lines += ["## Differences, paired by seed", ""]
    lines += [*page.table(["first", "less", "greedy", "sampled", "calls"], claims), ""]
    lines += ["Which published claims hold here: [hierarchy_claims.md](hierarchy_claims.md)."]
    page.write(PAGES / "hierarchy.md", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs; what is there is used")
    parser.add_argument("--seeds", default="0:5")
    parser.add_argument("--rows", help="names of rows, separated by semicolons; default: all")
    parser.add_argument("--set", action="append", default=[], help="overrides for all runs; figures go to --out alone")
    arguments = parser.parse_args()
    chosen = arguments.rows.split(";") if arguments.rows else list(ROWS)
    unknown = set(chosen) - set(ROWS)
    if unknown:
        parser.error(f"no row {min(unknown)!r}; there are: {'; '.join(ROWS)}")
    table: dict[str, dict[str, Any]] = {}
    for name, recipe in ROWS.items():
        if arguments.set and name not in chosen:  # not every system knows every override
            continue
        runs: dict[str, dict[str, float]] = {}
        for seed in parse_seeds(arguments.seeds):
            config = configured(recipe, seed, arguments.set)
            folder = folder_of(arguments.out, name, seed)
            warm = warm_folder(recipe, seed, arguments.out)
            if recipe.overrides == STILL and warm is not None:  # what the others begin with is all there is to it
                folder, warm = warm, None
            figures = measured(folder, config, warm)
            if figures is None and name in chosen:
                run(recipe, config, arguments.set, folder, warm)
                figures = measured(folder, config, warm)
            if figures is not None:
                runs[str(seed)] = figures
                table[name] = {
                    "row": name,
                    "system": recipe.system,
                    "overrides": [*recipe.world, *recipe.overrides, *arguments.set],
                    "runs": runs,
                }
                if not arguments.set:
                    write(table)
    print(json.dumps(list(table.values()), indent=2))


if __name__ == "__main__":
    main()
