"""``marl report``: training runs side by side, over their seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from marl.cli_words import Form, FormOption, check_writable
from marl.commands.output import line, say


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of training runs, in one scenario.")],
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of episodes of training; by default the scenario's first.")
    ] = None,
    last: Annotated[float, typer.Option(min=0.001, max=1.0, help="Share of training whose mean is compared.")] = 0.1,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write table and curves as a page.")
    ] = None,
    form: FormOption = Form.TEXT,
) -> None:
    """Compare training runs: those that differ in their seed alone are one line, with an interval over seeds."""
    from marl.evaluation.report import write_report
    from marl.evaluation.tables import written
    from marl.training.comparison import compare_runs, groups_of
    from marl.training.report import learning_curves

    check_writable(html)
    groups = groups_of(runs)
    table = compare_runs(groups, metric, last)
    line(written(table, form.value))
    if html is not None:
        curves = learning_curves({group.name: list(group.runs.values()) for group in groups}, table.header[2], {})
        write_report(html, title="training runs", summary={"runs": len(runs)}, curves=curves, headline=table)
        say(f"wrote {html}")
