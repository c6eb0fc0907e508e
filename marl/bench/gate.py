"""Is it still as fast as it was? Rates beside a yardstick in the same run, compared with ratios that were stored.

Times on other machines, or beside other load, say nothing; the ratio of two programs that take turns on one machine
does. A part fails when even the upper bound of its ratio lies a quarter below the stored one.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TURNS = 9
#: The least share of the stored ratio that passes.
LEAST = 0.75
#: Student's t for 8 degrees of freedom: 5 % lie above it, so that a 90 % interval ends there.
_T_OF_NINE = 1.860

#: Does some work; returns its rate, such as agent-steps per CPU-second.
Rate = Callable[[], float]


def interleaved(parts: Mapping[str, Rate], yardstick: Rate, turns: int = TURNS) -> dict[str, list[float]]:
    """Rates over the yardstick's rate: all take turns, after one turn that warms up. By part, ``turns`` ratios each.

    A part is compared with the mean of the yardstick before and after it, so that a load that comes and goes cancels.
    """
    for warm in (yardstick, *parts.values()):
        warm()
    ratios: dict[str, list[float]] = {name: [] for name in parts}
    before = yardstick()
    for _ in range(turns):
        rates = {name: part() for name, part in parts.items()}
        after = yardstick()
        for name, rate in rates.items():
            ratios[name].append(2 * rate / (before + after))
        before = after
    return ratios


def upper_bound(ratios: Sequence[float]) -> float:
    """The upper end of the 90 % interval of the (geometric) mean of nine ratios."""
    if len(ratios) != TURNS:
        raise ValueError(f"the bound is for {TURNS} ratios, not for {len(ratios)}")
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(statistics.mean(logs) + _T_OF_NINE * statistics.stdev(logs) / math.sqrt(TURNS))


def slower(stored: Mapping[str, float], measured: Mapping[str, Sequence[float]]) -> list[str]:
    """The parts that are a quarter slower than stored beyond doubt, each in a sentence."""
    found = []
    for name, ratios in measured.items():
        share = upper_bound(ratios) / stored[name]
        if share < LEAST:
            found.append(
                f"{name} makes {statistics.median(ratios):.3g} times the yardstick's rate, at most {share:.2f} of "
                f"the stored {stored[name]:.3g}"
            )
    return found


def read_ratios(path: Path, processor: str) -> dict[str, float] | None:
    """The stored ratios of this processor model by part; None if nothing was stored for it."""
    if not path.exists():
        return None
    stored: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))["processors"]
    return stored.get(processor)


def store_ratios(path: Path, processor: str, measured: Mapping[str, Sequence[float]]) -> None:
    """Keep the medians for this processor model; those of other models stay."""
    record: dict[str, Any] = {"schema_version": 1, "processors": {}}
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
    record["processors"][processor] = {
        name: float(f"{statistics.median(ratios):.4g}") for name, ratios in measured.items()
    }
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
