"""``marl evaluate --replay``: a plan file, validated and counted."""

# As in ``marl.cli``, nothing that brings torch along is imported before it is needed.

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from marl.cli_words import check_writable
from marl.commands.output import line, say

SCHEMA_VERSION = 1


def judge(
    plan: Path,
    scenario: str,
    options: Mapping[str, Any],
    preset: str | None,
    overrides: Sequence[str],
    out: Path | None,
) -> None:
    """Print what a plan file holds, each fault on a line of its own; exit code 1 if there are some.

    Args:
        plan: the file.
        scenario, options, preset, overrides: of the instance, as ``marl.api.replay`` takes them.
        out: a file for the same as JSON.
    """
    from marl import api

    check_writable(out)
    found = api.replay(scenario, plan, preset=preset, overrides=overrides, **options)
    width = max(map(len, found.figures), default=0)
    for name, value in found.figures.items():
        line(f"{name:{width}}  {value:.6g}")
    for note in found.notes:
        say(f"note: {note}")
    for fault in found.faults:
        line(f"fault: {fault}")
    if out is not None:
        values = {
            "schema_version": SCHEMA_VERSION,
            "scenario": scenario,
            "plan": plan.name,
            "valid": not found.faults,
            "figures": dict(found.figures),
            "faults": list(found.faults),
            "notes": list(found.notes),
        }
        out.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if found.faults:
        raise typer.Exit(1)
    line("valid: no fault found")
