"""What the ablation of guidance, intent and safety found, as sentences, tables and plots."""

from __future__ import annotations

import hashlib
import json
import statistics
from pathlib import Path
from typing import Any

from scripts.benchmarks import page, runner
from scripts.benchmarks.coordination.cells import EPISODES, HARM, MODULES, SETS, WORLDS


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, with what older ones lack."""
    return [{"variant": "", **row, "modules": tuple(row["modules"])} for row in runner.read_rows(file)]


def shown(values: list[float], scale: float, digits: int) -> str:
    """Mean and interval over seeds, as the tables write it."""
    from marl.evaluation.statistics import over_seeds

    if not values:
        return ""
    mean, half = over_seeds([value * scale for value in values])
    return page.spread(mean, half, digits)


def of(rows: list[dict[str, Any]], metric: str) -> list[float]:
    return [row["metrics"][metric] for row in rows if metric in row["metrics"]]


def ablation(rows: list[dict[str, Any]], world: str) -> list[str]:
    """The eight rows of a world."""
    figures = WORLDS[world].figures
    heads = ["guidance", "intent", "safety", "seeds", *(head for head, _, _ in figures.values()), "CPU-minutes"]
    lines = []
    for modules in SETS:
        own = [row for row in rows if (row["world"], row["modules"], row["variant"]) == (world, modules, "")]
        if own:
            cpu = f"{statistics.mean(row['cpu_minutes'] for row in own):.2f}"
            values = [shown(of(own, metric), scale, digits) for metric, (_, scale, digits) in figures.items()]
            marks = ["x" if module in modules else "" for module in MODULES]
            lines.append([*marks, len(own), *values, cpu])
    return page.table(heads, lines)


Metrics = dict[str, float]


def pairs(
    rows: list[dict[str, Any]], world: str, module: str
) -> dict[int, dict[tuple[str, ...], tuple[Metrics, Metrics]]]:
    """By seed and by what else is on: the figures without the module and with it. Seeds with all eight rows only."""
    found = {(row["modules"], row["seed"]): row for row in rows if (row["world"], row["variant"]) == (world, "")}
    both = {off: tuple(m for m in MODULES if m in (*off, module)) for off in SETS if module not in off}
    return {
        seed: {off: (found[off, seed]["metrics"], found[on, seed]["metrics"]) for off, on in both.items()}
        for seed in sorted({seed for _, seed in found})
        if all((modules, seed) in found for modules in SETS)
    }


def changes(rows: list[dict[str, Any]], world: str, module: str) -> tuple[int, dict[str, list[float]]]:
    """What switching a module on changes: the number of seeds, and by metric a value for each, the mean of pairs."""
    by_seed = pairs(rows, world, module)
    values: dict[str, list[float]] = {}
    for metric in WORLDS[world].figures:
        for both in by_seed.values():
            known = [on[metric] - off[metric] for off, on in both.values() if metric in on and metric in off]
            if known:
                values.setdefault(metric, []).append(statistics.mean(known))
    return len(by_seed), values


def pair_by_pair(rows: list[dict[str, Any]], world: str, module: str) -> str:
    """The change of the first figure in each of the four pairs, and in how many of all it rose and fell."""
    metric, (head, scale, digits) = next(iter(WORLDS[world].figures.items()))
    found: dict[str, list[float]] = {}
    for both in pairs(rows, world, module).values():
        for others, (off, on) in both.items():
            beside = f"beside {'both others' if len(others) == 2 else others[0]}" if others else "alone"
            found.setdefault(beside, []).append(on[metric] - off[metric])
    told = [change(values, beside, scale, digits) for beside, values in found.items()]
    every = [value for values in found.values() for value in values]
    rose, fell = sum(value > 0 for value in every), sum(value < 0 for value in every)
    return f"{head.capitalize()}, pair by pair: {', '.join(told)}; up in {rose} of {len(every)}, down in {fell}."


def effects(rows: list[dict[str, Any]], world: str) -> list[str]:
    """``changes`` of all modules as a table."""
    figures = WORLDS[world].figures
    lines = []
    for module in MODULES:
        seeds, values = changes(rows, world, module)
        cells = [shown(values.get(metric, []), scale, digits) for metric, (_, scale, digits) in figures.items()]
        lines.append([module, seeds, *cells])
    return page.table(["module", "seeds", *(head for head, _, _ in figures.values())], lines)


def clear(values: list[float]) -> bool:
    """Whether the interval of the mean over seeds leaves out zero."""
    from marl.evaluation.statistics import over_seeds

    mean, half = over_seeds(values) if values else (0.0, 0.0)
    return abs(mean) > half + 1e-9


def change(values: list[float], head: str, scale: float, digits: int) -> str:
    """A change in words, with its sign."""
    return f"{head} {'+' if statistics.mean(values) > 0 else ''}{shown(values, scale, digits)}"


def verdicts(rows: list[dict[str, Any]], world: str) -> list[str]:
    """A sentence for each module: what it changes, and what it is not seen to change."""
    lines = []
    for module in MODULES:
        _, values = changes(rows, world, module)
        # What never changes (collisions where rules exclude them) says nothing.
        known = {name: figure for name, figure in WORLDS[world].figures.items() if any(values.get(name, ()))}
        seen = [change(values[name], *figure) for name, figure in known.items() if clear(values[name])]
        unseen = [change(values[name], *figure) for name, figure in known.items() if not clear(values[name])]
        words = [f"changes {', '.join(seen)}"] * bool(seen) + [f"no evidence for {', '.join(unseen)}"] * bool(unseen)
        if words:
            lines.append(f"- *{module.capitalize()}*: {'; '.join(words)}. {pair_by_pair(rows, world, module)}")
    return lines


def suffered(rows: list[dict[str, Any]], world: str, fault: str, level: float) -> tuple[int, list[float]]:
    """How the first figure changes under a fault: the number of policies, and for each seed the mean over its own."""
    metric = next(iter(WORLDS[world].figures))
    own = [row for row in rows if row["world"] == world]
    clean = {(row["modules"], row["seed"]): row["metrics"][metric] for row in own if row["fault"] == "none"}
    same = [row for row in own if (row["fault"], row["level"]) == (fault, level)]
    by_seed: dict[int, list[float]] = {}
    for row in same:
        by_seed.setdefault(row["seed"], []).append(row["metrics"][metric] - clean[row["modules"], row["seed"]])
    return len(same), [statistics.mean(found) for found in by_seed.values()]


def suffering(rows: list[dict[str, Any]], world: str) -> list[str]:
    """A sentence for each fault, and the table of all its levels."""
    head, scale, digits = next(iter(WORLDS[world].figures.values()))
    lines, sentences = [], []
    for fault, levels in HARM.items():
        for level in levels:
            policies, values = suffered(rows, world, fault, level)
            if values:
                lines.append([f"{fault} {level}", len(values), policies, shown(values, scale, digits)])
        harmed = [level for level in levels if clear(suffered(rows, world, fault, level)[1])]
        _, worst = suffered(rows, world, fault, levels[-1])
        if worst:
            what = f"{change(worst, head, scale, digits)} at {levels[-1]}"
            if harmed and harmed == list(levels[-len(harmed) :]):
                told = f"evidence of a change from {harmed[0]} on"
            else:
                some = " and ".join(str(level) for level in harmed)
                told = f"evidence of a change at {some} only" if some else "no evidence of a change at any level"
            sentences.append(f"- *{fault.capitalize()}*: {what}; {told}.")
    return [*sentences, "", *page.table(["messages", "seeds", "policies", f"{head}: change"], lines)]


def leaning(rows: list[dict[str, Any]]) -> list[str]:
    """Policies by what they were trained under, with the supervisor and without it, and what annealing changes."""
    figures = WORLDS["roads"].figures
    judgements = []
    found: dict[tuple[str, bool], dict[int, dict[str, float]]] = {}
    for modules, variant in dict.fromkeys((row["modules"], row["variant"]) for row in rows):
        for enabled in (True, False):
            own = [r for r in rows if (r["modules"], r["variant"], r["supervised"]) == (modules, variant, enabled)]
            kind = variant or ("supervised" if modules else "alone")
            found[kind, enabled] = {row["seed"]: row["metrics"] for row in own}
            values = [shown(of(own, metric), scale, digits) for metric, (_, scale, digits) in figures.items()]
            judgements.append([kind, "with" if enabled else "without", len(own), *values])
    heads = ["trained", "judged", "seeds", *(head for head, _, _ in figures.values())]
    lines = [*page.table(heads, judgements), ""]
    for one, two, enabled in (
        ("annealed", "supervised", False),
        ("annealed", "supervised", True),
        ("supervised", "alone", False),
    ):
        first, second = found.get((one, enabled), {}), found.get((two, enabled), {})
        seeds = sorted(first.keys() & second.keys())
        words = []
        for metric, figure in figures.items():
            changes = [first[seed][metric] - second[seed][metric] for seed in seeds if metric in first[seed]]
            if changes:
                words.append(change(changes, *figure) + ("" if clear(changes) else " (no evidence)"))
        if words:
            judged = "with" if enabled else "without"
            lines.append(f"- *{one.capitalize()}* less *{two}*, judged {judged} the supervisor: {', '.join(words)}.")
    return lines


NOTES = """\
Made by `scripts/reproduce coordination all --minutes 0.42`; single runs: [coordination.json](coordination.json).
Runs are short, so worlds are small. Grids: preset `small` of `lifelong_mapf` with 10 agents on maps of 9 cells a side;
roads: preset `hard` of `cav_merging`, in the twin, its curriculum 10 episodes long; language: `m_grpo`, preset `quick`
with questions of 1 or 2 hops and 180 steps of imitation, with a plan of steps (guidance), the calls above (intent) and
the guard of calls (safety). All rows of a world make as many agent-steps (tokens); last column: what that took.
{minutes}.

Each policy is judged with the modules that it was trained with, on instances that training never met (grids {grids},
roads {roads}, language {language} episodes a run). ±: 95 % interval over training seeds, Student's t; a row with one
seed has none. *No evidence*: the interval of the change holds zero.
"""


#: What the figures of that digest say together; to be written anew when they are, and left out of the page until then.
READING_OF = "f987c012d8c2"
READING = {
    "grids": """\
Guidance brings most, and safety builds on it: alone it is not seen to help, beside guidance it nearly doubles the
goals, for guided agents stand in each other's way (almost half of their moves are refused). Intent helps where
there is no guidance (in six pairs of six), beside guidance it does not; and hardly by what others say: losing all
their messages is not seen to change anything (below). What is left, and likely what helps, is the agent's own
announced way, a plan of its own.""",
    "roads": """\
Safety is what matters: cars are faster, more of them merge, and fewer episodes collide in each of the twelve pairs,
though policies without it differ so much between seeds that the interval of that over three holds zero. For
guidance and intent there is no evidence either way after runs so short.""",
    "language": """\
No module is seen to change success after 80,000 tokens. The guard keeps its promise, no invalid call in any of its
twelve runs, but after imitation there are few to correct. Policies trained with intent do listen: without the
messages they lose about a fifth of all questions (below), so they reach the same success in another way.""",
}


def digest(data: dict[str, Any]) -> str:
    """Of all figures of the page."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def minutes(rows: list[dict[str, Any]]) -> str:
    """What runs took, by world."""
    found = {world: [row["cpu_minutes"] for row in rows if row["world"] == world] for world in WORLDS}
    words = [f"{world} {min(taken):.2f} to {max(taken):.2f}" for world, taken in found.items() if taken]
    return f"CPU-minutes of a run: {', '.join(words)}"


def tables(out: Path, target: Path) -> None:
    """The figures below ``out`` as JSON, as plots and as a page, all in ``target``."""
    rows, messages, supervised = (read_rows(out / f"{name}.jsonl") for name in ("rows", "messages", "supervisor"))
    costs = runner.read_figures(target / "coordination_cost.json")["rows"]
    data = {"threads": 1, "rows": rows, "messages": messages, "supervisor": supervised}
    runner.write_figures(target / "coordination.json", "coordination", data)
    lines = ["# Coordination: ablation, messages, cost", "", NOTES.format(minutes=minutes(rows), **EPISODES)]
    if not rows:
        lines += [
            "The ablation has not been run: that command makes its rows.",
            "",
        ]
    else:
        plot_rows(rows, target / "coordination_ablation.svg")
        lines += ["![the eight rows](coordination_ablation.svg)", ""]
    for world in WORLDS:
        if any(row["world"] == world for row in rows):
            lines += [f"## {world.capitalize()}", "", *ablation(rows, world), ""]
            lines += ["Switching a module on, mean over the four pairs of rows, seed by seed:", ""]
            reading = [READING[world], ""] if digest(data) == READING_OF else []
            lines += [*verdicts(rows, world), "", *reading, *effects(rows, world), ""]
    if messages:
        lines += _late_messages(messages, target)
    if supervised:
        lines += _leaning(supervised)
    if costs:
        lines += _costs(costs)
    page.write(target / "coordination.md", lines)


def _late_messages(messages: list[dict[str, Any]], target: Path) -> list[str]:
    plot_messages(messages, target / "coordination_messages.svg")
    lines = [
        "## Late, lost and noisy messages",
        "",
        "Policies that heard everything in training; changes of a seed are means over its policies.",
        "",
        "![suffering](coordination_messages.svg)",
        "",
    ]
    for world in EPISODES:
        lines += [f"{world.capitalize()}:", "", *suffering(messages, world), ""]
    return lines


def _leaning(supervised: list[dict[str, Any]]) -> list[str]:
    return [
        "## Leaning on the supervisor",
        "",
        "Roads. *annealed*: its margin goes from 3 m to -30 m in the first 70 %",
        "of training. All are judged with the usual supervisor (margin 0), and without.",
        "",
        *leaning(supervised),
        "",
    ]


def _costs(costs: list[dict[str, Any]]) -> list[str]:
    cells = [
        [
            *(row[key] for key in ("world", "module", "copies", "agents")),
            f"{row['ms']:.4f}",
            "" if row["module"].startswith("none") else f"{row['added_ms']:+.4f}",
        ]
        for row in costs
    ]
    return [
        "## Cost",
        "",
        "CPU-milliseconds for one decision of all agents of one copy, one thread: the whole step",
        "(world, planner, views, an untrained policy) with one module, less the same round without; medians of",
        "interleaved rounds (`scripts/reproduce coordination_cost`, [figures](coordination_cost.json)).",
        "Drafts of intents are a second pass through the policy; late messages need none.",
        "",
        *page.table(["world", "module", "copies together", "agents", "whole step", "added"], cells),
    ]


def charts(count: int) -> Any:
    return page.subplots(count, 4.2 * count, 3.4, constrained_layout=True, squeeze=False)


def plot_rows(rows: list[dict[str, Any]], file: Path) -> None:
    """The first figure of each world, by row, with intervals over seeds."""
    from marl.evaluation.statistics import over_seeds

    worlds = [world for world in WORLDS if any(row["world"] == world for row in rows)]
    chart, axes = charts(len(worlds))
    for axis, world in zip(axes[0], worlds, strict=True):
        metric, (head, scale, _) = next(iter(WORLDS[world].figures.items()))
        for place, modules in enumerate(reversed(SETS)):
            same = [row for row in rows if (row["world"], row["modules"], row["variant"]) == (world, modules, "")]
            own = of(same, metric)
            if own:
                mean, half = over_seeds([value * scale for value in own])
                axis.barh(place, mean, xerr=None if half != half else half, color="tab:blue", alpha=0.7)
                axis.plot([value * scale for value in own], [place] * len(own), "k.", markersize=3)
        labels = [" + ".join(modules) or "none" for modules in reversed(SETS)]
        axis.set_yticks(range(len(SETS)), labels if world == worlds[0] else [""] * len(SETS))
        axis.set_title(world)
        axis.set_xlim(left=0.0)
        axis.set_xlabel(head)
    page.save(chart, file)


def plot_messages(rows: list[dict[str, Any]], file: Path) -> None:
    """The first figure of each world over the level of each fault: policies thin, their mean thick."""
    chart, axes = charts(len(EPISODES))
    for axis, world in zip(axes[0], EPISODES, strict=True):
        metric, (head, scale, _) = next(iter(WORLDS[world].figures.items()))
        own = [row for row in rows if row["world"] == world]
        for colour, (fault, levels) in zip(("tab:blue", "tab:orange", "tab:green"), HARM.items(), strict=True):
            curves: dict[tuple[Any, ...], list[float]] = {}
            for row in own:
                if row["fault"] in ("none", fault):
                    curves.setdefault((row["modules"], row["seed"]), []).append(row["metrics"][metric] * scale)
            x = [0.0, *(level / levels[-1] for level in levels)]
            whole = [curve for curve in curves.values() if len(curve) == len(x)]
            for curve in whole:
                axis.plot(x, curve, color=colour, linewidth=0.5, alpha=0.5)
            if whole:
                label = f"{fault}, up to {levels[-1]}"
                axis.plot(x, [statistics.mean(at) for at in zip(*whole, strict=True)], color=colour, label=label)
        axis.set_title(world)
        axis.set_ylabel(head)
        axis.set_xlabel("level of the fault, of the largest")
        if own:
            axis.legend(fontsize=8)
    page.save(chart, file)
