"""``marl inspect``: what a scenario makes of a user's files."""

# Functions that do the work are imported where they are called: they bring torch along.

from __future__ import annotations

from typing import Annotated

import typer

from marl.cli_words import PresetOption, SetOption, TrustOption, scenario_options
from marl.commands.output import line
from marl.errors import UserError
from marl.plugins import trust

ScenarioArgument = Annotated[str, typer.Argument(metavar="SCENARIO", help="See 'marl list scenarios'.")]


def inspect(
    context: typer.Context,
    scenario: ScenarioArgument,
    preset: PresetOption = None,
    set_: SetOption = None,
    trusted: TrustOption = None,
) -> None:
    """Say what a scenario makes of files of yours, such as --net, before anything runs."""
    from marl.configuration import configure
    from marl.scenario import load_scenario

    trust(*(trusted or []))
    found = load_scenario(scenario)
    if found.inspect is None:
        raise UserError(f"{scenario} has nothing to inspect: it reads no files of yours that it would describe")
    config = configure(scenario, preset=preset, options=scenario_options(context, scenario), overrides=set_ or [])
    for text in found.inspect(config.world):
        line(text)
