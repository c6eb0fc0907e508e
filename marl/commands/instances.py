"""``marl inspect`` and ``marl compare``: what a scenario makes of a user's files."""

# Functions that do the work are imported where they are called: they bring torch along.

from __future__ import annotations

from typing import Annotated

import typer

from marl.cli_words import PresetOption, SetOption, TrustOption, parse_seeds, scenario_options
from marl.commands.output import line, say
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


def compare(
    context: typer.Context,
    scenario: ScenarioArgument,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who drives in both; by default the scenario's rule.")
    ] = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Instances, one per seed: 0:16 or 0,1,5.")] = "0:16",
    trusted: TrustOption = None,
) -> None:
    """Say how far the world that is trained in is from the one that judges, such as a twin from its simulator."""
    from marl.api import policy_builder
    from marl.configuration import configure
    from marl.evaluation.counterparts import compare as compare_worlds
    from marl.scenario import load_scenario

    trust(*(trusted or []))
    found = load_scenario(scenario)
    if found.counterparts is None:
        raise UserError(f"{scenario} has one world: what is trained in is what judges")
    config = configure(scenario, preset=preset, options=scenario_options(context, scenario), overrides=set_ or [])
    pair = found.counterparts(found.held_out(config.world))
    builder = policy_builder(found, policy or pair.rule, say)
    comparison = compare_worlds(found, pair, builder, parse_seeds(seeds))
    for text in comparison.table():
        line(text)
    line(comparison.verdict())
