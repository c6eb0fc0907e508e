"""What ``marl bench`` does: builds the parts of a scenario and lets them take turns."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    axis = None if vary is None else _axis(found, vary)
    sizes: list[tuple[float | None, Mapping[str, Any]]] = [(None, {})] if axis is None else [*axis.settings.items()]
    turns = _Turns(tuple(parts), repeats, seconds, steps or found.benchmark.steps, progress)
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
        rows += _measure(_Case(found, config, size, label), turns, bandwidth, peak)
    if axis is not None:
        rows += list(_exponents(rows, axis))
    return rows


@dataclass(frozen=True)
class _Turns:
    """How all sizes are measured; fields as the arguments of ``bench``. steps: of all copies, of the world's parts."""

    parts: tuple[str, ...]
    repeats: int
    seconds: float
    steps: int
    progress: Progress

    def rates(self, made: Sequence[Part], title: str, label: str) -> dict[str, list[float]]:
        """Steps per second of each turn, by part."""
        rates: dict[str, list[float]] = {part.name: [] for part in made}
        # The turn that warms up also says how often a part has to be repeated until it takes long enough.
        calls = {part.name: _calls(part, self.seconds) for part in made}
        total = self.repeats * len(made)
        for turn in range(self.repeats):
            for number, part in enumerate(made):
                self.progress(f"{title}: {part.name} {label}".rstrip(), turn * len(made) + number, total)
                spent = steps = 0.0
                for _ in range(calls[part.name]):
                    spent += part.run()
                    steps += part.steps()
                rates[part.name].append(steps / max(spent, 1e-9))
        return rates


@dataclass(frozen=True)
class _Case:
    """One configuration. size: where sizes are run through, which one; label: the same in words."""

    scenario: Scenario
    config: AnyRunConfig
    size: float | None
    label: str

    def parts(self, turns: _Turns) -> list[Part]:
        """What is to be measured, built."""
        if load_system(self.config.system).kind == "language":
            return list(LanguageParts(self.scenario, self.config).parts(turns.parts))
        return list(WorldParts(self.scenario, self.config, turns.steps).parts(turns.parts))

    def work(self, part: Part, rates: Sequence[float], peak: PeakMemory) -> dict[str, Any]:
        """What a row says of the work that was measured."""
        work: dict[str, Any] = {
            "scenario": self.scenario.name,
            "preset": self.config.preset,
            "copies": self.config.copies,
            **self.scenario.instance(self.config.world),
            **part.notes(),
        }
        seconds = part.steps() / statistics.median(rates)
        if self.size is not None:
            work |= {"size": self.label, "vary": self.size, "seconds": seconds, "peak_bytes": float(peak.bytes())}
        return work


def _axis(scenario: Scenario, name: str) -> Axis:
    axes = {"copies": _COPIES, **scenario.benchmark.axes}
    if name not in axes:
        raise UserError(f"{scenario.name} has no size '{name}' to run through{nearest(name, list(axes))}")
    return axes[name]


def _measure(case: _Case, turns: _Turns, bandwidth: float, peak: PeakMemory) -> Iterator[Row]:
    """All parts of one configuration, in turns."""
    device = torch.device(case.config.device)
    made = case.parts(turns)
    per = Stopwatch(device).unit
    title = case.scenario.name
    rates = turns.rates(made, title, case.label)
    for part in made:
        work = case.work(part, rates[part.name], peak)
        row = median_row(part.name, f"{part.unit} per {per}", device_name(device), rates[part.name], work)
        if part.bytes_per_step is not None:
            share = row.value * part.bytes_per_step / bandwidth
            moved = {"bytes_per_agent_step": part.bytes_per_step, "bandwidth_bytes_per_second": bandwidth}
            row = replace(row, work={**row.work, **moved, "bandwidth_share": share})
        yield row
        part.close()
    total = turns.repeats * len(made)
    turns.progress(f"{title} {case.label}".rstrip(), total, total)


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
