"""``marl demo``: train, compare with the baselines on instances that training never met, and write the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from marl.config import AnyRunConfig, read_layer, resolve
from marl.coordination.safety import METRICS as SAFETY_METRICS
from marl.evaluation.results import Results, Row
from marl.evaluation.runner import PolicyBuilder, evaluate
from marl.evaluation.tables import Cell, Table, number, with_interval
from marl.scenario import Scenario, load_scenario
from marl.systems.registry import load_system
from marl.training.loop import Echo
from marl.training.policy import LearnedPolicy, load_policy
from marl.training.report import write_run_report
from marl.training.run import train

LEARNED = "mappo (this run)"
UNSUPERVISED = f"{LEARNED}-safety"


@dataclass(frozen=True)
class Demo:
    """What a demo leaves: the run's folder, the comparison, its one table, and the page that shows all."""

    folder: Path
    results: Results
    headline: Table
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
    """Train by the demo preset, evaluate on held-out instances against baselines, write ``report.html``."""
    scenario = load_scenario(scenario_name)
    config = demo_config(scenario, overrides)
    folder = train(config, out, echo, live)
    results = compare(folder, scenario, config, echo)
    rule = scenario.demo_rule if scenario.demo_rule in results.policies else None
    headline = what_matters(results, rule)
    report = write_run_report(
        folder, results, echo, beside=rule, headline=headline, reading=[*_readings(results), *scenario.demo_reading]
    )
    return Demo(folder, results, headline, report)


def compare(folder: Path, scenario: Scenario, config: AnyRunConfig, echo: Echo) -> Results:
    """The run's policy beside baselines on held-out instances, paired; also without its supervisor."""
    torch.set_num_threads(1)
    policy = load_policy(folder, echo)
    world = scenario.held_out(config.world)
    builders: dict[str, PolicyBuilder] = {LEARNED: policy.bind}
    if isinstance(policy, LearnedPolicy) and config.coordination.safety.enabled:
        builders[UNSUPERVISED] = policy.supervised(False).bind
    shown = scenario.demo_baselines or tuple(scenario.baselines)
    builders |= {name: scenario.baselines[name] for name in shown}
    seeds = range(config.evaluation.seeds)
    echo(f"evaluating {len(builders)} policies on {len(seeds)} held-out instances each")
    return evaluate(
        scenario, builders, [(scenario.instance(world), world)], seeds, config.evaluation.episodes, device=config.device
    )


def what_matters(results: Results, rule: str | None) -> Table:
    """One line per policy: the primary metric, its paired difference to ``rule``, what safety corrected, and the time.

    Args:
        results: of ``compare``.
        rule: the baseline that the others are compared with; None: no difference is shown.
    """
    (instances, rows, _), *_ = results.by_instances()
    by_policy: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_policy.setdefault(row.policy, {})[row.metric] = row
    primary, corrected = results.primary_metric, next(iter(SAFETY_METRICS))
    body = []
    for policy, figures in by_policy.items():
        row = figures[primary]
        cells = [Cell(policy), Cell(with_interval(row))]
        if rule is not None:
            cells.append(_against(results, policy, rule, instances))
        share = figures.get(corrected)
        cells.append(Cell("-" if share is None or share.n == 0 else f"{100 * share.mean:.1f} %"))
        body.append((*cells, Cell(number(row.ms_per_step, row.ms_per_step))))
    header = ("policy", primary, *(() if rule is None else (f"against {rule}",)), "moves corrected", "ms/step")
    episodes = max(row.n for row in rows)
    return Table(f"{episodes} held-out episodes, the same for all; 95 % intervals", header, tuple(body))


def _against(results: Results, policy: str, rule: str, instances: Mapping[str, Any]) -> Cell:
    """The paired difference of the primary metric, marked if its interval leaves out zero."""
    if policy == rule:
        return Cell("")
    pair = results.difference(policy, rule, results.primary_metric, instances)
    half = (pair.ci_high - pair.ci_low) / 2
    if pair.n < 2 or not math.isfinite(half):
        return Cell(number(pair.difference))
    sure = pair.ci_low > 0 or pair.ci_high < 0
    better = (pair.difference > 0) == (results.metrics[results.primary_metric].better == "higher")
    text = f"{pair.difference:+.3g} [{number(pair.ci_low, half)}, {number(pair.ci_high, half)}]"
    return Cell(text, "" if not sure else "good" if better else "bad")


def _readings(results: Results) -> list[str]:
    """What the supervisor brings to the learned policy."""
    if UNSUPERVISED not in results.policies:
        return []
    (instances, _, _), *_ = results.by_instances()
    pair = results.difference(LEARNED, UNSUPERVISED, results.primary_metric, instances)
    interval = f"{-pair.difference:+.3g} [{-pair.ci_high:.3g}, {-pair.ci_low:.3g}]"
    return [f"Safety: taking the supervisor away changes the learned policy's {pair.metric} by {interval}."]
