"""The page of a run: curves from its log, its evaluation and one recorded episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from marl.config import AnyRunConfig
from marl.errors import UserError
from marl.evaluation.charts import Curve, curve_from_csv
from marl.evaluation.report import write_report
from marl.evaluation.results import Results
from marl.evaluation.tables import Table
from marl.policies.base import BoundPolicy
from marl.scenario import Recorder, Scenario, load_scenario
from marl.training.policy import load_policy
from marl.training.run_folder import read_config, read_provenance
from marl.training.tracking import read_metrics

Echo = Callable[[str], None]


def record_episode(scenario: Scenario, world: Any, build: Callable[[Any], BoundPolicy], seed: int = 0) -> str | None:
    """One episode as an HTML fragment that plays in a browser, or None if the scenario cannot show itself."""
    recorder = record(scenario, world, build, seed)
    return None if recorder is None else recorder.html()


def record(scenario: Scenario, world: Any, build: Callable[[Any], BoundPolicy], seed: int = 0) -> Recorder | None:
    """A recorder that has seen one episode, or None if the scenario cannot show itself."""
    if scenario.recorder is None:
        return None
    env = scenario.make(scenario.shown(world), 1, torch.device("cpu"))
    try:
        policy = build(env)
        recorder = scenario.recorder(env)
        with torch.no_grad():
            timestep = env.reset(seed)
            recorder.add(timestep, None)
            while True:
                actions = policy.act(timestep)
                timestep = env.step(actions)
                recorder.add(timestep, actions)
                if bool(timestep.done[0]):
                    return recorder
    finally:
        env.close()


def _episodes(
    scenario: Scenario, world: Any, build: Callable[[Any], BoundPolicy], beside: str | None, echo: Echo
) -> str | dict[str, str] | None:
    """The same episode played by the policy, and by a baseline beside it; None if the world cannot show itself here."""
    try:
        learned = record_episode(scenario, world, build)
    except UserError as error:  # a page without an episode is better than none at the end of a long run
        echo(f"the report shows no episode: {error}")
        return None
    rule = None if beside is None else record_episode(scenario, world, scenario.baselines[beside])
    if learned is None or rule is None or beside is None:
        return learned
    return {"learned": learned, beside: rule}


def learning_curves(folders: Mapping[str, list[Path]], metric: str, levels: Mapping[str, float]) -> list[Curve]:
    """The primary metric and the reward against agent-steps and CPU-minutes; legend -> the folders of its seeds."""
    logs = {legend: [folder / "metrics.csv" for folder in paths] for legend, paths in folders.items()}
    curves = [
        curve_from_csv(f"{metric} in training", logs, f"episode/{metric}", y_label=metric, levels=levels),
        curve_from_csv(
            f"{metric} by CPU time", logs, f"episode/{metric}", x="cpu_seconds", x_label="CPU-seconds", y_label=metric
        ),
        curve_from_csv("reward per agent-step", logs, "reward", y_label="reward"),
    ]
    rows = [row for paths in logs.values() for path in paths for row in read_metrics(path)]
    if any("learn/entropy" in row for row in rows):  # not every algorithm reports it
        curves.append(curve_from_csv("policy entropy", logs, "learn/entropy", y_label="nats"))
    return curves


def _summary(config: AnyRunConfig) -> dict[str, Any]:
    """What a run was asked for."""
    return {
        "scenario": config.scenario,
        "system": config.system,
        "preset": config.preset or "none",
        "seed": config.seed,
        "agent-steps": f"{config.total_steps:,}",
        "configuration": config.model_dump(mode="json"),
    }


def write_run_report(
    folder: Path,
    results: Results | None,
    echo: Echo = lambda _: None,
    *,
    beside: str | None = None,
    headline: Table | None = None,
    reading: Sequence[str] = (),
) -> Path:
    """Write ``report.html`` into the run's folder; returns its path.

    Args:
        folder: the run.
        results: an evaluation of its policy, if there is one.
        echo: gets messages.
        beside: a baseline that plays the same episode beside the policy.
        headline: one table of what matters; ``reading``: sentences below it.
    """
    config: AnyRunConfig = read_config(folder)
    scenario = load_scenario(config.scenario)
    policy = load_policy(folder, echo)
    world = scenario.held_out(config.world)
    env = scenario.make(world, 1, torch.device("cpu"))
    metric = env.spec.primary_metric
    env.close()
    levels = {}
    if results is not None:
        levels = {
            row.policy: row.mean for row in results.rows if row.metric == metric and row.policy in scenario.baselines
        }
    path = folder / "report.html"
    write_report(
        path,
        title=f"{config.scenario}: {config.system}",
        summary=_summary(config) | {"provenance": read_provenance(folder)},
        curves=learning_curves({config.system: [folder]}, metric, levels),
        results=results,
        animation=_episodes(scenario, world, policy.bind, beside, echo),
        headline=headline,
        reading=reading,
    )
    return path
