"""The checks of systems: what is compared is there, and differences are paired by seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from marl.systems.registry import SYSTEMS
from scripts.benchmarks.systems.tables import figures_of, finished, folder_of
from scripts.benchmarks.systems.trials import TRIALS, Arm, Trial


@pytest.mark.parametrize("name", TRIALS)
def test_a_check_compares_what_it_trains(name: str) -> None:
    trial = TRIALS[name]
    assert SYSTEMS[name].check is not None
    assert SYSTEMS[name].check.command == f"scripts/reproduce systems {name}"  # type: ignore[union-attr]  # it has one
    assert {arm.system for arm in trial.arms.values()} <= SYSTEMS.keys()
    for first, second, column in trial.paired:
        assert {first, second} <= trial.arms.keys() and column in trial.columns
    folders = {folder_of(Path(), arm, 0) for arm in trial.arms.values()}
    assert len(folders) == len(trial.arms)


def test_differences_are_paired_by_seed() -> None:
    trial = Trial({"a": Arm("words", "grpo"), "b": Arm("words", "remax")}, {"x": "column"}, (("a", "b", "x"),))
    runs = {"a": [{"x": 1.0}, {"x": 5.0}, {"x": 9.0}], "b": [{"x": 0.5}, {"x": 4.5}, {"x": 8.5}]}
    found = figures_of(trial, runs)
    assert found["paired"] == ["a less b, x: +0.500 ± 0.000 (3 seeds)"]
    assert [row[0] for row in found["table"]] == ["a", "b"] and found["table"][0][1].startswith("5.000 ± ")


def test_a_run_that_is_not_there_is_not_finished(tmp_path: Path) -> None:
    assert not finished(tmp_path)
