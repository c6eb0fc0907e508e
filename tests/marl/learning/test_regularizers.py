import torch

from marl.learning.regularizers import masked_mean

MASK = torch.tensor([True, False, True])


def test_masked_mean_leaves_masked_entries_out_and_without_gradient():
    values = torch.tensor([1.0, float("nan"), 4.0], requires_grad=True)
    mean = masked_mean(values, MASK)
    (slope,) = torch.autograd.grad(mean, values)
    assert mean == 2.5
    assert slope.tolist() == [0.5, 0.0, 0.5]


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(3), torch.zeros(3, dtype=torch.bool)) == 0
