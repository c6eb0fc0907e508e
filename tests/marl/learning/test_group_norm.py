"""Group-relative advantages: hand-computed cases and the identities that systems rest on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.learning.language.alignment import align
from marl.learning.language.group_norm import group_norm


def test_by_hand() -> None:
    question = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    value = torch.tensor([1.0, 0.0, 0.0, 1.0, 3.0, 3.0, 7.0])
    found = group_norm(value, question, eps=0.0)
    assert found.advantage.tolist() == [1.0, -1.0, -1.0, 1.0, 0.0, 0.0, 0.0]
    assert found.zero_variance == 0.5  # of the two groups with several members, the second has equal values
    assert found.singletons == pytest.approx(1 / 3)


def test_scale_and_leave_one_out_by_hand() -> None:
    key = torch.zeros(3, dtype=torch.int64)
    value = torch.tensor([1.0, 2.0, 6.0])
    assert group_norm(value, key, scale=0.5).advantage.tolist() == [-4.0, -2.0, 6.0]
    assert group_norm(value, key, scale=1.0, leave_one_out=True).advantage.tolist() == [-3.0, -1.5, 4.5]


def test_weights_are_repetitions() -> None:
    repeated = group_norm(torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.zeros(4, dtype=torch.int64))
    weighted = group_norm(
        torch.tensor([1.0, 2.0, 5.0, 9.0]), torch.zeros(4, dtype=torch.int64), weight=torch.tensor([1.0, 2, 1, 0])
    )
    assert torch.allclose(weighted.advantage[:3], repeated.advantage[[0, 1, 3]])
    assert weighted.advantage[3] == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), min_size=2, max_size=30), st.floats(-3, 3))
def test_invariances(entries: list[tuple[int, int]], shift: float) -> None:
    key = torch.tensor([k for k, _ in entries])
    value = torch.tensor([float(v) for _, v in entries])
    plain = group_norm(value, key).advantage
    assert torch.allclose(group_norm(3.0 * value + shift, key).advantage, plain, atol=1e-4)
    order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(group_norm(value[order], key[order]).advantage, plain[order], atol=1e-5)
    for group in key.unique():
        assert abs(float(plain[key == group].sum())) < 1e-3


def test_dr_mas_identity() -> None:
    """One normalisation for all agents tilts their gradients by mean and spread; per-agent makes each exactly 1."""
    draw = torch.Generator().manual_seed(0)
    agent = torch.tensor([0] * 40 + [1] * 10)
    value = torch.where(agent == 0, torch.randn(50, generator=draw), 3.0 + 0.2 * torch.randn(50, generator=draw))
    question = torch.zeros(50, dtype=torch.int64)
    pooled = group_norm(value, question, eps=0.0).advantage
    own = group_norm(value, question, agent, eps=0.0).advantage
    for k in (0, 1):
        mine = value[agent == k]
        tilt = (mine.var(unbiased=False) + (mine.mean() - value.mean()) ** 2) / value.var(unbiased=False)
        assert float(pooled[agent == k].square().mean()) == pytest.approx(float(tilt), rel=1e-4)
        assert float(own[agent == k].square().mean()) == pytest.approx(1.0, rel=1e-4)


def test_alignment_by_hand() -> None:
    rollout = torch.tensor([0, 0, 0, 0, 1, 1, 3])
    found = align(rollout, rollouts=4, target=2, key=5)
    assert [float(found.weight[rollout == k].sum()) for k in range(4)] == [2.0, 2.0, 0.0, 2.0]
    assert found.weight[6] == 2.0
    assert found.dropped == pytest.approx(2 / 7) and found.duplicated == pytest.approx(1 / 6)
    assert found.empty == 1
    assert torch.equal(found.weight, align(rollout, 4, 2, 5).weight)
    assert float(align(rollout, 4, None, 0).weight.sum()) == 9.0  # ceil(7 calls / 3 rollouts) = 3 for each of 3
    assert align(torch.zeros(0, dtype=torch.int64), 3, None, 0).empty == 3
