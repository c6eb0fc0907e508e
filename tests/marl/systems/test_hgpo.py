"""HGPO against plain numpy: nested contexts, with the begin of a conversation left out or padded."""

from __future__ import annotations

import numpy as np
import pytest
from recipe_batches import CONTEXT, Case, case, discounted, z_scores

from marl.systems.hgpo import HgpoConfig, advantages


def by_hand(made: Case, history: int, alpha: float, padded: bool) -> np.ndarray:
    """Contexts as tuples of anchors; every length k is a grouping of its own."""
    returns = discounted(made, 0.9, team=False)
    places = [(r, t) for r in made.rows for t in range(len(r.turns))]
    total, weights = np.zeros(len(places)), np.zeros(len(places))
    for k in range(1, history + 2):
        keys, reached = [], []
        for r, t in places:
            begin = t - k + 1
            seen = tuple(turn.anchor for turn in r.turns[max(begin, 0) : t + 1])
            keys.append((r.group, seen, min(begin, 0)))
            reached.append(1.0 if padded or begin >= 0 else 0.0)
        advantage = z_scores(returns, keys, weight=np.array(reached))
        weight = (k + 1.0) ** alpha * (advantage != 0)
        total, weights = total + weight * advantage, weights + weight
    return np.where(weights > 0, total / np.maximum(weights, 1e-12), 0.0)


@pytest.mark.parametrize("begin", ["left_out", "padded"])
@pytest.mark.parametrize("history", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_nested_contexts(seed: int, history: int, begin: str) -> None:
    made = case(seed, size=6)
    config = HgpoConfig(gamma=0.9, history=history, alpha=1.5, begin=begin)  # type: ignore[arg-type]
    found = advantages(made.batch, config, CONTEXT).turn.numpy()
    assert np.allclose(found, by_hand(made, history, 1.5, begin == "padded"), atol=5e-4)


def test_histories_and_begins_differ() -> None:
    """So that a context less, or the other form, would be seen above."""
    made = case(0, size=6)
    forms = [by_hand(made, history, 1.5, padded) for history in (0, 1, 2) for padded in (False, True)]
    for one in range(2, len(forms)):
        for other in range(one):
            assert np.abs(forms[one] - forms[other]).max() > 1e-2


def test_the_published_default() -> None:
    assert HgpoConfig().begin == "left_out" and HgpoConfig().history == 2


def test_turns_without_advantage_are_counted() -> None:
    made = case(1, size=1)  # few turns, so that some have nothing to be compared with
    config = HgpoConfig(gamma=0.9, history=1, alpha=1.5)
    expected = (by_hand(made, 1, 1.5, False) == 0).mean()
    assert 0.05 < expected < 0.95
    assert advantages(made.batch, config, CONTEXT).figures["turns_without_advantage"] == pytest.approx(expected)
