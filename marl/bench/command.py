"""What ``marl bench`` does: builds the parts of a scenario and lets them take turns."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from marl import api
from marl.bench.clock import PeakMemory, Stopwatch, device_name, memory_bandwidth
from marl.bench.language import LanguageParts
from marl.bench.rows import Row, exponent, median_row
from marl.bench.worlds import PARTS, Part, WorldParts
from marl.config import AnyRunConfig
from marl.errors import UserError, nearest
from marl.scenario import Axis, Scenario, load_scenario
from marl.systems.registry import load_system
from marl.training.process import prepare_process

#: (what is being measured, turns done, turns in all)
Progress = Callable[[str, int, int], None]

_COPIES = Axis("copies", {size: {"copies": size} for size in (1, 8, 64, 512)})
_MAX_CALLS = 200


def bench(
    scenario: str,
    *,
    preset: str | None = None,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    parts: Sequence[str] = PARTS,
    vary: str | None = None,
    repeats: int = 5,
    seconds: float = 0.3,
    steps: int | None = None,
    progress: Progress = lambda *_: None,
) -> list[Row]:
    """Measure a scenario; raises ``UserError``.

    options, overrides, preset, system: as for ``marl train``; what they do not say comes from the scenario's
        ``benchmark``. parts: of ``PARTS``. vary: one of the scenario's sizes, run through one value after the other.
    repeats: turns of each part, after one that warms up; they alternate, and medians are kept.
    seconds: that one turn takes at the least. steps: of all copies in one pass of the world; else the scenario's.
    """
    found = load_scenario(scenario)
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise UserError(f"there is no part '{unknown[0]}'{nearest(unknown[0], PARTS)}")
    prepare_process()
    sizes: list[tuple[float | None, Mapping[str, Any]]] = [(None, {})]
    axis = None
    if vary is not None:
        axis = _axis(found, vary)
        sizes = list(axis.settings.items())
    rows: list[Row] = []
    bandwidth: float | None = None
    for size, settings in sizes:
        config = api.configure(
            scenario,
            preset=preset,
            system=system,
            options=options,
            overrides=[*overrides, *(f"{key}={json.dumps(value)}" for key, value in settings.items())],
            base=found.benchmark.settings if preset is None else {},
        )
        device = api.device_of(config)
        if bandwidth is None:
            bandwidth = memory_bandwidth(device)
            peak = PeakMemory(device)
        peak.restart()
        label = "" if size is None or axis is None else f"{size:g} {axis.unit}"
        rows += _measure(
            found,
            config,
            tuple(parts),
            repeats,
            seconds,
            steps or found.benchmark.steps,
            bandwidth,
            label,
            size,
            peak,
            progress,
        )
    if axis is not None:
        rows += list(_exponents(rows, axis))
    return rows


def _axis(scenario: Scenario, name: str) -> Axis:
    axes = {"copies": _COPIES, **scenario.benchmark.axes}
    if name not in axes:
        raise UserError(f"{scenario.name} has no size '{name}' to run through{nearest(name, list(axes))}")
    return axes[name]


def _measure(
    scenario: Scenario,
    config: AnyRunConfig,
    wanted: tuple[str, ...],
    repeats: int,
    seconds: float,
    steps_of_world: int,
    bandwidth: float,
    label: str,
    size: float | None,
    peak: PeakMemory,
    progress: Progress,
) -> Iterator[Row]:
    """All parts of one configuration, in turns."""
    device = torch.device(config.device)
    made: list[Part]
    if load_system(config.system).kind == "language":
        made = list(LanguageParts(scenario, config).parts(wanted))
    else:
        made = list(WorldParts(scenario, config, steps_of_world).parts(wanted))
    per = Stopwatch(device).unit
    rates: dict[str, list[float]] = {part.name: [] for part in made}
    # The turn that warms up also says how often a part has to be repeated until it takes long enough.
    calls = {part.name: _calls(part, seconds) for part in made}
    for turn in range(repeats):
        for number, part in enumerate(made):
            progress(f"{scenario.name}: {part.name} {label}".rstrip(), turn * len(made) + number, repeats * len(made))
            spent = steps = 0.0
            for _ in range(calls[part.name]):
                spent += part.run()
                steps += part.steps()
            rates[part.name].append(steps / max(spent, 1e-9))
    for part in made:
        work: dict[str, Any] = {
            "scenario": scenario.name,
            "preset": config.preset,
            "copies": config.copies,
            **scenario.instance(config.world),
            **part.notes(),
        }
        seconds_each = part.steps() / statistics.median(rates[part.name])
        if size is not None:
            work |= {"size": label, "vary": size, "seconds": seconds_each, "peak_bytes": float(peak.bytes())}
        row = median_row(part.name, f"{part.unit} per {per}", device_name(device), rates[part.name], work)
        if part.bytes_per_step is not None:
            share = row.value * part.bytes_per_step / bandwidth
            moved = {"bytes_per_agent_step": part.bytes_per_step, "bandwidth_bytes_per_second": bandwidth}
            row = replace(row, work={**row.work, **moved, "bandwidth_share": share})
        yield row
        part.close()
    progress(f"{scenario.name} {label}".rstrip(), repeats * len(made), repeats * len(made))


def _calls(part: Part, seconds: float) -> int:
    part.run()
    spent = part.run()
    return min(_MAX_CALLS, max(1, round(seconds / max(spent, 1e-4))))


def _exponents(rows: Sequence[Row], axis: Axis) -> Iterator[Row]:
    """How the time of a step of all copies grows with the size, by part."""
    for name in dict.fromkeys(row.name for row in rows):
        own = [row for row in rows if row.name == name]
        sizes = [float(row.work["vary"]) for row in own]
        times = [float(row.work["seconds"]) for row in own]
        work = {"scenario": own[0].work["scenario"], "size": f"{axis.unit} {min(sizes):g} to {max(sizes):g}"}
        yield Row(f"{name}: exponent", f"power of {axis.unit}", exponent(sizes, times), own[0].device, 1, work)
