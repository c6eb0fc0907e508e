"""A run's figures over time: ``metrics.csv`` always, TensorBoard events where they are asked for.

One row per iteration, keyed by the column ``iteration``. A row is written before the checkpoint of its iteration, and
a resumed run first cuts off the rows after its checkpoint, so the log has neither gaps nor repeats.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from marl.errors import UserError
from marl.files import read_text
from marl.training.run_folder import METRICS

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

KEY = "iteration"
_MAX_BYTES = 1 << 30

Figures = Mapping[str, float]


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv``: name -> figure, without those that were not measured in an iteration.

    A last line that was cut short is left out. Raises ``UserError`` if the file is no such table.
    """
    _, rows = _read(path)
    try:
        return [{name: float(text) for name, text in row.items() if text} for row in rows]
    except ValueError:
        raise UserError(f"{path} holds something that is not a number: it is not a table of figures") from None


class MetricsLog:
    """An append-only CSV table whose columns grow with the figures that come along."""

    def __init__(self, path: Path):
        self._path = path
        self._columns: list[str] = []
        if path.exists():
            self._columns, rows = _read(path)
            # Drops a line that was cut short by a crash; appending to it would spoil two rows.
            self._rewrite(rows)

    def write(self, figures: Figures) -> None:
        """Append a row; it has reached the system when this returns. Raises ``UserError`` if the disk is full."""
        if KEY not in figures:
            raise ValueError(f"a row of figures needs its '{KEY}'")
        row = {name: _text(value) for name, value in figures.items()}
        try:
            if row.keys() <= set(self._columns):
                with self._path.open("a", encoding="utf-8", newline="") as file:
                    file.write(_lines(self._columns, [row]))
                return
            rows = _read(self._path)[1] if self._columns else []
            self._columns += [name for name in row if name not in self._columns]
            self._rewrite([*rows, row])
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def truncate_after(self, iteration: int) -> None:
        """Remove the rows of later iterations: they are about to be made again."""
        if self._columns:
            rows = _read(self._path)[1]
            try:
                self._rewrite([row for row in rows if float(row[KEY]) <= iteration])
            except (KeyError, ValueError):
                raise UserError(
                    f"{self._path} has a row without its {KEY}: move the file away to start a new one"
                ) from None

    def _rewrite(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Put the table anew in one step, so that a crash leaves the old one or the new one."""
        aside = self._path.with_name(f".tmp-{self._path.name}")
        try:
            with aside.open("w", encoding="utf-8", newline="") as file:
                file.write(_lines(self._columns, [dict(zip(self._columns, self._columns, strict=True)), *rows]))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise _unwritable(self._path, error) from None


class TensorBoardLog:
    """TensorBoard events, one scalar per figure, against ``agent_steps``. Raises ``UserError`` without the extra."""

    def __init__(self, folder: Path):
        self._folder, self._make = folder, _summary_writer()
        self._writer: SummaryWriter | None = None
        self._purge: int | None = None

    def write(self, figures: Figures) -> None:
        step = int(figures.get("agent_steps", figures[KEY]))
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=self._purge)
        for name, value in figures.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def truncate_after(self, step: int) -> None:
        """Hide the events of later steps; before the first ``write``."""
        self._purge = step + 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Tracker:
    """Where a run's figures go. folder: the run's; tensorboard: write events as well. Raises ``UserError``."""

    def __init__(self, folder: Path, tensorboard: bool = False):
        self._path = folder / METRICS
        self._table = MetricsLog(self._path)
        self._events = TensorBoardLog(folder) if tensorboard else None

    def log(self, figures: Figures) -> None:
        """Record the figures of an iteration; NaN means not measured."""
        self._table.write(figures)
        if self._events is not None:
            self._events.write(figures)

    def truncate_after(self, iteration: int) -> None:
        """Forget later iterations, before they are made again."""
        self._table.truncate_after(iteration)
        rows = read_metrics(self._path) if self._path.exists() else []
        if self._events is not None and rows:
            self._events.truncate_after(int(rows[-1].get("agent_steps", iteration)))

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def _summary_writer() -> type[SummaryWriter]:
    # Imported here: TensorBoard is an extra, and slow to load.
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "tracking.tensorboard needs the extra 'tracking': pip install 'marl-platform[tracking]'"
        ) from None
    return SummaryWriter


def _text(value: float) -> str:
    """A figure so that it reads back exactly; nothing where it was not measured."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    return str(int(value)) if isinstance(value, int) else repr(float(value))


def _lines(columns: list[str], rows: Iterable[Mapping[str, str]]) -> str:
    buffer = io.StringIO()
    csv.DictWriter(buffer, columns, restval="", lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and whole rows of a table."""
    try:
        text = read_text(path, _MAX_BYTES)
        lines = text[: text.rfind("\n") + 1]
        header, *rows = csv.reader(io.StringIO(lines), strict=True)
        return header, [dict(zip(header, row, strict=True)) for row in rows]
    except (ValueError, csv.Error):
        raise UserError(f"{path} is damaged: move the file away to start a new one") from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written: {error.strerror or error}")
