"""What a model is checked with before a run: how a conversation begins, how long the sequences are, what is allowed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from marl.envs.chat import Turn
from marl.errors import UserError
from marl.policies.language.base import Request
from marl.systems.language import self_check
from marl.systems.language.likelihood import LogRatio
from marl.systems.language.self_check import _opening, _prompts, check_policy

TURN: Any = SimpleNamespace()


def policy(begin: int = 10, window: int | None = None, positions: int = 10**6, device: str = "cpu") -> Any:
    """Hears ``begin`` tokens; window: of its attention; positions: that it knows."""

    def hear(request: Request) -> None:
        request.transcript.hear(range(begin))

    scorer = SimpleNamespace(window=window, positions=positions, architecture="Odd", packs=True)
    return SimpleNamespace(
        hear=hear, scorer=scorer, device=SimpleNamespace(type=device), dtype=torch.float32, packs=True
    )


@pytest.mark.parametrize(
    ("model", "length"),
    [
        ({}, 10 + 5),
        ({"window": 12}, 17),
        ({"window": 100}, 105),  # beyond the window
        ({"window": 100, "positions": 60}, 60 - 24),  # room for two turns of 12 tokens and what is heard between
        ({"window": 5000}, 1024),  # more is slow on a CPU
        ({"window": 5000, "device": "cuda"}, 5005),
        ({"window": 9000, "device": "cuda"}, 8192),
        ({"positions": 20}, 11),  # never as short as the other one
    ],
)
def test_one_prompt_is_a_beginning_and_the_other_goes_on_beyond_the_window(model: dict[str, Any], length: int) -> None:
    short, long = _prompts(policy(**model), TURN)
    assert short == list(range(10))
    assert long == [place % 10 for place in range(length)]


def test_a_conversation_that_is_shown_is_opened_and_closed_again() -> None:
    done: list[Any] = []
    env = SimpleNamespace(reset=lambda seed: done.append(seed), turn=lambda: TURN, close=lambda: done.append("closed"))
    assert _opening(SimpleNamespace(make=lambda: env)) is TURN  # type: ignore[arg-type]
    assert done == [-1, "closed"]


@pytest.mark.parametrize(
    ("packed", "alone", "verdict"),
    [
        (1e-3, 9.0, "within 0.001"),  # what is allowed is allowed, and trees stay
        (1.1e-3, 1e-3, "one sequence a row"),
        (float("nan"), 0.0, "one sequence a row"),
        (1.1e-3, 1.1e-3, "by up to 0.0011"),
        (1.1e-3, float("nan"), "by up to nan"),
    ],
)
def test_trees_are_given_up_only_where_they_are_scored_otherwise(
    packed: float, alone: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = policy()

    def compared(given: Any, role: str, prompts: list[list[int]]) -> tuple[LogRatio, str | None]:
        assert given is model and role == "planner" and len(prompts) == 2
        return LogRatio(0.0, 1, packed if model.scorer.packs else alone), None

    monkeypatch.setattr(self_check, "_compared", compared)
    turn: Turn = TURN
    if "by up to" in verdict:
        with pytest.raises(UserError, match=verdict):
            check_policy(model, "planner", turn)
    else:
        assert verdict in check_policy(model, "planner", turn)
    assert model.scorer.packs is (verdict == "within 0.001")


def test_ratios_are_counted_and_the_largest_is_kept() -> None:
    found = LogRatio()
    found.add(torch.tensor([-1.0, -2.0, 5.0]), torch.tensor([-1.25, -1.5, float("nan")]))
    found.add(torch.tensor([-3.0]), torch.tensor([-3.0]))
    assert found == LogRatio(0.75, 3, 0.5) and found.mean == 0.25
    assert found.figures("all") == {"log_ratio_mean_all": 0.25, "log_ratio_max_all": 0.5}
    found.add(torch.tensor([float("nan")]), torch.tensor([0.0]))
    assert found.largest == float("inf") and LogRatio().figures("all") == {}
