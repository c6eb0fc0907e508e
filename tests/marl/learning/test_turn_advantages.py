"""Credit for single turns and tokens, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from marl.learning.language.group_norm import group_norm
from marl.learning.language.turn_advantages import alone, contexts, gdpo, gigpo, hgpo, token_gae, turn_returns
from marl.learning.rewards import outcome_reward, tool_efficiency


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def test_returns_of_turns() -> None:
    found = turn_returns(t(0.0, -1.0, 0.0, 0.0), t(10.0, 4.0), torch.tensor([0, 0, 1, 1]), 0.5)
    assert found.tolist() == [4.5, 9.0, 2.0, 4.0]


def test_gigpo_by_hand() -> None:
    group = torch.zeros(5, dtype=torch.int64)
    anchor = torch.tensor([7, 7, 8, 9, 9])
    found = gigpo(t(1.0, 1.0, 1.0, 0.0, 0.0), t(4.0, 2.0, 5.0, 3.0, 3.0), group, anchor, weight=2.0)
    assert found.tolist() == [3.0, -1.0, 1.0, 0.0, 0.0]  # the third is alone with its anchor, the last two are equal


def test_contexts_nest() -> None:
    anchor = torch.tensor([1, 2, 3, 5, 2, 3])
    row, number = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2])
    one, two, three = contexts(anchor, row, number, 3)
    assert one[2] == one[5] and two[2] == two[5] and three[2] != three[5]
    assert one[1] == one[4] and two[1] != two[4]


def test_turns_that_nothing_is_compared_with_are_counted() -> None:
    group, anchor = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([7, 7, 8, 7, 9])
    assert alone(group, anchor) == pytest.approx(3 / 5)  # the same anchor in another group is another state
    assert alone(torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)) == 0.0


def test_hgpo_by_hand() -> None:
    group = torch.zeros(4, dtype=torch.int64)
    keys = [torch.tensor([1, 1, 1, 1]), torch.tensor([1, 1, 2, 3])]
    found = hgpo(t(1.0, 3.0, 3.0, 1.0), group, keys, alpha=1.0, scale=1.0)
    # weights 2 and 3; the last two share a context with nobody, so only the first level counts
    assert found.tolist() == pytest.approx([(2 * -1 + 3 * -1) / 5, 1.0, 1.0, -1.0])
    only = hgpo(t(1.0, 3.0, 3.0, 1.0), group, keys[:1])
    assert torch.allclose(only, group_norm(t(1.0, 3.0, 3.0, 1.0), group).advantage)


def test_gdpo_tells_apart_what_a_sum_does_not() -> None:
    key = torch.zeros(4, dtype=torch.int64)
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    found = gdpo(rewards, (1.0, 1.0), key)
    summed = group_norm(rewards.sum(0), key).advantage
    assert summed[0] == summed[1] and found[0] > found[1] + 0.1
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-6) and float(found.std(unbiased=False)) == pytest.approx(
        1, abs=1e-3
    )


def test_token_gae_by_hand() -> None:
    value, reward = t(0.5, 0.6, 0.2, 0.4), t(0.0, 1.0, 0.0, 2.0)
    ends = torch.tensor([False, True, False, True])
    found = token_gae(value, reward, ends, gamma=0.5, lam=0.0)
    assert found.tolist() == pytest.approx([0.1, 1.0 + 0.1 - 0.6, 0.2, 1.6])
    everything = token_gae(value, reward, ends, gamma=0.5, lam=1.0)
    assert everything.tolist() == pytest.approx([2.0 - 0.5, 2.0 - 0.6, 1.8, 1.6])  # returns 1 + .5 * 2, less the value


def test_token_gae_does_not_depend_on_how_a_turn_is_spelt() -> None:
    """Splitting a turn into more tokens of the same value changes nothing before it: no discount between tokens."""
    short = token_gae(t(0.5, 0.5), t(0.0, 1.0), torch.tensor([True, True]), 0.9, 0.9)
    long = token_gae(t(0.5, 0.5, 0.5, 0.5), t(0.0, 0.0, 0.0, 1.0), torch.tensor([False, True, False, True]), 0.9, 1.0)
    assert token_gae(t(0.5), t(1.0), torch.tensor([True]), 0.9, 0.9)[0] == pytest.approx(0.5)
    assert float(short[1]) == pytest.approx(0.5) and float(long[2]) == pytest.approx(0.5)


def test_tool_efficiency_table() -> None:
    calls, group = t(2.0, 4.0, 2.0, 8.0), torch.zeros(4, dtype=torch.int64)
    factor = tool_efficiency(calls, t(1.0, 1.0, 0.0, 1.0), group)
    f = 2 * 2 * 4 / 6
    assert factor.tolist() == pytest.approx([1.0, math.sin(f * math.pi / 4), 1.0, math.sin(3.2 * math.pi / 4)])
    none = tool_efficiency(t(0.0, 1.0), t(1.0, 0.0), torch.zeros(2, dtype=torch.int64))
    assert none.tolist() == pytest.approx([1.0, math.cos(math.pi / 3)])
    assert tool_efficiency(t(3.0), t(0.0), torch.zeros(1, dtype=torch.int64)).tolist() == [1.0]


def test_outcome_reward_counts_cost_among_successes_only() -> None:
    assert outcome_reward(t(1.0, 0.0, 1.0), t(2.0, 2.0, 99.0), 0.1).tolist() == pytest.approx([0.8, 0.0, 0.0])


def test_no_observation_is_taken_for_a_begin() -> None:
    """The second turn of a row, and the first of another, both see 2; only the one has seen 1 before."""
    one, two = contexts(torch.tensor([1, 2, 2]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), 2)
    assert one[1] == one[2] and two[1] != two[2]


def test_hgpo_of_a_negative_exponent_by_hand() -> None:
    """Shorter contexts weigh more: 1/2 and 1/3."""
    keys = [torch.tensor([1, 1, 1, 1]), torch.tensor([1, 1, 2, 2])]
    found = hgpo(t(1.0, 3.0, 8.0, 4.0), torch.zeros(4, dtype=torch.int64), keys, alpha=-1.0, scale=1.0)
    deep, shallow = (-1.0, 1.0, 2.0, -2.0), (-3.0, -1.0, 4.0, 0.0)
    expected = [(s / 2 + d / 3) / (1 / 2 + 1 / 3) for s, d in zip(shallow, deep, strict=True)]
    assert found[:3].tolist() == pytest.approx(expected[:3])
    assert float(found[3]) == pytest.approx(-2.0)  # an advantage of 0 has no weight
