"""Advantages on plain arrays, and the page that shows them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from marl.learning import credit

PAGE = Path(__file__).parents[3] / "docs" / "advantages.md"


def test_the_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    code = re.search(r"```python\n# file: credit_example.py\n(.*?)```", text, re.DOTALL)
    shown = re.search(r"it prints:\n\n```\n(.*?)```", text, re.DOTALL)
    assert code is not None and shown is not None
    exec(compile(code[1], "credit_example.py", "exec"), {})
    assert capsys.readouterr().out == shown[1]


def test_lists_arrays_texts_and_numbers_are_alike() -> None:
    reward = [1.0, 0.0, 2.0, 2.0]
    texts = credit.grpo(reward, ["b", "b", "a", "c"])
    assert texts.dtype == np.float32 and texts.tolist() == pytest.approx([1.0, -1.0, 0.0, 0.0], abs=1e-5)
    assert np.array_equal(texts, credit.grpo(np.array(reward), np.array([7, 7, 1, 3])))
    assert credit.rloo([1.0, 0.0, 0.0], ["q"] * 3).tolist() == pytest.approx([1.0, -0.5, -0.5])


def test_dr_mas_has_mean_square_one_for_every_agent() -> None:
    draw = np.random.default_rng(0)
    reward, agent = draw.normal(size=60) + np.repeat([0, 5], 30), np.repeat(["a", "b"], 30)
    found = credit.dr_mas(reward, ["q"] * 60, agent, eps=0.0)
    assert [float((found[agent == name] ** 2).mean()) for name in "ab"] == pytest.approx([1.0, 1.0], abs=1e-5)


def test_at_grpo_and_hierarchical_grpo_by_hand() -> None:
    reward = [1.0, 0.0, 3.0, 1.0, 1.0]
    turn = credit.at_grpo(reward, ["q"] * 5, ["p", "p", "p", "p", "w"], [0, 0, 1, 1, 1], scale=1.0)
    assert turn.tolist() == [0.5, -0.5, 1.0, -1.0, 0.0]
    published = credit.at_grpo(reward, ["q"] * 5, ["p", "p", "p", "p", "w"], [0, 0, 1, 1, 1])
    assert published.tolist() == pytest.approx([1.0, -1.0, 1.0, -1.0, 0.0], abs=1e-4)
    same = credit.hierarchical_grpo(reward, ["q"] * 5, ["w"] * 5, ["e1 r1", "e1 r2", "e1 r1", "e1 r2", "e1 r3"])
    assert same.tolist() == [-1.0, -0.5, 1.0, 0.5, 0.0]


def test_hgpo_and_gdpo_by_hand() -> None:
    # Rows end with 1 and 0; their first turns share the observation "s", the second ones share nothing.
    found = credit.hgpo([0] * 4, [1.0, 0.0], [0, 0, 1, 1], [0, 1, 0, 1], ["q"] * 2, list("sasb"), 2, 1.0, 1.0, 1.0)
    assert found.tolist() == [0.5, 0.0, -0.5, 0.0]
    both = credit.gdpo([[1.0, 0.0], [10.0, 0.0]], [1.0, 1.0], ["q", "q"])
    assert both.tolist() == pytest.approx([1.0, -1.0], abs=1e-3)


def test_hgpo_leaves_out_contexts_that_reach_before_the_begin() -> None:
    """Three rows of one turn each in one state: one more context says nothing, but in the padded form weighs again."""
    arguments = ([0, 0, 0, 0], [2.0, 0.0], [0, 0, 1, 1], [0, 1, 0, 1], ["q"] * 2, list("ssss"), 2, 1.0, 1.0, 1.0)
    # All four share "s": 2, 2, 0, 0 against 1. In contexts of two only the second turns take part: 2 and 0 against 1.
    assert credit.hgpo(*arguments).tolist() == [1.0, 1.0, -1.0, -1.0]
    alone = ([0, 0, 0], [3.0, 0.0], [0, 0, 1], [0, 1, 0], ["q"] * 2, list("sss"), 2, 1.0, 1.0, 1.0)
    # Against 2: 1, 1, -2. In contexts of two the lone second turn is compared with nobody; padded, the first ones
    # are compared with each other: 3 and 0 against 1.5, with weight 3 beside 2.
    assert credit.hgpo(*alone).tolist() == [1.0, 1.0, -2.0]
    padded = credit.hgpo(*alone, padded=True).tolist()
    assert padded == pytest.approx([(2 * 1 + 3 * 1.5) / 5, 1.0, (2 * -2 + 3 * -1.5) / 5])


def test_thrift_by_hand() -> None:
    """Where a rollout succeeds without any call, m calls are worth cos(m pi / (2 m + 1))."""
    found = credit.otc([0, 1, 3], [1, 0, 1], ["q"] * 3)
    assert found.tolist() == pytest.approx([1.0, 0.5, np.cos(3 * np.pi / 7)])
    assert credit.otc([3, 6], [1, 1], ["q"] * 2).tolist() == pytest.approx([1.0, np.sin(2 * np.pi / 3)])
