import math

import pytest
import torch

from marl.policies.heads import Categorical, Gaussian, MultiCategorical
from marl.seeding import fold, uniform

LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.0, 0.7])
MASK = torch.tensor([False, True, True, False, True])
LARGEST = 1.0 - 2.0**-24


def keyed_uniforms(*shape: int) -> torch.Tensor:
    return uniform(fold(torch.tensor(0), torch.arange(math.prod(shape)))).view(*shape)


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected).square() / expected).sum())


def test_sampled_frequencies_match_the_probabilities():
    count = 20_000
    actions = Categorical(LOGITS.expand(count, 5)).sample(keyed_uniforms(count))
    # 18.5 is the 99.9 % quantile with 4 degrees of freedom.
    assert chi_square(actions.bincount(minlength=5), torch.softmax(LOGITS, -1)) < 18.5


def test_a_grid_of_uniforms_gives_each_action_its_exact_share():
    grid = (torch.arange(1000) + 0.5) / 1000
    actions = Categorical(LOGITS.expand(1000, 5)).sample(grid)
    assert (actions.bincount(minlength=5) / 1000 - torch.softmax(LOGITS, -1)).abs().max() <= 0.001
    assert (actions.diff() >= 0).all()


def test_illegal_actions_are_never_drawn_nor_taken_as_the_mode():
    uniforms = torch.cat((keyed_uniforms(1000), torch.tensor([0.0, LARGEST])))
    head = Categorical(LOGITS.expand(1002, 5), MASK.expand(1002, 5))
    assert set(head.sample(uniforms).tolist()) == {1, 2, 4}
    assert set(Categorical(LOGITS, ~MASK).mode().view(1).tolist()) == {0}


@pytest.mark.parametrize("only", range(5))
@pytest.mark.parametrize("number", [0.0, 0.5, LARGEST])
def test_the_only_legal_action_is_always_drawn(only, number):
    mask = torch.arange(5) == only
    assert Categorical(30 * LOGITS, mask).sample(torch.tensor(number)) == only


def test_masked_log_prob_and_entropy_are_those_of_the_legal_actions_alone():
    head, legal = Categorical(LOGITS, MASK), torch.log_softmax(LOGITS[MASK], -1)
    torch.testing.assert_close(torch.stack([head.log_prob(torch.tensor(a)) for a in (1, 2, 4)]), legal)
    torch.testing.assert_close(head.entropy(), -(legal.exp() * legal).sum())


def test_masked_actions_get_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    head = Categorical(logits, MASK)
    (slope,) = torch.autograd.grad(head.log_prob(torch.tensor(2)) + head.entropy(), logits)
    assert slope.isfinite().all()
    assert torch.equal(slope[~MASK], torch.zeros(2))


def test_a_row_without_legal_action_stays_finite_and_without_gradient():
    logits = LOGITS.clone().requires_grad_()
    head = Categorical(logits, torch.zeros(5, dtype=torch.bool))
    assert 0 <= head.sample(torch.tensor(LARGEST)) < 5
    total = head.entropy() + head.log_prob(torch.tensor(3))
    (slope,) = torch.autograd.grad(total, logits)
    assert total.isfinite() and not slope.any()


def test_the_ratio_is_one_while_the_policy_is_the_same():
    logits = LOGITS.expand(100, 5)
    drawn = Categorical(logits, MASK.expand(100, 5))
    action = drawn.sample(keyed_uniforms(100))
    again = Categorical(logits.clone(), MASK.expand(100, 5))
    assert torch.equal(again.log_prob(action), drawn.log_prob(action))


def test_multi_categorical_is_a_product_of_choices():
    logits = torch.cat((LOGITS, torch.tensor([0.5, -0.5]))).expand(6, 7)
    mask = torch.cat((MASK, torch.tensor([True, True]))).expand(6, 7)
    head = MultiCategorical(logits, [5, 2], mask)
    first, second = Categorical(logits[:, :5], mask[:, :5]), Categorical(logits[:, 5:])
    uniforms = keyed_uniforms(6, *head.noise_shape)
    action = head.sample(uniforms)
    assert action.shape == (6, 2)
    assert torch.equal(action[:, 1], second.sample(uniforms[:, 1]))
    assert torch.equal(head.mode(), torch.stack((first.mode(), second.mode()), -1))
    torch.testing.assert_close(head.log_prob(action), first.log_prob(action[:, 0]) + second.log_prob(action[:, 1]))
    torch.testing.assert_close(head.entropy(), first.entropy() + second.entropy())


def test_gaussian_agrees_with_torch():
    mean, log_std = torch.tensor([[0.5, -1.0]]), torch.tensor([0.1, -0.7])
    head, reference = Gaussian(mean, log_std, 2.0), torch.distributions.Normal(mean, 2.0 * log_std.exp())
    action = torch.tensor([[0.2, 0.3]])
    torch.testing.assert_close(head.log_prob(action), reference.log_prob(action).sum(-1))
    torch.testing.assert_close(head.entropy(), reference.entropy().sum(-1))
    assert torch.equal(head.mode(), mean)


def test_gaussian_samples_are_the_quantiles_of_their_uniforms():
    grid = (torch.arange(2000).view(1000, 2) + 0.5) / 2000
    head = Gaussian(torch.full((1000, 2), 3.0), torch.zeros(2), 0.5)
    sample = head.sample(grid)
    torch.testing.assert_close(sample, torch.distributions.Normal(3.0, 0.5).icdf(grid), atol=1e-3, rtol=0)
    assert sample.mean().item() == pytest.approx(3.0, abs=1e-3)
    assert sample.std().item() == pytest.approx(0.5, abs=1e-3)


def test_gaussian_samples_of_the_extreme_uniforms_are_finite_and_symmetric():
    sample = Gaussian(torch.zeros(2), torch.zeros(2)).sample(torch.tensor([0.0, LARGEST]))
    assert sample.isfinite().all()
    assert sample[0] == -sample[1]


def test_gaussian_deviation_is_kept_in_range():
    head = Gaussian(torch.zeros(2), torch.tensor([-100.0, 100.0]))
    torch.testing.assert_close(head.std.log(), torch.tensor([-5.0, 2.0]))


def test_multi_categorical_splits_the_last_dimension_of_any_number():
    """As in training, where there are steps, copies and agents before it."""
    logits = torch.randn(2, 7, 3, 7, generator=torch.Generator().manual_seed(0))
    head = MultiCategorical(logits, [5, 2])
    assert torch.equal(head.mode(), torch.stack((logits[..., :5].argmax(-1), logits[..., 5:].argmax(-1)), -1))
