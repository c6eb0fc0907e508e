"""Where the time goes, and how far a run is: always shown, in a terminal and in a log file."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_WINDOW = 30  # updates that speed and shares are taken over
_LIVE_SECONDS = 0.25
_LINE_SECONDS = 5.0


class PhaseClock:
    """Seconds spent in named phases, of the clock (``wall``) and of this process's CPU (``cpu``).

    Phases may be nested; the time of an inner one counts for it alone.
    """

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._running: list[str] = []
        self._wall_mark = self._cpu_mark = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside for ``name``."""
        self._charge()
        self._running.append(name)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    def _charge(self) -> None:
        """Give the time since the last mark to the innermost phase."""
        wall, cpu = time.perf_counter(), time.process_time()
        if self._running:
            name = self._running[-1]
            self.wall[name] = self.wall.get(name, 0.0) + wall - self._wall_mark
            self.cpu[name] = self.cpu.get(name, 0.0) + cpu - self._cpu_mark
        self._wall_mark, self._cpu_mark = wall, cpu


class _Moment(NamedTuple):
    time: float
    steps: float
    wall: dict[str, float]


class Progress:
    """The live display of a run: redrawn in place on a terminal, a line every few seconds elsewhere.

    total_steps: agent-steps of the whole run. primary_metric: of the world, shown beside the return.
    done_steps: agent-steps that were made before. live: False shows nothing.
    A context manager; what is printed meanwhile appears above the display.
    """

    def __init__(
        self,
        total_steps: int,
        primary_metric: str = "",
        done_steps: int = 0,
        live: bool = True,
        console: Console | None = None,
    ):
        self._total, self._metric = total_steps, primary_metric
        self._console = console or Console()
        self._shown = live
        self._recent: deque[_Moment] = deque([_Moment(time.perf_counter(), done_steps, {})], maxlen=_WINDOW)
        # Redrawn by update alone: a drawing thread would take its share of the cores.
        self._live = Live(console=self._console, auto_refresh=False) if live and self._console.is_terminal else None
        self._last_shown = -math.inf
        self._figures: Mapping[str, float] = {}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._figures and self._shown:
            self._draw()
        if self._live is not None:
            self._live.stop()

    def update(self, figures: Mapping[str, float], clock: PhaseClock) -> None:
        """Take note of an iteration: ``agent_steps`` and whatever else ``metrics.csv`` gets."""
        now = time.perf_counter()
        self._figures = {**self._figures, **{name: x for name, x in figures.items() if not math.isnan(x)}}
        self._recent.append(_Moment(now, figures["agent_steps"], dict(clock.wall)))
        if self._shown and now - self._last_shown >= (_LINE_SECONDS if self._live is None else _LIVE_SECONDS):
            self._last_shown = now
            self._draw()

    def speed(self) -> float:
        """Agent-steps per second lately; 0 until there is something to tell it from."""
        first, last = self._recent[0], self._recent[-1]
        seconds = last.time - first.time
        return (last.steps - first.steps) / seconds if seconds > 0 else 0.0

    def shares(self) -> dict[str, float]:
        """Phase -> its part of the time lately, largest first; what lies between phases is ``other``."""
        first, last = self._recent[0], self._recent[-1]
        spent = {name: total - first.wall.get(name, 0.0) for name, total in last.wall.items()}
        inside = sum(spent.values())
        spent["other"] = max(0.0, last.time - first.time - inside)
        whole = inside + spent["other"]
        return {name: part / whole for name, part in sorted(spent.items(), key=lambda item: -item[1])} if whole else {}

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)
        else:
            self._console.print(" | ".join(self._parts()), soft_wrap=True, highlight=False, markup=False)

    def _parts(self) -> list[str]:
        """What there is to say, most important first."""
        steps = self._recent[-1].steps
        speed = self.speed()
        parts = [f"{_count(steps)}/{_count(self._total)} agent-steps"]
        if speed > 0:
            parts.append(f"{_count(speed)}/s")
        if "reward" in self._figures:
            parts.append(f"reward {self._figures['reward']:.4g}")
        for name in dict.fromkeys(["return", self._metric]):
            for source, label in (("episode", name), ("evaluation", f"evaluated {name}")):
                if f"{source}/{name}" in self._figures:
                    parts.append(f"{label} {self._figures[f'{source}/{name}']:.4g}")
        shares = [f"{name} {share:.0%}" for name, share in self.shares().items() if share >= 0.005]
        if shares:
            parts.append(", ".join(shares))
        if steps >= self._total:
            parts.append("done")
        elif speed > 0:
            parts.append(f"{_duration((self._total - steps) / speed)} left")
        return parts

    def _panel(self) -> RenderableType:
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        share = min(self._recent[-1].steps / self._total, 1.0)
        bar.add_row(ProgressBar(total=1.0, completed=share), f"{share:.0%}")
        return Group(bar, Text("  ".join(self._parts()), overflow="fold"))


def _count(number: float) -> str:
    """1234567 as 1.23M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def _duration(seconds: float) -> str:
    """75 as 1:15; 3700 as 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
