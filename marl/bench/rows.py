"""Rows of figures, as ``marl bench`` prints and writes them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One figure.

    name: what was measured, such as ``world with observations``. value: the median of ``work["repeats"]``.
    work: what was done: scenario, sizes, all repeats; where known ``bytes_per_agent_step`` and ``bandwidth_share``.
    """

    name: str
    unit: str
    value: float
    device: str
    threads: int
    work: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON has it, numbers with four digits."""
        return {
            "name": self.name,
            "unit": self.unit,
            "value": rounded(self.value),
            "device": self.device,
            "threads": self.threads,
            "work": rounded(dict(self.work)),
        }


def rounded(value: Any) -> Any:
    """Floats of a tree with four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def write_rows(path: Path, rows: Sequence[Row], **extra: Any) -> None:
    """The JSON form: ``schema_version``, ``rows`` and further entries."""
    record = {"schema_version": SCHEMA_VERSION, **rounded(extra), "rows": [row.plain() for row in rows]}
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def show_rows(rows: Sequence[Row], console: Console) -> None:
    """A table of the rows on a terminal or in a log."""
    table = Table(box=None, pad_edge=False)
    # Where the line is too short the unit goes on below; names and figures stay whole.
    for heading in ("scenario", "what", "size"):
        table.add_column(heading, no_wrap=True)
    for heading in ("median", "least", "most", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit")
    for row in rows:
        repeats = row.work.get("repeats", [row.value])
        share = row.work.get("bandwidth_share")
        table.add_row(
            str(row.work.get("scenario", "")),
            row.name,
            str(row.work.get("size", "")),
            *(readable(value) for value in (row.value, min(repeats), max(repeats))),
            "" if share is None else f"{100 * share:.1f} %",
            row.unit,
        )
    if not console.is_terminal:
        console.width = 200  # a log has no margin
    console.print(table)


def readable(value: float) -> str:
    """Three digits with M or k behind, such as ``1.46 M``."""
    for size, sign in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log(seconds) over log(size) by least squares: 1 if time grows with the size; NaN below two sizes."""
    if len(sizes) < 2:
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def median_row(name: str, unit: str, device: str, repeats: Sequence[float], work: Mapping[str, Any]) -> Row:
    """A row of the median of some measurements, taken with one thread."""
    return Row(name, unit, statistics.median(repeats), device, 1, {**work, "repeats": list(repeats)})
