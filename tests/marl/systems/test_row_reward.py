"""What a row of a language batch is worth, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from marl.systems.language.options import LanguageConfig
from marl.systems.language.rewards import final_reward, row_reward, turn_reward

BATCH = SimpleNamespace(
    # a planner; its sub-agents: right, wrong, of unknown worth; a planner that failed
    success=torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]),
    cost=torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0]),
    level=torch.tensor([0, 1, 1, 1, 0]),
    correct=torch.tensor([1.0, 1.0, 0.0, float("nan"), 0.0]),
    own_cost=torch.tensor([2.0, 0.5, 0.5, 0.5, 2.0]),
    closed=torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]),
    invalid=torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]),
    # a turn of each, and two of the wrong sub-agent, the second of which was no legal call
    turn_reward=torch.zeros(6),
    turn_invalid=torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
    turn_drift=torch.tensor([0.0, 2.0, 1.0, 3.0, 0.0, 0.0]),
    of_rows=lambda turns: torch.zeros(5).index_add_(0, torch.tensor([0, 1, 2, 2, 3, 4]), turns),
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


def test_turns_and_ends_add_up_to_rows_and_an_illegal_call_costs_once() -> None:
    config = LanguageConfig.model_validate({"reward": {"cost": 0.1, "invalid": 0.01}})
    paying = SimpleNamespace(**{**vars(BATCH), "turn_reward": torch.tensor([0.0, -0.5, 0.0, 0.0, 0.0, -0.25])})
    turns = turn_reward(paying, config)  # type: ignore[arg-type]
    assert turns.tolist() == pytest.approx([0.0, -0.5, 0.0, -0.01, 0.0, -0.25])
    ends = final_reward(paying, config, 0.0)  # type: ignore[arg-type]
    assert ends.tolist() == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.0])
    rows = row_reward(paying, config, 0.0)  # type: ignore[arg-type]
    assert rows.tolist() == pytest.approx([0.8, 0.3, 0.79, 0.8, -0.25])


def test_leaving_the_reference_costs_turns_where_it_is_in_the_reward() -> None:
    priced = LanguageConfig.model_validate(
        {"reward": {"cost": 0.1, "invalid": 0.0}, "kl": {"weight": 0.1, "place": "reward"}}
    )
    found = row_reward(BATCH, priced, 0.0)  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx([0.8, 0.6, 0.4, 0.8, 0.0])
    in_loss = LanguageConfig.model_validate({"reward": {"cost": 0.1, "invalid": 0.0}, "kl": {"weight": 0.1}})
    assert row_reward(BATCH, in_loss, 0.0).tolist() == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.0])  # type: ignore[arg-type]
