"""``marl status``."""

# Functions that do the work are imported where they are called: they bring torch along.

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from marl.commands.output import line


def status(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Show how a run is doing: progress, rates, episodes lost, and its workers with their places."""
    from marl.training.status import status_lines

    for text in status_lines(run):
        line(text)
