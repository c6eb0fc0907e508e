"""docs/benchmarks/speed.md and its plots, from the figures that lie beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marl.bench.rows import readable

_INTRODUCTION = """# Speed

Ours beside established packages: the same work in turns on one machine, one thread each, medians, per CPU-second of all
processes. Absolute figures change with the machine; quote the ratios. Written by `scripts/reproduce speed` from
[speed.json](speed.json), [scaling.json](scaling.json) and the files named below.
"""

#: Where a curve is said to break: a laptop's memory, and a step of all copies that makes a user wait.
MEMORY_LIMIT, STEP_LIMIT = 16.0 * 2**30, 1.0

#: What the page is to show; rows that are missing are named.
_EXPECTED = (
    "world and observations, POGEMA",
    "MAPPO on lifelong MAPF end to end, one epoch",
    "guided planning, kind `shared`, 192 agents",
    "guided planning, kind `follower`, 192 agents",
    "merge twin, vehicle-steps with observation and reward",
    "`sumo` backend, decisions with observation and reward",
    "MAPPO on VMAS navigation",
    "MAPPO on VMAS balance",
    "MAPPO on VMAS navigation, 600 copies",
    "MAPPO on VMAS balance, 600 copies",
    "group-relative training of the tiny model, completions",
    "traffic signals, agent-steps",
)


def write_page(folder: Path) -> None:
    """Write ``speed.md``, ``speed_ratios.svg`` and ``speed_scaling.svg`` into the folder of the figures."""
    rows = list(_comparisons(folder))
    lines = [_INTRODUCTION]
    machines = dict.fromkeys(str(row["device"]) for row in rows if row.get("device"))
    if machines:
        lines.append(f"Machine: {'; '.join(machines)}.\n")
    if rows:
        lines += _table(rows)
        _plot_ratios(rows, folder / "speed_ratios.svg")
        lines.append("![ratios of the rounds beside what was aimed at](speed_ratios.svg)\n")
        missing = [name for name in _EXPECTED if name not in {row["name"] for row in rows}]
        missing.append("everything on a GPU")
        lines.append(f"Not measured yet: {'; '.join(missing)}.\n")
        lines += _differences(rows)
    scaling = _read(folder / "scaling.json").get("rows", [])
    curves = [row for row in scaling if "vary" in row]
    if curves:
        lines += _curves(curves)
        _plot_curves(curves, folder / "speed_scaling.svg")
        lines.append("![seconds of a step over sizes](speed_scaling.svg)\n")
    paths = [row for row in scaling if "vary" not in row]
    if paths:
        lines += _paths(paths)
    (folder / "speed.md").write_text("\n".join(lines), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _comparisons(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of our own file, and those that other scripts measured."""
    yield from _read(folder / "speed.json").get("rows", [])
    cav = _read(folder / "cav_speed.json")
    if cav:
        sides = cav["rows"]["twin"]["vehicle_steps"], cav["rows"]["sumo"]["vehicle_steps"]
        name = "merge twin, vehicle-steps with observation and reward"
        yield _of_roads(cav, "twin_to_sumo", name, "our `sumo` backend", *sides)
    if "anchor_value" in cav:
        sides = cav["rows"]["sumo"]["decisions"], cav["anchor_value"]
        name = "`sumo` backend, decisions with observation and reward"
        yield _of_roads(cav, "sumo_to_highway_env", name, cav["anchor"]["name"], *sides)
    language = _read(folder / "language_speed.json")
    if language:
        yield _elsewhere("group-relative training of the tiny model, completions", 2.3, language, "language_speed.json")
    signals = _read(folder / "traffic_signals_speed.json")
    if signals:
        yield _elsewhere("traffic signals, agent-steps", 1.0, signals, "traffic_signals_speed.json")


def _of_roads(
    cav: dict[str, Any], key: str, name: str, anchor: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> dict[str, Any]:
    """A row from the record of the roads."""
    return {
        "name": name,
        "ratio": cav["ratio"][key],
        "ratios": _by_turn(ours, theirs),
        "target": cav["target"][key],
        "anchor": anchor,
        "file": "cav_speed.json",
    }


def _by_turn(ours: dict[str, Any], theirs: dict[str, Any]) -> list[float]:
    """The ratio of each turn, of two records that hold ``all`` their figures."""
    return [mine / other for mine, other in zip(ours["all"], theirs["all"], strict=True)]


def _elsewhere(name: str, target: float, record: dict[str, Any], file: str) -> dict[str, Any]:
    """A row from the record of another script."""
    ours = record["value"] if "value" in record else record["marl"]
    anchor, asked = record["anchor"], record.get("target", target)
    return {
        "name": name,
        "unit": "per CPU-second",
        "value": ours["median"],
        "anchor_value": record["anchor_value"]["median"],
        "ratio": record["ratio"],
        "ratios": _by_turn(ours, record["anchor_value"]),
        "target": asked["asked"] if isinstance(asked, dict) else asked,
        "anchor": anchor["name"] if isinstance(anchor, dict) else anchor,
        "differences": record.get("differences", []),
        "file": file,
    }


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| what | ours | theirs | ratio | least and most | asked | n |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        ratios = row.get("ratios", [])
        span = f"{min(ratios):.3g} to {max(ratios):.3g}" if ratios else ""
        ours = (
            f"{readable(row['value'])} {row.get('unit', '')}" if "value" in row else f"[{row['file']}]({row['file']})"
        )
        theirs = f"{row['anchor']}: {readable(row['anchor_value'])}" if "anchor_value" in row else row["anchor"]
        missed = "" if row["ratio"] >= row["target"] else ", **missed**"
        count = str(len(ratios)) if ratios else ""
        asked = f"{row['target']:g}{missed}"
        lines.append(f"| {row['name']} | {ours} | {theirs} | {row['ratio']:.3g} | {span} | {asked} | {count} |")
    return [*lines, ""]


def _differences(rows: list[dict[str, Any]]) -> list[str]:
    named = [(row["name"], row["differences"]) for row in rows if row.get("differences")]
    if not named:
        return []
    return ["What differs in the work, ours first:\n", *(f"- {name}: {'; '.join(how)}." for name, how in named), ""]


def _curves(curves: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## Sizes\n",
        "Seconds of one pass (all steps of all copies, `marl bench SCENARIO --vary NAME`) over a size, and the power "
        "with which they grow, by least squares on logarithms: 0 is no growth, 1 in proportion. Memory: the most that "
        "was held at the largest size while all parts of a curve took turns, above what the process held before.\n",
        "| what | size | rate at the least size | at the largest | power | memory |",
        "|---|---|---|---|---|---|",
    ]
    breaks = ["What breaks first, going on as from the last size but one to the last:\n"]
    for curve in curves:
        for name, points in _points(curve).items():
            power = next((r["value"] for r in curve["rows"] if r["name"] == f"{name}: exponent"), float("nan"))
            first, last = points[0], points[-1]
            size = f"{first['work']['size']} to {last['work']['size']}"
            rates = f"{readable(first['value'])} | {readable(last['value'])} {last['unit']}"
            held = f"{last['work']['peak_bytes'] / 2**20:,.0f} MiB" if "peak_bytes" in last["work"] else ""
            lines.append(f"| {curve['scenario']}: {name} | {size} | {rates} | {power:.2f} | {held} |")
        if "peak_bytes" in points[-1]["work"]:
            breaks.append(f"- {curve['scenario']}, {name} by {curve['vary']}: {_breaks(points, curve.get('steps'))}.")
    return [*lines, "", *(breaks if len(breaks) > 1 else []), ""]


def _breaks(points: list[dict[str, Any]], steps: int | None) -> str:
    """Whether memory or time ends a curve that goes on as it did at its end. steps: of one pass, if it has any."""
    unit = points[-1]["work"]["size"].split(" ", 1)[1]

    def until(key: str, limit: float) -> float:
        (x0, y0), (x1, y1) = ((row["work"]["vary"], row["work"][key]) for row in points[-2:])
        slope = math.log(max(y1, 1e-12) / max(y0, 1e-12)) / math.log(x1 / x0)
        return x1 * (limit / y1) ** (1.0 / slope) if slope > 0.2 and y1 > 0 else math.inf

    memory, clock = until("peak_bytes", MEMORY_LIMIT), until("seconds", STEP_LIMIT * (steps or 1))
    ends = (
        (memory, f"{MEMORY_LIMIT / 2**30:g} GiB"),
        (clock, f"{STEP_LIMIT:g} CPU-second a {'step' if steps else 'pass'}"),
    )
    told = [f"{label} at about {readable(size)} {unit}" for size, label in sorted(ends) if size < math.inf]
    return ", ".join(told) if told else "neither memory nor time grows"


def _points(curve: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a curve by part, sizes rising."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in curve["rows"]:
        if "vary" in row["work"]:
            found.setdefault(row["name"], []).append(row)
    return {name: sorted(rows, key=lambda row: row["work"]["vary"]) for name, rows in found.items()}


def _paths(paths: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## Where training spends its time\n",
        "`marl bench SCENARIO`: each part alone, and the shares within the whole. Memory: bytes that have to move at "
        "the least, over what a copy of a large array reaches on the spot.\n",
        "| what | rate | memory | shares |",
        "|---|---|---|---|",
    ]
    for path in paths:
        for row in path["rows"]:
            work = row["work"]
            shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in work.get("shares", {}).items())
            memory = f"{100 * work['bandwidth_share']:.1f} %" if "bandwidth_share" in work else ""
            rate = f"{readable(row['value'])} {row['unit']}"
            lines.append(f"| {path['scenario']}: {row['name']} | {rate} | {memory} | {shares} |")
    return [*lines, ""]


def _plot_ratios(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.0, 0.9 + 0.45 * len(rows)))
    for place, row in enumerate(reversed(rows)):
        ratios = row.get("ratios") or [row["ratio"]]
        axes.plot(ratios, [place] * len(ratios), "o", color="#0072b2", alpha=0.5, markersize=5)
        axes.plot([row["ratio"]], [place], "|", color="#0072b2", markersize=16, markeredgewidth=2)
        axes.plot([row["target"]], [place], "x", color="#d55e00", markersize=8)
    axes.set_yticks(range(len(rows)), [row["name"].replace("`", "") for row in reversed(rows)], fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set_xlabel("times the other's rate (rounds, median |, asked x)")
    _save(figure, path)


def _plot_curves(curves: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.0, 4.5))
    for curve in curves:
        for name, points in _points(curve).items():
            sizes = [row["work"]["vary"] for row in points]
            seconds = [row["work"]["seconds"] for row in points]
            label = f"{curve['scenario']}, {name} by {curve['vary']}"
            axes.plot(sizes, seconds, "o-", markersize=4, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("size")
    axes.set_ylabel("CPU-seconds of one pass")
    axes.legend(fontsize=7)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """As SVG whose text does not change from one run to the next."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = path.name
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    matplotlib.pyplot.close(figure)
