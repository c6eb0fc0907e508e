"""The ``marl`` command: reads words, calls ``marl.api``, prints what comes back.

A user's mistake ends in one line on standard error and exit code 2, Ctrl-C in exit code 130.
"""

# Functions that do the work are imported where they are called: they bring torch along, and `marl --help` and a
# misspelt word must not wait seconds for it.

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from marl.cli_words import (
    WITH_SCENARIO_OPTIONS,
    Form,
    FormOption,
    PresetOption,
    SetOption,
    TrustOption,
    check_writable,
    named,
    parse_seeds,
    policy_words,
    scenario_options,
)
from marl.commands.bench import bench
from marl.commands.doctor import doctor
from marl.commands.explain import explain
from marl.commands.export import export
from marl.commands.instances import compare, inspect
from marl.commands.judge import judge
from marl.commands.output import console, counting, finish_run, line, print_plan, say, write_results
from marl.commands.own_code import TRACEBACK, own_place
from marl.commands.report import report
from marl.commands.scenario_help import ScenarioCommand
from marl.commands.status import status
from marl.commands.tune import tune
from marl.commands.watch import watch
from marl.errors import UserError, nearest
from marl.plugins import trust, trust_named_in

app = typer.Typer(
    name="marl",
    help="Many agents learn to move, drive and reason together. Start with: marl demo",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

#: Typer has its own copy of click, or click itself, by version; the base class of its errors has no public name.
_USAGE_ERROR: Any = typer.BadParameter.__base__


_RESUME_ALONE = (
    "--resume DIR continues a run as it is configured: leave the other words out; a new run starts from its weights "
    "with --init DIR"
)


class Listed(StrEnum):
    """What ``marl list`` can list."""

    SCENARIOS = "scenarios"
    SYSTEMS = "systems"
    POLICIES = "policies"
    MAPS = "maps"
    PRESETS = "presets"
    TUNABLES = "tunables"


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        console().print(f"marl {version_of('marl-platform')}", highlight=False)
        raise typer.Exit


@app.command(cls=ScenarioCommand, context_settings=WITH_SCENARIO_OPTIONS)
def train(
    context: typer.Context,
    scenario: Annotated[str | None, typer.Argument(metavar="SCENARIO", help="See 'marl list scenarios'.")] = None,
    system: Annotated[str | None, typer.Option(metavar="NAME", help="See 'marl list systems'.")] = None,
    preset: PresetOption = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="A YAML configuration file.")] = None,
    set_: SetOption = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="LIST", help="One run per seed, one after the other: 0:3 or 0,1,5.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder; by default below runs/.")] = None,
    init: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Start from the weights of this run or shipped policy.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Continue the run in this folder.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan only.")] = False,
    trusted: TrustOption = None,
) -> None:
    """Train a policy. Options of the scenario, such as --map, come after its name."""
    from marl import api
    from marl.training import run

    trust(*(trusted or []))
    if resume is not None:
        others = [scenario, system, preset, config, set_, seeds, out, init, *context.args]
        if any(other is not None for other in others) or dry_run:
            raise UserError(_RESUME_ALONE)
        finish_run(run.resume(resume, say))
        return
    name = named(scenario, "train")
    options = scenario_options(context, name)
    configs = [
        api.configure(
            name,
            preset=preset,
            config=config,
            system=system,
            options=options,
            overrides=[*(set_ or []), *([] if seed is None else [f"seed={seed}"])],
        )
        for seed in (parse_seeds(seeds) if seeds is not None else [None])
    ]
    if dry_run:
        for one in configs[:1]:
            print_plan(one, len(configs), init is not None)
        return
    start = api.run_folder_of(init) if init is not None else None
    for one in configs:
        folder = out / f"seed-{one.seed}" if out is not None and len(configs) > 1 else out
        finish_run(run.train(one, folder, say, init=start))


@app.command(cls=ScenarioCommand, context_settings=WITH_SCENARIO_OPTIONS)
def evaluate(
    context: typer.Context,
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="See 'marl list scenarios'.")],
    policies: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Baselines (with options: NAME:key=value:key=value), run folders or shipped policies (scenario/name); "
            "NAME+safety, NAME-safety; a served model: openai:URL,MODEL.",
        ),
    ] = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes per seed.")] = 1,
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Instances, one per seed: 0:16 or 0,1,5.")] = "0:16",
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a row for each episode.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the table as a page.")] = None,
    form: FormOption = Form.TEXT,
    save_plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the one episode that is played as a plan file.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Validate and count this plan file instead of playing.")
    ] = None,
    trusted: TrustOption = None,
) -> None:
    """Compare policies on the same instances. An option of the scenario may list values: --agents 32,64."""
    from marl import api
    from marl.evaluation.tables import show

    trust(*(trusted or []))
    if replay is not None:
        if any(word is not None for word in (policies, csv, html, save_plan)):
            raise UserError("--replay FILE judges a file: leave --policies, --csv, --html and --save-plan out")
        judge(replay, scenario, scenario_options(context, scenario), preset, set_ or [], json)
        return
    if policies is None:
        raise UserError(f"which policies? For example: marl evaluate {scenario} --policies random")
    options = scenario_options(context, scenario, lists=True)
    names = policy_words(policies)
    check_writable(json, csv, html, save_plan)
    with counting() as progress:
        results = api.evaluate(
            scenario,
            names,
            preset=preset,
            episodes=episodes,
            seeds=parse_seeds(seeds),
            overrides=set_ or [],
            progress=progress,
            echo=say,
            save_plan=save_plan,
            **options,
        )
    show(results, console(), form=form.value)
    if save_plan is not None:
        say(f"wrote {save_plan}")
    summary = {"scenario": scenario, "policies": ", ".join(names), "seeds": seeds, "episodes per seed": episodes}
    write_results(results, summary, json, csv, html)


app.command(cls=ScenarioCommand, context_settings=WITH_SCENARIO_OPTIONS)(tune)
app.command(cls=ScenarioCommand, context_settings=WITH_SCENARIO_OPTIONS)(watch)


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder; by default below runs/.")] = None,
    set_: SetOption = None,
) -> None:
    """Train, evaluate and show lifelong path finding in minutes on two cores."""
    from marl.evaluation.tables import show_table
    from marl.training.demo import demo as run_demo

    done = run_demo(out, set_ or [], say)
    show_table(done.headline, console())
    line(f"open {done.report} in a browser")


@app.command(cls=ScenarioCommand, context_settings=WITH_SCENARIO_OPTIONS)
def check(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="SCENARIO|MODULE:NAME", help="A scenario, or what makes an environment.")
    ],
    steps: Annotated[int, typer.Option(min=1, help="Steps of each of the runs that are compared.")] = 500,
    preset: Annotated[str | None, typer.Option(help="Of a scenario; by default its own.")] = None,
    trusted: TrustOption = None,
) -> None:
    """Look for faults in a scenario, a batched world or any PettingZoo environment; exit code 1 if there are some."""
    from marl.testing.command import cli_check

    trust(*(trusted or []))
    # Only a scenario has options; of all else the words are left over, and refused as such.
    words = scenario_options(context, what) if context.args else {}
    report = cli_check(what, steps, preset, words)
    line(str(report))
    if not report.ok:
        raise typer.Exit(1)


app.command()(export)
app.command()(doctor)
app.command()(report)
app.command()(status)
app.command(cls=ScenarioCommand, context_settings=WITH_SCENARIO_OPTIONS)(bench)
app.command(cls=ScenarioCommand, context_settings=WITH_SCENARIO_OPTIONS)(explain)
app.command(cls=ScenarioCommand, context_settings=WITH_SCENARIO_OPTIONS)(inspect)
app.command(cls=ScenarioCommand, context_settings=WITH_SCENARIO_OPTIONS)(compare)


@app.command("list")
def list_(
    what: Annotated[Listed, typer.Argument(help="What to list.")],
    scenario: Annotated[str | None, typer.Option(metavar="NAME", help="Of this scenario only.")] = None,
) -> None:
    """List what there is to choose from."""
    from marl.listing import listing

    rows = listing(what.value, scenario)
    width = max((len(first) for first, _ in rows), default=0)
    for first, second in rows:
        line(f"{first:{width}}  {second}".rstrip())


def _told(error: Any) -> str:
    """A mistake in the words; where it is the command, with the commands that there are."""
    message: str = error.format_message().rstrip(".")
    if not message.startswith("No such command"):
        return message
    group: Any = typer.main.get_command(app)
    wanted = message.split("'")[1]
    return f"No such command '{wanted}'{nearest(wanted, sorted(group.commands))}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    # Before torch is loaded: on busy machines a second thread costs many times what it gains.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    words = sys.argv[1:] if arguments is None else list(arguments)
    trust_named_in(words)
    try:
        code = app(args=words or ["--help"], standalone_mode=False)
        return code if isinstance(code, int) else 0
    except UserError as error:
        message = str(error)
    except _USAGE_ERROR as error:
        message = _told(error)
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone, such as `| head`; Python's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # Code of the user's own that fails is theirs to mend, and its place is all they need. Other faults are ours.
        place = own_place(error)
        if place is None or os.environ.get(TRACEBACK):
            raise
        message = f"{place}; {TRACEBACK}=1 shows the way there"
    sys.stderr.write(f"marl: error: {' '.join(message.split())}\n")
    return 2
