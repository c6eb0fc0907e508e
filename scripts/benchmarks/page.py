"""How pages of figures are written: tables, figures with their intervals, plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def line(cells: Iterable[object]) -> str:
    """A line of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    return [line(head), "|" + "---|" * len(head), *(line(row) for row in rows)]


def spread(value: float, half: float = math.nan, digits: int = 2, scale: float = 1.0) -> str:
    """``value ± half``; the value alone if there is no interval, a dash if there is no value."""
    if math.isnan(value):
        return "-"
    interval = "" if not math.isfinite(half) else f" ± {half * scale:.{digits}f}"
    return f"{value * scale:.{digits}f}{interval}"


def span(low: float, high: float, digits: int = 3, sign: str = "", scale: float = 1.0) -> str:
    """``[low, high]``; sign: "+" to write it always."""
    return f"[{low * scale:{sign}.{digits}f}, {high * scale:{sign}.{digits}f}]"


def write(file: Path, lines: Iterable[str]) -> None:
    """Write a page; it ends with one line break."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines).rstrip("\n") + "\n", encoding="utf-8")


def subplots(columns: int, width: float, height: float, **options: Any) -> Any:
    """A figure and its axes, drawn without a screen, as SVG whose text is the same each time."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "marl"
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(width, height), **options)


def save(figure: Any, file: Path) -> None:
    """Write a figure as SVG without the date, and close it."""
    from matplotlib import pyplot

    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
