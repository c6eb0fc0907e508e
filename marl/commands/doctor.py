"""``marl doctor``: what is installed, what is missing for which scenario, and how to get it."""

from __future__ import annotations

import typer

from marl.commands.output import line


def doctor() -> None:
    """Say what is installed, what is missing for which scenario, and how to get it; exit code 1 if nothing can run."""
    # Imported here: it brings torch along.
    from marl.doctor import examine

    findings = examine()
    names = max(len(finding.what) for finding in findings)
    for finding in findings:
        line(f"{finding.state:7}  {finding.what:{names}}  {finding.detail}")
        if finding.mend:
            line(f"{'':7}  {'':{names}}  -> {finding.mend}")
    if any(finding.needed and finding.state != "ok" for finding in findings):
        raise typer.Exit(1)
