"""The rows of ``marl list``: (name, what it is)."""

from __future__ import annotations

from collections.abc import Iterator

from marl.api import shipped
from marl.errors import UserError
from marl.scenario import Scenario, baselines_of, load_scenario, scenario_names
from marl.systems.registry import SYSTEMS
from marl.systems.system import System

Rows = Iterator[tuple[str, str]]


def listing(what: str, scenario: str | None = None) -> list[tuple[str, str]]:
    """what: systems, or what scenarios declare. scenario: only this one's. Raises ``UserError``."""
    if what == "systems":
        return [row for system in SYSTEMS.values() for row in _system(system)]
    if what not in _OF_SCENARIO:
        raise UserError(f"'{what}' cannot be listed; known: systems, {', '.join(_OF_SCENARIO)}")
    found = [load_scenario(name) for name in ([scenario] if scenario is not None else scenario_names())]
    return [row for one in found for row in _OF_SCENARIO[what](one)]


def _system(system: System) -> Rows:
    yield system.name, f"{system.summary} ({system.paper})"
    if system.check is not None:
        yield "", f"claim: {system.claim}"
        yield "", f"check: {system.check.verdict} ({system.check.command})"


def _scenarios(scenario: Scenario) -> Rows:
    yield scenario.name, scenario.summary
    for option in scenario.options:
        yield f"  {option.flag}", option.help


def _policies(scenario: Scenario) -> Rows:
    for name in baselines_of(scenario):
        yield name, f"baseline of {scenario.name}"
    for name in shipped(scenario):
        yield f"{scenario.name}/{name}", "shipped"


def _maps(scenario: Scenario) -> Rows:
    for name in scenario.maps():
        yield name, scenario.name


def _presets(scenario: Scenario) -> Rows:
    uses = {"default": scenario.default_preset, "demo": scenario.demo_preset}
    for name in scenario.preset_names():
        yield name, ", ".join([scenario.name, *(use for use, preset in uses.items() if preset == name)])


def _tunables(scenario: Scenario) -> Rows:
    for name, tunable in scenario.tunables.items():
        yield f"{scenario.name} {name}", tunable.summary


_OF_SCENARIO = {
    "scenarios": _scenarios,
    "policies": _policies,
    "maps": _maps,
    "presets": _presets,
    "tunables": _tunables,
}
