"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from marl.config import AnyRunConfig
    from marl.evaluation.results import Results
    from marl.evaluation.runner import Progress as OnProgress
    from marl.training.tuning import OnGeneration


def console() -> Console:
    """Standard output."""
    return Console()


def line(text: str) -> None:
    """A line of the result."""
    console().print(text, highlight=False, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """What the user should know besides the result."""
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


def print_plan(config: AnyRunConfig, runs: int, init: bool) -> None:
    """What ``marl train --dry-run`` shows.

    Args:
        config: of the first run.
        runs: how many there would be.
        init: they begin with the weights of another one.
    """
    from marl import api
    from marl.config import dump

    plan = api.plan(config, init)
    line(dump(config))
    lines = {
        "runs": f"{runs}",
        "iterations": f"{plan.iterations:,} of {plan.agent_steps_per_iteration:,} agent-steps"
        f" ({plan.agents} agents x {config.copies} copies)",
        "parameters": ", ".join(f"{name} {number:,}" for name, number in plan.parameters.items()),
    }
    for name, text in lines.items():
        line(f"# {name}: {text}")
    for warning in plan.warnings:
        say(f"warning: {warning}")


def finish_run(folder: Path) -> None:
    """Write the report of a run that has reached its end."""
    from marl.training.report import write_run_report

    report = write_run_report(folder, None, say)
    line(f"trained: {folder} (curves and an episode: {report})")


@contextmanager
def counting(what: str = "evaluating") -> Iterator[OnProgress]:
    """Shows how many episodes an evaluation, or turns a measurement, has finished, on a terminal only."""
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def advance(policy: str, finished: int, total: int) -> None:
            bar.update(task, description=policy, completed=finished, total=total)

        yield advance


@contextmanager
def counting_generations() -> Iterator[OnGeneration]:
    """Shows how far a search is: a bar on a terminal, else a line for each generation."""
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("tuning", total=None)

        def advance(done: int, total: int, score: float) -> None:
            bar.update(task, description=f"tuning, score {score:+.3f}", completed=done, total=total)
            if not screen.is_terminal:
                say(f"generation {done}/{total}: score {score:+.4f}")

        yield advance


def write_results(
    results: Results, summary: Mapping[str, Any], json: Path | None, csv: Path | None, html: Path | None
) -> None:
    """The files of an evaluation that were asked for.

    Args:
        results: what is written.
        summary: what stands first on the page.
        json, csv, html: where to; None: not at all.
    """
    from marl.evaluation.report import write_report

    if json is not None:
        results.write_json(json)
    if csv is not None:
        results.write_csv(csv)
    if html is not None:
        write_report(html, title=f"{results.scenario}: evaluation", summary=summary, results=results)
        say(f"wrote {html}")
