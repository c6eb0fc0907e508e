"""The ``marl`` command: reads words, calls ``marl.api``, prints what comes back.

A user's mistake ends in one line on standard error and exit code 2, Ctrl-C in exit code 130.
"""

# Functions that do the work are imported where they are called: they bring torch along, and `marl --help` and a
# misspelt word must not wait seconds for it.

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from marl.cli_words import check_writable, listed_words, named, parse_seeds, scenario_options
from marl.errors import UserError
from marl.plugins import trust, trust_named_in

if TYPE_CHECKING:
    from marl.config import AnyRunConfig
    from marl.evaluation.runner import Progress as OnProgress
    from marl.training.tuning import OnGeneration

app = typer.Typer(
    name="marl",
    help="Many agents learn to move, drive and reason together. Start with: marl demo",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

#: Options of a scenario (`marl list scenarios` shows them) are not known here; they arrive in the context's rest.
_WITH_SCENARIO_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
#: Typer has its own copy of click, or click itself, by version; the base class of its errors has no public name.
_USAGE_ERROR: Any = typer.BadParameter.__base__

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one key of the configuration; repeatable.")
]
PresetOption = Annotated[str | None, typer.Option("--preset", metavar="NAME", help="See 'marl list presets'.")]
TrustOption = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="NAME", help="A module or server that the files of a run may name; repeatable."),
]


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

        _out().print(f"marl {version_of('marl-platform')}", highlight=False)
        raise typer.Exit


@app.command(context_settings=_WITH_SCENARIO_OPTIONS)
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
            raise UserError("--resume DIR continues a run as it is configured: leave the other words out")
        _finish_run(run.resume(resume, _say))
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
            _print_plan(one, len(configs), init is not None)
        return
    start = api.run_folder_of(init) if init is not None else None
    for one in configs:
        folder = out / f"seed-{one.seed}" if out is not None and len(configs) > 1 else out
        _finish_run(run.train(one, folder, _say, init=start))


@app.command(context_settings=_WITH_SCENARIO_OPTIONS)
def evaluate(
    context: typer.Context,
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="See 'marl list scenarios'.")],
    policies: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Baselines (with options: NAME:key=value:key=value), run folders or shipped policies (scenario/name); "
            "NAME+safety, NAME-safety.",
        ),
    ],
    preset: PresetOption = None,
    set_: SetOption = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes per seed.")] = 1,
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Instances, one per seed: 0:16 or 0,1,5.")] = "0:16",
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the table as a page.")] = None,
    trusted: TrustOption = None,
) -> None:
    """Compare policies on the same instances. An option of the scenario may list values: --agents 32,64."""
    from marl import api
    from marl.evaluation.report import write_report
    from marl.evaluation.tables import show

    trust(*(trusted or []))

    options = scenario_options(context, scenario, lists=True)
    names = listed_words(policies, "--policies")
    check_writable(json, html)
    with _counting() as progress:
        results = api.evaluate(
            scenario,
            names,
            preset=preset,
            episodes=episodes,
            seeds=parse_seeds(seeds),
            overrides=set_ or [],
            progress=progress,
            echo=_say,
            **options,
        )
    show(results, _out())
    if json is not None:
        results.write_json(json)
    if html is not None:
        summary = {"scenario": scenario, "policies": ", ".join(names), "seeds": seeds, "episodes per seed": episodes}
        write_report(html, title=f"{scenario}: evaluation", summary=summary, results=results)
        _say(f"wrote {html}")


@app.command(context_settings=_WITH_SCENARIO_OPTIONS)
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
    with _generations() as on_generation:
        if resume is not None:
            others = [scenario, tunable, preset, set_, out, *search.values(), *context.args]
            if any(other is not None for other in others):
                raise UserError("--resume DIR continues a tuning as it is: leave the other words out")
            done = tuning.resume(resume, _say, on_generation)
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
                echo=_say,
                progress=on_generation,
                **scenario_options(context, name),
            )
    show(done.results, _out())
    _out().print(f"wrote {done.file}", highlight=False, markup=False, soft_wrap=True)


@app.command(context_settings=_WITH_SCENARIO_OPTIONS)
def watch(
    context: typer.Context,
    policy: Annotated[str, typer.Argument(metavar="RUN|POLICY", help="A run folder, or a policy of a scenario.")],
    scenario: Annotated[str | None, typer.Option(metavar="NAME", help="Needed unless a run folder says it.")] = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    seed: Annotated[int, typer.Option(help="The instance to show.")] = 0,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Where to write the page.")] = None,
    mp4: Annotated[Path | None, typer.Option("--mp4", metavar="FILE", help="Write a film.")] = None,
    trusted: TrustOption = None,
) -> None:
    """Record one episode as a page that plays in a browser, without a network, or as a film."""
    from marl import api
    from marl.evaluation.film import Films, write_mp4
    from marl.evaluation.report import write_report
    from marl.scenario import load_scenario
    from marl.training.report import record
    from marl.training.run_folder import CONFIG

    trust(*(trusted or []))
    check_writable(html, mp4)
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
    recorder = record(found, world, api.policy_builder(found, policy, _say), seed)
    if mp4 is not None:
        if not isinstance(recorder, Films):
            raise UserError(f"{found.name} cannot show itself as a film: leave --mp4 out for a page")
        write_mp4(mp4, recorder)
        _out().print(f"wrote {mp4}", highlight=False, markup=False, soft_wrap=True)
        if html is None:
            return
    if recorder is None:
        raise UserError(f"{found.name} cannot show itself as a page")
    fragment = recorder.html()
    target = html or (Path(policy) / "watch.html" if of_run else Path(f"watch-{policy.replace('/', '-')}.html"))
    summary = {"scenario": found.name, "policy": policy, "seed": seed, **found.instance(world)}
    write_report(target, title=f"{found.name}: {policy}", summary=summary, animation=fragment)
    _out().print(f"wrote {target}: open it in a browser", highlight=False, markup=False, soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder; by default below runs/.")] = None,
    set_: SetOption = None,
) -> None:
    """Train, evaluate and show lifelong path finding in minutes on two cores."""
    from marl.evaluation.tables import show_table
    from marl.training.demo import demo as run_demo

    done = run_demo(out, set_ or [], _say)
    show_table(done.headline, _out())
    _out().print(f"open {done.report} in a browser", highlight=False, markup=False, soft_wrap=True)


@app.command()
def check(
    factory: Annotated[str, typer.Argument(metavar="MODULE:FACTORY", help="Makes the environment, without arguments.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of each of the runs that are compared.")] = 500,
) -> None:
    """Look for faults in any PettingZoo environment; exit code 1 and the faults' names if there are some."""
    from marl.testing.command import cli_check

    report = cli_check(factory, steps)
    _out().print(str(report), highlight=False, markup=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(1)


@app.command(context_settings=_WITH_SCENARIO_OPTIONS)
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
    from marl.bench import bench as measure
    from marl.bench import show_rows, write_rows
    from marl.scenario import scenario_names

    trust(*(trusted or []))

    check_writable(json)
    overrides = [*(set_ or []), *([] if device is None else [f"device={device}"])]
    rows = []
    with _counting("measuring") as progress:
        for name in [scenario] if scenario is not None else scenario_names():
            try:
                rows += measure(
                    name,
                    preset=preset,
                    system=system,
                    options=scenario_options(context, name),
                    overrides=overrides,
                    parts=listed_words(parts, "--parts"),
                    vary=vary,
                    repeats=repeats,
                    seconds=seconds,
                    progress=progress,
                )
            except UserError as error:
                if scenario is not None:
                    raise
                _say(f"{name} is left out: {error}")
    show_rows(rows, _out())
    if json is not None:
        write_rows(json, rows)


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
        _out().print(f"{first:{width}}  {second}".rstrip(), highlight=False, markup=False, soft_wrap=True)


def _print_plan(config: AnyRunConfig, runs: int, init: bool) -> None:
    from marl import api
    from marl.config import dump

    plan = api.plan(config, init)
    out = _out()
    out.print(dump(config), markup=False, highlight=False, soft_wrap=True)
    lines = {
        "runs": f"{runs}",
        "iterations": f"{plan.iterations:,} of {plan.agent_steps_per_iteration:,} agent-steps"
        f" ({plan.agents} agents x {config.copies} copies)",
        "parameters": ", ".join(f"{name} {number:,}" for name, number in plan.parameters.items()),
    }
    for name, text in lines.items():
        out.print(f"# {name}: {text}", markup=False, highlight=False, soft_wrap=True)
    for warning in plan.warnings:
        _say(f"warning: {warning}")


def _finish_run(folder: Path) -> None:
    """Write the report of a run that has reached its end."""
    from marl.training.report import write_run_report

    report = write_run_report(folder, None, _say)
    _out().print(f"trained: {folder} (curves and an episode: {report})", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _counting(what: str = "evaluating") -> Iterator[OnProgress]:
    """Shows how many episodes an evaluation, or turns a measurement, has finished, on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def advance(policy: str, finished: int, total: int) -> None:
            bar.update(task, description=policy, completed=finished, total=total)

        yield advance


@contextmanager
def _generations() -> Iterator[OnGeneration]:
    """Shows how far a search is: a bar on a terminal, else a line for each generation."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("tuning", total=None)

        def advance(done: int, total: int, score: float) -> None:
            bar.update(task, description=f"tuning, score {score:+.3f}", completed=done, total=total)
            if not console.is_terminal:
                _say(f"generation {done}/{total}: score {score:+.4f}")

        yield advance


def _out() -> Console:
    return Console()


def _say(text: str) -> None:
    """What the user should know besides the result."""
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


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
        message = error.format_message().rstrip(".")
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone, such as `| head`; Python's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    sys.stderr.write(f"marl: error: {' '.join(message.split())}\n")
    return 2
