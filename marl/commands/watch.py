"""``marl watch``."""

# Functions that do the work are imported where they are called: they bring torch along.

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marl.cli_words import PresetOption, SetOption, TrustOption, check_writable, scenario_options
from marl.commands.output import line, say
from marl.errors import UserError
from marl.plugins import trust

if TYPE_CHECKING:
    from marl.scenario import Recorder


def watch(
    context: typer.Context,
    policy: Annotated[str, typer.Argument(metavar="RUN|POLICY", help="A run folder, or a policy of a scenario.")],
    scenario: Annotated[str | None, typer.Option(metavar="NAME", help="Needed unless a run folder says it.")] = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    seed: Annotated[int, typer.Option(help="The instance to show.")] = 0,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Where to write the page.")] = None,
    mp4: Annotated[Path | None, typer.Option("--mp4", metavar="FILE", help="Write a film.")] = None,
    gif: Annotated[
        Path | None, typer.Option("--gif", metavar="FILE", help="Write a moving picture, .gif or .webp.")
    ] = None,
    trusted: TrustOption = None,
) -> None:
    """Record one episode as a page that plays in a browser, without a network, or as a film."""
    from marl import api
    from marl.evaluation.report import write_report
    from marl.scenario import load_scenario
    from marl.training.report import record
    from marl.training.run_folder import CONFIG

    trust(*(trusted or []))
    check_writable(html, mp4, gif)
    of_run = Path(policy) / CONFIG if (Path(policy) / CONFIG).is_file() else None
    name = scenario or api.scenario_of(policy)
    found = load_scenario(name)
    config = api.configure(
        name,
        preset=preset,
        config=of_run if preset is None else None,
        options=scenario_options(context, name),
        overrides=set_ or [],
    )
    world = found.held_out(config.world)
    recorder = record(found, world, api.policy_builder(found, policy, say), seed)
    _write_films(recorder, found.name, mp4, gif)
    if html is None and (mp4 or gif):
        return
    if recorder is None:
        raise UserError(f"{found.name} cannot show itself as a page")
    fragment = recorder.html()
    target = html or (Path(policy) / "watch.html" if of_run else Path(f"watch-{policy.replace('/', '-')}.html"))
    summary = {"scenario": found.name, "policy": policy, "seed": seed, **found.instance(world)}
    write_report(target, title=f"{found.name}: {policy}", summary=summary, animation=fragment)
    line(f"wrote {target}: open it in a browser")


def _write_films(recorder: Recorder | None, scenario: str, mp4: Path | None, gif: Path | None) -> None:
    """Write the films that are asked for; raises ``UserError`` where the scenario has none."""
    from marl.evaluation.film import Films, write_moving_picture, write_mp4

    for option, path, write in (("--mp4", mp4, write_mp4), ("--gif", gif, write_moving_picture)):
        if path is None:
            continue
        if not isinstance(recorder, Films):
            raise UserError(f"{scenario} cannot show itself as a film: leave {option} out for a page")
        write(path, recorder)
        line(f"wrote {path}")
