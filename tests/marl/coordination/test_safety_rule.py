"""What a safety rule of the user's own may answer wrongly: the sentence names rule, question and answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gymnasium import spaces

import marl.coordination.safety_rule as own
from marl.errors import UserError

WORLD: Any = SimpleNamespace(
    copies=2,
    device=torch.device("cpu"),
    spec=SimpleNamespace(n_agents=3, action_space={"a": spaces.Discrete(5)}),
)
PROPOSED = torch.zeros(2, 3, dtype=torch.int64)


def rule(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> Any:
    made = SimpleNamespace(**{name: lambda *_, answer=answer: answer for name, answer in answers.items()})
    monkeypatch.setattr(own, "load_reference", lambda *_: lambda env: made)
    return own.made_rule("my:Rule", WORLD)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (PROPOSED[:, :1], r"resolve returned int64 \[2, 1\], not int64 \[2, 3\]"),
        (PROPOSED.float(), r"resolve returned float32 \[2, 3\], not int64"),
        (None, "resolve returned NoneType, not int64"),
        (PROPOSED + 5, "resolve returned the action 5; there are 0 to 4"),
        (PROPOSED - 1, "resolve returned the action -1; there are 0 to 4"),
    ],
)
def test_joint_actions(monkeypatch: pytest.MonkeyPatch, answer: Any, words: str) -> None:
    assert rule(monkeypatch, resolve=PROPOSED + 4).resolve(PROPOSED, None) is not None
    with pytest.raises(UserError, match=f"safety.rule=my:Rule: {words}"):
        rule(monkeypatch, resolve=answer).resolve(PROPOSED, None)


def test_answers_about_one_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    who, good = PROPOSED[:, 0], {"priority": torch.zeros(2, 3), "candidates": PROPOSED - 1, "margin": torch.ones(2, 3)}
    made = rule(monkeypatch, **good)
    assert made.priority().shape == made.candidates(who).shape == made.margin(PROPOSED, who, PROPOSED).shape
    for name, answer, words in (
        ("priority", torch.zeros(3), r"priority returned float32 \[3\], not float \[2, 3\]"),
        ("priority", PROPOSED, r"priority returned int64 \[2, 3\], not float"),
        ("candidates", PROPOSED[0], r"candidates returned int64 \[3\], not int64 \[2, 5\]"),
        ("candidates", PROPOSED - 2, "candidates returned the action -2; there are -1 to 4"),
        ("margin", torch.ones(2, 2), r"margin returned float32 \[2, 2\], not float \[2, 3\]"),
        ("margin", torch.full((2, 3), torch.nan), "margin returned NaN"),
    ):
        made = rule(monkeypatch, **(good | {name: answer}))
        asked = {"priority": (), "candidates": (who,), "margin": (PROPOSED, who, PROPOSED)}
        with pytest.raises(UserError, match=words):
            getattr(made, name)(*asked[name])


def test_what_is_no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="my:Rule makes a SimpleNamespace, which has neither resolve, nor priority"):
        rule(monkeypatch, priority=None)
    monkeypatch.setattr(own, "load_reference", lambda *_: 3)
    with pytest.raises(UserError, match="is not a function that makes a supervisor"):
        own.made_rule("my:three", WORLD)
