"""P3O, TRPA and R2VPO: losses of their own, by hand and by autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from marl.learning.language.preferences import pairs
from marl.learning.language.token_losses import Tokens
from marl.systems import p3o, r2vpo, trpa
from marl.systems.language.needs import GroupConfig
from marl.systems.registry import load_system

#: Rows of 2, 3, 1 and 2 tokens; the first three answer one question.
LENGTHS, GROUP = (2, 3, 1, 2), torch.tensor([0, 0, 0, 1])


def tokens(value: list[float], seed: int = 0, apart: float = 0.1, **columns: Any) -> Tokens:
    draw = torch.Generator().manual_seed(seed)
    row = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
    old = -torch.rand(8, generator=draw) - 0.5
    new = (old + apart * torch.randn(8, generator=draw)).requires_grad_()
    weight = torch.randn(8, generator=draw)
    return Tokens(new, old, weight, torch.ones(8), row, GROUP, torch.tensor(value), **columns)


def slope(loss: torch.Tensor, of: Tokens) -> torch.Tensor:
    return torch.autograd.grad(loss, of.log_prob)[0]


def test_pairs_are_those_of_a_group_with_unequal_values() -> None:
    found = pairs(GROUP, torch.tensor([2.0, 1.0, 2.0, 0.0]))
    assert sorted(zip(found.winner.tolist(), found.loser.tolist(), strict=True)) == [(0, 1), (2, 1)]


# P3O


def test_p3o_at_ratio_one_is_half_the_policy_gradient_of_differences() -> None:
    of = tokens([1.0, 0.0, 0.5, 7.0], apart=0.0)
    found = slope(p3o.loss(of, GroupConfig(), {}), of)
    value = [1.0, 0.0, 0.5]
    per_row = [sum(value[i] - value[j] for j in range(3) if j != i) / 4 for i in range(3)]
    want = torch.tensor([per_row[0]] * 2 + [per_row[1]] * 3 + [per_row[2]] + [0.0] * 2) / 3 * 8
    assert torch.allclose(found, -want, atol=1e-5)


def test_p3o_does_not_see_what_a_question_pays_and_its_clip_is_one_sided() -> None:
    config = GroupConfig(clip=0.1)
    for seed in range(5):
        plain, shifted = tokens([1.0, 0.0, 0.5, 7.0], seed), tokens([4.0, 3.0, 3.5, -2.0], seed)
        assert torch.allclose(slope(p3o.loss(plain, config, {}), plain), slope(p3o.loss(shifted, config, {}), shifted))
    of = tokens([1.0, 0.0, 0.0, 7.0], apart=0.0)
    ahead = of._replace(log_prob=(of.old + torch.tensor([0.2, 0.2, 0, 0, 0, 0, 0, 0])).requires_grad_())
    assert not slope(p3o.loss(ahead, config, {}), ahead).any()  # the better one is likelier by more than the clip
    behind = of._replace(log_prob=(of.old - torch.tensor([0.2, 0.2, 0, 0, 0, 0, 0, 0])).requires_grad_())
    pull = float(torch.exp(torch.tensor(-0.4))) / 4 * 8
    assert slope(p3o.loss(behind, config, {}), behind).tolist() == pytest.approx(
        [-pull] * 2 + [pull / 2] * 4 + [0.0] * 2, abs=1e-5
    )


def test_a_batch_without_a_pair_has_no_gradient() -> None:
    of = tokens([1.0, 1.0, 1.0, 1.0])
    memory: dict[str, torch.Tensor] = {}
    assert not slope(p3o.loss(of, GroupConfig(), memory), of).any() and memory["pairs"] == 0.0


# TRPA


def test_trpa_is_the_logistic_loss_of_levels() -> None:
    draw = torch.Generator().manual_seed(3)
    of = tokens([2.0, 1.0, 0.0, 1.0], reference=-torch.rand(8, generator=draw))
    memory: dict[str, torch.Tensor] = {}
    found = trpa.loss(of, trpa.TrpaConfig(beta=0.3, best=2.5), memory)
    apart, at = [], 0
    assert of.reference is not None
    for length in LENGTHS:
        apart.append(float((of.log_prob.detach() - of.reference)[at : at + length].mean()))
        at += length
    terms = [0.75 * (apart[0] - apart[1]), 0.75 * (apart[0] - apart[2]), 0.3 * (apart[1] - apart[2]), -apart[3]]
    want = -sum(float(torch.nn.functional.logsigmoid(torch.tensor(term))) for term in terms) / 4 * 8
    assert float(found.detach()) == pytest.approx(want, abs=1e-5) and memory["pairs"] == 3.0
    alone = trpa.loss(of, trpa.TrpaConfig(beta=0.3, single=False), {})
    assert float(alone.detach()) == pytest.approx(-sum(
        float(torch.nn.functional.logsigmoid(torch.tensor(term))) for term in terms[:3]
    ) / 3 * 8, abs=1e-5)  # fmt: skip


def test_trpa_sees_levels_and_no_reward() -> None:
    """The size of a reward is not seen; having paid for a correction is, as being ill-formed is."""
    from recipe_batches import CONTEXT, case

    made = case(0)
    made.batch.turn_reward.abs_()
    before = trpa.advantages(made.batch, trpa.TrpaConfig(), CONTEXT)
    assert before.row is not None
    assert before.row.tolist() == [row.success + row.legal for row in made.rows]
    made.batch.turn_reward[:] = 1000.0
    made.batch.cost[:] = 5.0
    after = trpa.advantages(made.batch, trpa.TrpaConfig(), CONTEXT)
    assert after.row is not None and torch.equal(before.row, after.row)
    made.batch.turn_reward[:] = -0.001
    paid = trpa.advantages(made.batch, trpa.TrpaConfig(), CONTEXT)
    assert paid.row is not None and paid.row.tolist() == [row.success for row in made.rows]


# R2VPO


def test_r2vpo_has_the_closed_form_gradient_and_the_price_follows_its_bound() -> None:
    of = tokens([0.0] * 4, apart=0.4)
    memory = {"price": torch.tensor(0.7)}
    config = r2vpo.R2vpoConfig(bound=0.01, price_rate=2.0)
    found = slope(r2vpo.loss(of, config, memory), of)
    ratio = (of.log_prob - of.old).exp().detach()
    assert torch.allclose(found, -ratio * (of.weight - 2 * 0.7 * (ratio - 1)), atol=1e-5)
    moment = float((ratio - 1).square().mean())
    assert float(memory["price"]) == pytest.approx(0.7 + 2.0 * (moment - 0.01), abs=1e-5)
    assert float(memory["ratio_moment"]) == pytest.approx(moment, abs=1e-6)
    still = tokens([0.0] * 4, apart=0.0)
    low = {"price": torch.tensor(0.01)}
    r2vpo.loss(still, r2vpo.R2vpoConfig(bound=0.02, price_rate=2.0), low)
    assert float(low["price"]) == 0.0  # never below


@pytest.mark.parametrize("name", ["p3o", "trpa", "r2vpo", "mathforge", "infopo", "adacot"])
def test_a_group_of_one_is_refused_where_rollouts_are_compared(name: str) -> None:
    with pytest.raises(ValueError, match=r"group=1: this system compares rollouts of a task"):
        load_system(name).config(group=1)
