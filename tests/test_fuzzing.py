"""Every reader of foreign files and texts, with random ones: accepted, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from config_fuzzing import CONFIGURATIONS, attempt_plan
from fuzzing import TARGETS, Target, attempt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TRIES = 60


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_reader_accepts_or_refuses_in_one_sentence(target: Target, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    accepted: list[bool] = []

    @settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        tried: Any = data.draw(target.tries)
        accepted.append(attempt(target, folder, tried))

    run()
    assert len(accepted) >= TRIES


def test_a_configuration_gives_a_plan_or_one_sentence(tmp_path: Path) -> None:
    accepted: list[bool] = []

    @settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(CONFIGURATIONS)
    def run(tried: tuple[tuple[str, str], dict[str, Any]]) -> None:
        accepted.append(attempt_plan(tmp_path / "config.yaml", *tried))

    run()
    assert len(accepted) >= TRIES and any(accepted) and not all(accepted)
