"""What a row of a language batch is worth, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from marl.systems.language.options import LanguageConfig, row_reward

BATCH = SimpleNamespace(
    # a planner; its sub-agents: right, wrong, of unknown worth; a planner that failed
    success=torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]),
    cost=torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0]),
    level=torch.tensor([0, 1, 1, 1, 0]),
    correct=torch.tensor([1.0, 1.0, 0.0, float("nan"), 0.0]),
    own_cost=torch.tensor([2.0, 0.5, 0.5, 0.5, 2.0]),
    invalid=torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]),
    closed=torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]),
)


def reward(fraction: float, **options: object) -> list[float]:
    config = LanguageConfig.model_validate({"reward": {"cost": 0.1, "invalid": 0.01, **options}, **PHASE})
    return row_reward(BATCH, config, fraction).tolist()  # type: ignore[arg-type]


PHASE = {"cost_phase": {"begin": 0.7, "cost": 0.2}}


def test_all_earn_the_outcome() -> None:
    assert reward(0.0) == pytest.approx([0.8, 0.8, 0.79, 0.8, 0.0])


def test_calls_are_dearer_in_the_last_phase() -> None:
    assert reward(0.69)[0] == pytest.approx(0.8)
    assert reward(0.7)[0] == pytest.approx(0.6)


def test_sub_agents_also_earn_their_own_answer_less_the_price_of_their_calls() -> None:
    right = 0.5 * 0.8 + 0.5 * 0.95
    assert reward(0.0, own=0.5) == pytest.approx([0.8, right, 0.4 - 0.01, 0.8, 0.0])


def test_own_calls_may_have_a_price_of_their_own() -> None:
    right = 0.5 * 0.8 + 0.5 * (1.0 - 0.6 * 0.5)
    assert reward(0.0, own=0.5, own_cost=0.6) == pytest.approx([0.8, right, 0.4 - 0.01, 0.8, 0.0])
    assert reward(0.9, own=0.5, own_cost=0.6)[1] == pytest.approx(right - 0.5 * 0.2)  # the last phase: the team's only


def test_format_is_for_legal_calls_that_end_in_an_answer() -> None:
    assert reward(0.0, format=0.1) == pytest.approx([0.9, 0.9, 0.79, 0.8, 0.1])
