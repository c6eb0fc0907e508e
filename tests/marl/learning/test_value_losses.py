import pytest
import torch

from marl.learning.value_losses import ValueNorm, clipped, huber, squared


def test_squared_and_huber_agree_up_to_delta_and_part_beyond():
    value, target = torch.tensor([0.0, 1.0, 5.0]), torch.tensor([1.0, 3.0, 0.0])
    assert squared(value, target).tolist() == [0.5, 2.0, 12.5]
    assert huber(2.0)(value, target).tolist() == [0.5, 2.0, 2.0 * (5.0 - 1.0)]


def test_clipped_takes_the_worse_of_the_value_and_the_kept_one():
    target = torch.tensor([1.0, 1.0, 1.0])
    old_value = torch.tensor([0.0, 0.0, 0.0])
    value = torch.tensor([0.1, 0.9, -0.9], requires_grad=True)
    loss = clipped(squared, 0.2, value, old_value, target)
    # Within the clip; beyond it towards the target, where 0.2 counts; beyond it away from the target.
    torch.testing.assert_close(loss, torch.tensor([0.5 * 0.81, 0.5 * 0.64, 0.5 * 3.61]))
    (slope,) = torch.autograd.grad(loss.sum(), value)
    torch.testing.assert_close(slope, torch.tensor([-0.9, 0.0, -1.9]))


def test_value_norm_is_the_identity_before_its_first_update():
    norm, value = ValueNorm(), torch.tensor([-3.0, 7.0])
    assert torch.equal(norm.normalize(value), value)
    assert torch.equal(norm.denormalize(value), value)


def test_value_norm_is_unbiased_from_the_first_batch_on_and_goes_round():
    norm, returns = ValueNorm(), torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    norm.update(returns)
    normalized = norm.normalize(returns)
    torch.testing.assert_close(normalized, (returns - 25.0) / 125.0**0.5)
    torch.testing.assert_close(norm.denormalize(normalized), returns)
    assert normalized.dtype == torch.float32


def test_value_norm_weighs_later_batches_by_beta():
    norm = ValueNorm(beta=0.75)
    norm.update(torch.tensor([0.0]))
    norm.update(torch.tensor([8.0]))
    # Weights .75 * .25 and .25.
    mean, deviation = norm.statistics()
    assert mean.item() == pytest.approx(8 * 4 / 7)
    assert deviation.item() == pytest.approx((64 * 4 / 7 - (32 / 7) ** 2) ** 0.5)


def test_value_norm_leaves_dead_agents_out_and_survives_a_batch_of_them():
    norm, alone = ValueNorm(beta=0.9), ValueNorm(beta=0.9)
    norm.update(torch.tensor([1.0, float("nan"), 5.0]), torch.tensor([True, False, True]))
    norm.update(torch.full((3,), 100.0), torch.zeros(3, dtype=torch.bool))
    alone.update(torch.tensor([1.0, 5.0]))
    assert torch.equal(torch.stack(norm.statistics()), torch.stack(alone.statistics()))


def test_value_norm_keeps_its_deviation_off_zero():
    for norm, least in ((ValueNorm(), 0.1), (ValueNorm(min_variance=0.04), 0.2)):
        norm.update(torch.full((4,), 3.0))
        assert norm.statistics()[1].item() == pytest.approx(least)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_value_norm_statistics_stay_in_the_state_dict_on_every_device(device):
    norm = ValueNorm()
    norm.update(torch.tensor([1.0, 2.0]))
    moved = norm.to(device)
    assert set(moved.state_dict()) == {"mean", "mean_square", "weight"}
    assert all(value.device.type == device for value in moved.state_dict().values())
    assert not list(moved.parameters())


def test_value_norm_is_restored_exactly():
    norm, other = ValueNorm(), ValueNorm()
    norm.update(torch.rand(5, generator=torch.Generator().manual_seed(0)))
    other.load_state_dict(norm.state_dict())
    assert torch.equal(torch.stack(norm.statistics()), torch.stack(other.statistics()))


def test_value_norm_of_rare_returns_by_hand():
    """A mean square of several squared means, as where few episodes earn: 25 less 2.5**2."""
    norm = ValueNorm()
    norm.update(torch.tensor([0.0, 0.0, 0.0, 10.0]))
    assert [x.item() for x in norm.statistics()] == pytest.approx([2.5, 18.75**0.5])
