"""How far two worlds are apart: verdicts by hand, and a training's warning."""

from __future__ import annotations

from dataclasses import replace

import pytest

from marl.errors import UserError
from marl.evaluation.counterparts import compare, warn_if_apart
from marl.scenario import Counterparts, Scenario, find_baseline, load_scenario


def pair(scenario: Scenario, second: dict[str, object], **allowed: dict[str, float]) -> Counterparts:
    """Path finding on a small map, and on another one."""
    first = {"map": "random", "agents": 8, "horizon": 32}
    worlds = {
        name: scenario.config.model_validate(options) for name, options in (("fast", first), ("judge", first | second))
    }
    relative, absolute = allowed.get("relative", {}), allowed.get("absolute", {})
    return Counterparts(worlds, "pibt", relative, absolute, "judge there", doubtful=True)


@pytest.fixture(scope="module")
def mapf() -> Scenario:
    return load_scenario("lifelong_mapf")


def test_equal_worlds_are_near(mapf: Scenario) -> None:
    rule = find_baseline(mapf, "pibt")
    assert rule is not None
    found = compare(mapf, pair(mapf, {}, relative={"throughput": 0.0}), rule, range(3))
    assert not found.far and found.verdict() == "fast is near judge: throughput within 0"
    assert all(gap.fast == gap.judge and gap.difference.value == 0 for gap in found.gaps if gap.fast == gap.fast)
    assert "fast" in found.table()[0] and len(found.table()) == len(found.gaps) + 1


def test_far_worlds_are_said_with_their_figures(mapf: Scenario) -> None:
    rule = find_baseline(mapf, "pibt")
    assert rule is not None
    doubted = pair(mapf, {"agents": 16}, relative={"throughput": 0.05}, absolute={"collisions": 0.0})
    found = compare(mapf, doubted, rule, range(3))
    (gap,) = found.far
    assert gap.metric == "throughput" and gap.allowed == pytest.approx(0.05 * gap.judge) and gap.fast < gap.judge
    assert gap.difference.value == pytest.approx(gap.fast - gap.judge)
    assert found.verdict().startswith("fast is not judge here (throughput ") and found.verdict().endswith("judge there")


def test_a_training_is_warned_where_the_scenario_doubts(mapf: Scenario) -> None:
    far = pair(mapf, {"agents": 16}, relative={"throughput": 0.05})

    def missing(_: object) -> Counterparts:
        raise UserError("not installed")

    doubtful = replace(mapf, counterparts=lambda _: far)
    sure = replace(mapf, counterparts=lambda _: replace(far, doubtful=False))
    assert warn_if_apart(doubtful, None)[0].startswith("warning: fast is not judge here")
    for scenario in (mapf, sure, replace(mapf, counterparts=missing)):
        assert warn_if_apart(scenario, None) == []
