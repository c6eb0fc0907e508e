import pytest
import torch
from torch import Tensor

from marl.learning.advantages import gae, normalize

GAMMA, LAM = 0.9, 0.5  # gamma * lam = 0.45


def column(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(-1)


def flags(*steps: int, length: int = 3) -> Tensor:
    result = torch.zeros(length, 1, dtype=torch.bool)
    result[list(steps)] = True
    return result


REWARD, VALUE, NEXT = column(1.0, 2.0, 3.0), column(0.5, 1.0, 2.0), column(1.0, 2.0, 4.0)
# One-step differences r + 0.9 V' - V: 1.4, 2.8, 4.6.


def test_gae_of_an_unbroken_rollout_bootstraps_from_its_last_successor():
    advantage = gae(REWARD, VALUE, NEXT, flags(), flags(), GAMMA, LAM)
    third = 4.6
    second = 2.8 + 0.45 * third
    torch.testing.assert_close(advantage, column(1.4 + 0.45 * second, second, third))


def test_gae_drops_the_value_after_a_termination_and_cuts_the_trace():
    advantage = gae(REWARD, VALUE, NEXT, flags(1), flags(1), GAMMA, LAM)
    second = 2.0 - 1.0
    torch.testing.assert_close(advantage, column(1.4 + 0.45 * second, second, 4.6))


def test_gae_ignores_whatever_value_follows_a_termination():
    next_value = column(1.0, float("nan"), 4.0)
    advantage = gae(REWARD, VALUE, next_value, flags(1), flags(1), GAMMA, LAM)
    torch.testing.assert_close(advantage, gae(REWARD, VALUE, NEXT, flags(1), flags(1), GAMMA, LAM))


def test_gae_bootstraps_through_a_truncation_and_cuts_the_trace():
    final_value = column(1.0, 7.0, 4.0)
    advantage = gae(REWARD, VALUE, final_value, flags(), flags(1), GAMMA, LAM)
    second = 2.0 + 0.9 * 7.0 - 1.0
    torch.testing.assert_close(advantage, column(1.4 + 0.45 * second, second, 4.6))


def test_gae_of_a_fixed_horizon_where_every_end_is_a_truncation():
    # Reward 1 for ever and a perfect critic, V = 1 / (1 - gamma): nothing is better than expected, at no end.
    steps = 6
    ones, value = torch.ones(steps, 2), torch.full((steps, 2), 10.0)
    nothing = torch.zeros(steps, 2, dtype=torch.bool)
    cut = torch.tensor([False, False, True]).repeat(2).unsqueeze(-1).expand(steps, 2)
    torch.testing.assert_close(gae(ones, value, value, nothing, cut, 0.9, 0.95), torch.zeros(steps, 2))


def test_a_slot_that_changes_its_agent_cuts_only_its_own_trace():
    reward, value, next_value = (x.expand(3, 2) for x in (REWARD, VALUE, NEXT))
    nothing = torch.zeros(3, 2, dtype=torch.bool)
    cut = nothing.clone()
    cut[0, 1] = True
    advantage = gae(reward, value, next_value, nothing, cut, GAMMA, LAM)
    torch.testing.assert_close(advantage[:, :1], gae(REWARD, VALUE, NEXT, flags(), flags(), GAMMA, LAM))
    assert advantage[0, 1] == pytest.approx(1.4)


def test_what_a_dead_slot_holds_does_not_reach_the_agent_that_died():
    reward, value, next_value = column(1.0, 2.0, 50.0), column(0.5, 1.0, -80.0), column(1.0, 0.0, 90.0)
    advantage = gae(reward, value, next_value, flags(1), flags(1), GAMMA, LAM)
    torch.testing.assert_close(advantage[:2], column(1.4 + 0.45 * 1.0, 1.0))


def test_monte_carlo_advantages_plus_values_are_discounted_returns():
    generator = torch.Generator().manual_seed(0)
    reward, value = torch.rand(2, 20, 3, generator=generator)
    next_value = torch.cat((value[1:], torch.full((1, 3), 5.0)))
    nothing = torch.zeros(20, 3, dtype=torch.bool)
    returns = gae(reward, value, next_value, nothing, nothing, 0.9, 1.0) + value
    expected = torch.full((3,), 5.0)
    for t in reversed(range(20)):
        expected = reward[t] + 0.9 * expected
        torch.testing.assert_close(returns[t], expected)


def test_gae_carries_no_gradient():
    assert not gae(REWARD, VALUE.clone().requires_grad_(), NEXT, flags(), flags(), GAMMA, LAM).requires_grad


def test_normalize_counts_living_agents_only():
    advantage = torch.tensor([[1.0, 3.0, 1000.0], [5.0, float("nan"), 7.0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    scaled = normalize(advantage, mask)
    # Mean 4, population variance 5.
    torch.testing.assert_close(scaled[mask], (advantage[mask] - 4.0) / 5.0**0.5)
    assert torch.equal(scaled[~mask], torch.zeros(2))


def test_normalize_of_equal_advantages_is_zero():
    mask = torch.ones(4, 2, dtype=torch.bool)
    assert normalize(torch.full((4, 2), 0.3), mask).abs().max() < 0.01
