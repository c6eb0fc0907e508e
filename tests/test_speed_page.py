"""What the page of speed says about the ends of its curves."""

from __future__ import annotations

from pathlib import Path

from scripts.benchmarks.speed.page import _breaks, _comparisons, _table

FIGURES = Path(__file__).parent.parent / "docs" / "benchmarks"


def _points(seconds: tuple[float, float], gib: tuple[float, float]) -> list[dict]:
    return [
        {"work": {"vary": size, "size": f"{size} copies", "seconds": time, "peak_bytes": memory * 2**30}}
        for size, time, memory in zip((10, 100), seconds, gib, strict=True)
    ]


def test_what_breaks_first_by_hand() -> None:
    # Time in proportion: 32 steps of .1 s at 100 are 3.2 s, so a step of 1 s is at 1,000. Memory with the square root:
    # 4 GiB at 100 are 16 GiB at 1,600.
    told = _breaks(_points((0.32, 3.2), (4 / 10**0.5, 4.0)), 32)
    assert told == "1 CPU-second a step at about 1 k copies, 16 GiB at about 1.6 k copies"
    # A pass of 3.2 s is beyond 1 s already at 31 copies.
    assert _breaks(_points((0.32, 3.2), (1.0, 1.0)), None) == "1 CPU-second a pass at about 31.2 copies"


def test_what_does_not_grow_does_not_break() -> None:
    assert _breaks(_points((0.1, 0.1), (1.0, 1.0)), 32) == "neither memory nor time grows"


def test_the_table_is_that_of_the_figures_beside_it() -> None:
    rows = list(_comparisons(FIGURES))
    assert all(row["ratios"] for row in rows)
    assert "\n".join(_table(rows)) in (FIGURES / "speed.md").read_text(encoding="utf-8")
