"""``marl bench``."""

# Functions that do the work are imported where they are called: they bring torch along.

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from marl.cli_words import PresetOption, SetOption, TrustOption, check_writable, listed_words, scenario_options
from marl.commands.output import console, counting, say
from marl.errors import UserError
from marl.plugins import trust


def bench(
    context: typer.Context,
    scenario: Annotated[
        str | None, typer.Argument(metavar="SCENARIO", help="By default all that are installed.")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="NAME", help="See 'marl list systems'.")] = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda or cuda:N.")] = None,
    parts: Annotated[
        str, typer.Option(metavar="A,B,...", help="Of world, guidance, intent, safety, policy, update, end.")
    ] = "world,guidance,intent,safety,policy,update,end",
    vary: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run through sizes: copies, or one of the scenario's own.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each part; medians are shown.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.0, help="Length of one turn.")] = 0.3,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")] = None,
    trusted: TrustOption = None,
) -> None:
    """Measure how fast a world and its training run, part by part, beside the memory's bandwidth."""
    from marl import bench as measuring
    from marl.scenario import scenario_names

    trust(*(trusted or []))
    check_writable(json)
    wanted = listed_words(parts, "--parts")
    rows = []
    with counting("measuring") as progress:
        for name in [scenario] if scenario is not None else scenario_names():
            try:
                rows += measuring.bench(
                    name,
                    preset=preset,
                    system=system,
                    options=scenario_options(context, name),
                    overrides=[*(set_ or []), *([] if device is None else [f"device={device}"])],
                    parts=wanted,
                    vary=vary,
                    repeats=repeats,
                    seconds=seconds,
                    progress=progress,
                )
            except UserError as error:
                if scenario is not None:
                    raise
                say(f"{name} is left out: {error}")
    measuring.show_rows(rows, console())
    if json is not None:
        measuring.write_rows(json, rows)
