"""``marl tune``."""

# Functions that do the work are imported where they are called: they bring torch along.

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from marl.cli_words import PresetOption, SetOption, TrustOption, named, scenario_options
from marl.commands.output import console, counting_generations, line, say
from marl.errors import UserError
from marl.plugins import trust


def tune(
    context: typer.Context,
    scenario: Annotated[str | None, typer.Argument(metavar="SCENARIO", help="See 'marl list tunables'.")] = None,
    tunable: Annotated[str | None, typer.Argument(metavar="TUNABLE", help="What to tune.")] = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    generations: Annotated[int | None, typer.Option(min=1, help="Length of the search.")] = None,
    population: Annotated[int | None, typer.Option(min=4, help="Candidates of a generation.")] = None,
    instances: Annotated[int | None, typer.Option(min=1, help="Episodes that each of them plays.")] = None,
    step: Annotated[
        float | None, typer.Option(min=1e-3, max=1, help="First step, a share of each range: small from a good start.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder; by default below runs/.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Continue the tuning in this folder.")] = None,
    trusted: TrustOption = None,
) -> None:
    """Choose a scenario's numbers for your kind of instances. Its options, such as --map, come last."""
    from marl import api
    from marl.evaluation.tables import show
    from marl.training import tuning

    trust(*(trusted or []))
    search = {"generations": generations, "population": population, "instances": instances, "step": step}
    with counting_generations() as on_generation:
        if resume is not None:
            others = [scenario, tunable, preset, set_, out, *search.values(), *context.args]
            if any(other is not None for other in others):
                raise UserError("--resume DIR continues a tuning as it is: leave the other words out")
            done = tuning.resume(resume, say, on_generation)
        else:
            name = named(scenario, "tune")
            if tunable is None:
                raise UserError(f"tune what? For example: marl tune {name} TUNABLE (see 'marl list tunables')")
            done = api.tune(
                name,
                tunable,
                preset=preset,
                overrides=set_ or [],
                search={key: value for key, value in search.items() if value is not None},
                out=out,
                echo=say,
                progress=on_generation,
                **scenario_options(context, name),
            )
    show(done.results, console())
    line(f"wrote {done.file}")
