"""``marl demo``: train, compare with the baselines on instances that training never met, and write the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from marl.config import AnyRunConfig, read_layer, resolve
from marl.evaluation.results import Results
from marl.evaluation.runner import PolicyBuilder, evaluate
from marl.policies.base import BoundPolicy
from marl.scenario import Scenario, load_scenario
from marl.systems.registry import load_system
from marl.training.loop import Echo
from marl.training.policy import load_policy
from marl.training.report import write_run_report
from marl.training.run import train

LEARNED = "mappo (this run)"


@dataclass(frozen=True)
class Demo:
    """What a demo leaves: the run's folder, the comparison and the page that shows both."""

    folder: Path
    results: Results
    report: Path


def demo_config(scenario: Scenario, overrides: list[str]) -> AnyRunConfig:
    """The configuration of the scenario's demo preset."""
    name = scenario.demo_preset or scenario.default_preset
    head = {"scenario": scenario.name, "preset": name, "system": scenario.system}
    preset = read_layer(scenario.presets / f"{name}.yaml")
    return resolve(scenario.config, load_system(scenario.system).config, [head, preset], overrides)


def demo(
    out: Path | None,
    overrides: list[str],
    echo: Echo = lambda _: None,
    live: bool = True,
    scenario_name: str = "lifelong_mapf",
) -> Demo:
    """Train by the demo preset, evaluate on held-out instances against all baselines, write ``report.html``."""
    scenario = load_scenario(scenario_name)
    config = demo_config(scenario, overrides)
    folder = train(config, out, echo, live)
    results = compare(folder, scenario, config, echo)
    report = write_run_report(folder, results, echo)
    return Demo(folder, results, report)


def compare(folder: Path, scenario: Scenario, config: AnyRunConfig, echo: Echo) -> Results:
    """The run's policy beside all baselines on held-out instances, paired."""
    torch.set_num_threads(1)
    policy = load_policy(folder, echo)
    world = scenario.held_out(config.world)

    def learned(env: object) -> BoundPolicy:
        return policy.bind(env)  # type: ignore[arg-type]

    builders: dict[str, PolicyBuilder] = {LEARNED: learned, **scenario.baselines}
    seeds = range(config.evaluation.seeds)
    echo(f"evaluating {len(builders)} policies on {len(seeds)} held-out instances each")
    return evaluate(
        scenario, builders, [(scenario.instance(world), world)], seeds, config.evaluation.episodes, device=config.device
    )
