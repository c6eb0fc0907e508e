import math

import pytest
import torch

from marl.learning.surrogates import approximate_kl, clip_fraction, ppo_clip


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # already likelier than asked for
        (0.5, 2.0, -1.0, -1.0),  # moved the wrong way: pulled back
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 3.0),
    ],
)
def test_ppo_clip_and_its_gradient_equal_the_closed_form(ratio, advantage, loss, gradient):
    log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
    result = ppo_clip(log_ratio, torch.tensor([advantage]), 0.2)
    (slope,) = torch.autograd.grad(result.sum(), log_ratio)
    assert result.item() == pytest.approx(loss)
    assert slope.item() == pytest.approx(gradient)


def test_at_ratio_one_the_gradient_is_that_of_reinforce():
    advantage = torch.linspace(-2, 2, 9)
    log_ratio = torch.zeros(9, requires_grad=True)
    (slope,) = torch.autograd.grad(ppo_clip(log_ratio, advantage, 0.2).sum(), log_ratio)
    torch.testing.assert_close(slope, -advantage)


def test_the_mean_of_approximate_kl_under_the_old_policy_is_the_divergence():
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    log_ratio = (new / old).log()
    estimate = (old * approximate_kl(log_ratio)).sum()
    torch.testing.assert_close(estimate, (old * (old / new).log()).sum())
    assert (approximate_kl(torch.linspace(-3, 3, 7)) >= 0).all()
    assert approximate_kl(torch.zeros(1)) == 0


def test_clip_fraction_marks_ratios_outside_the_interval():
    log_ratio = torch.tensor([0.5, 0.79, 0.81, 1.0, 1.19, 1.21]).log()
    assert clip_fraction(log_ratio, 0.2).tolist() == [1, 1, 0, 0, 0, 1]
