from __future__ import annotations

from pathlib import Path

import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test
from planted_faults import (
    PLANTED,
    PLANTED_TURNS,
    HashOrder,
    HiddenTimeLimit,
    Honest,
    InTurns,
    OutsideSpace,
    RandomLater,
    StateFalls,
    TextReward,
    TimeLimitTerminated,
    Turns,
)

from marl.errors import UserError
from marl.testing import ConformanceError, check_aec, check_parallel, cli_check
from marl.testing.report import FAULTS, Report


def _local(kind: type) -> object:
    """A factory that another process cannot import, so that no process is started."""
    return lambda: kind()


def test_an_honest_environment_passes_without_a_warning() -> None:
    report = check_parallel(_local(Honest), steps=40)
    assert report.ok and not report.findings, str(report)
    assert report.steps == 80
    assert report.skipped == ["determinism across processes: the factory is not a function of a module"]


@pytest.mark.parametrize("kind", PLANTED, ids=lambda kind: kind.__name__)
def test_planted_fault_is_found(kind: type[Honest]) -> None:
    report = check_parallel(_local(kind), steps=40)
    assert PLANTED[kind] in report.faults, str(report)
    assert report.ok == (not report.errors)


def test_empty_masks_of_those_who_wait_are_no_fault() -> None:
    assert not check_parallel(_local(InTurns), steps=40).findings


def test_a_state_that_was_there_and_raises_is_named_with_its_place() -> None:
    (finding,) = check_parallel(_local(StateFalls), steps=40, seeds=(0,)).findings
    assert finding.where == "episode 0, step 4, state()" and "AttributeError" in finding.sentence


def test_a_time_limit_that_is_reported_as_termination_is_named_with_its_mend() -> None:
    for kind in (TimeLimitTerminated, HiddenTimeLimit):
        assert "truncate_at_horizon=True" in str(check_parallel(_local(kind), steps=40))


def test_each_fault_is_one_finding_with_its_first_place_and_count() -> None:
    report = check_parallel(_local(TextReward), steps=24, seeds=(3,))
    (finding,) = [finding for finding in report.findings if finding.fault == "reward-type"]
    assert finding.where == "episode 0, step 1, ann"
    assert finding.count == 48  # 2 agents, 24 steps
    with pytest.raises(ConformanceError, match="reward-type at episode 0, step 1, ann"):
        report.raise_if_failed()


def test_determinism_is_checked_in_another_process() -> None:
    report = check_parallel(HashOrder, steps=5, seeds=(0,))
    assert "nondeterministic-across-processes" in report.faults
    assert "nondeterministic" not in report.faults
    assert not check_parallel(Honest, steps=5, seeds=(0,)).findings


@pytest.mark.parametrize("kind", [RandomLater, OutsideSpace, TextReward])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pettingzoo_itself_passes_these_faults(kind: type[Honest]) -> None:
    """Why the kit exists; when a PettingZoo release finds them, this test says so."""
    if kind is RandomLater:
        parallel_seed_test(kind, num_cycles=500)
    parallel_api_test(kind(), num_cycles=100)
    assert PLANTED[kind] in check_parallel(kind, steps=60).faults


def test_turn_based() -> None:
    assert not check_aec(_local(Turns), steps=100).findings


@pytest.mark.parametrize("kind", PLANTED_TURNS, ids=lambda kind: kind.__name__)
def test_planted_fault_in_turns_is_found(kind: type[Turns]) -> None:
    assert PLANTED_TURNS[kind] in check_aec(_local(kind), steps=100).faults


def test_unknown_fault_names_are_refused() -> None:
    with pytest.raises(KeyError, match="observation-dtpye"):
        Report("x").add("observation-dtpye", "here", "a slip of the pen")
    assert set(PLANTED.values()) <= set(FAULTS)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("planted_faults", "write MODULE:FACTORY"),
        ("no_such_module:make", "cannot be imported"),
        ("planted_faults:Honset", "did you mean 'Honest'"),
        ("planted_faults:AGENTS", "not callable"),
        ("builtins:dict", "neither a PettingZoo environment nor a BatchedEnv"),
    ],
)
def test_cli_check_names_the_mistake(spec: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        cli_check(spec)


def test_cli_check_knows_the_kinds_of_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(*_: object) -> None:
        raise RuntimeError("not in this test")

    monkeypatch.setattr("marl.testing.trace.trace_elsewhere", no_process)
    assert cli_check("planted_faults:OutsideSpace", steps=5).faults == {"observation-outside-space"}
    assert cli_check("planted_faults:TurnsOutside", steps=5).faults == {"observation-outside-space"}
    assert cli_check("marl.testing.worlds:TinyWorld", steps=4).ok


def test_the_page_names_every_fault() -> None:
    page = (Path(__file__).parents[3] / "docs" / "conformance.md").read_text()
    for name, (severity, meaning) in FAULTS.items():
        assert f"| `{name}` | {severity} | {meaning} |" in page
