"""Clipped steps, schedules and minibatches, by hand and against torch's own Adam."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from marl.learning.learner import ClippedAdam, micro_batches, minibatches


def parameter(values: list[float]) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def test_a_step_is_adams_on_the_clipped_gradient() -> None:
    """A gradient of norm 5 is clipped to 2; the norm that is returned is that of before."""
    one, other = parameter([1.0, -1.0]), parameter([1.0, -1.0])
    mine, theirs = ClippedAdam([one], 0.1, max_norm=2.0), torch.optim.Adam([other], lr=0.1, eps=1e-5)
    for gradient, clipped in (([3.0, -4.0], [1.2, -1.6]), ([0.3, 0.4], [0.3, 0.4])):
        mine.zero()
        one.grad, other.grad = torch.tensor(gradient), torch.tensor(clipped)
        assert float(mine.step()) == pytest.approx(sum(g * g for g in gradient) ** 0.5)
        theirs.step()
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_zero_forgets_the_gradient() -> None:
    one = parameter([1.0])
    one.grad = torch.ones(1)
    ClippedAdam([one], 0.1, 1.0).zero()
    assert one.grad is None


@pytest.mark.parametrize(("anneal", "rates"), [(True, [0.4, 0.3, 0.0]), (False, [0.4, 0.4, 0.4])])
def test_the_rate_falls_linearly_to_zero_or_stays(anneal: bool, rates: list[float]) -> None:
    """The first step of Adam has the length of the rate."""
    for fraction, rate in zip((0.0, 0.25, 1.0), rates, strict=True):
        one = parameter([0.0])
        adam = ClippedAdam([one], 0.4, 1e9, anneal)
        adam.schedule(0.9)
        adam.schedule(fraction)
        one.grad = torch.ones(1) * 1e3
        adam.step()
        assert float(one.detach()) == pytest.approx(-rate, rel=1e-5)


def test_moments_are_the_state() -> None:
    """A second optimiser goes on from them, whatever is done to them afterwards; an unused parameter has none."""
    values = [parameter([1.0, 2.0]), parameter([5.0]), parameter([3.0])]
    first = ClippedAdam(values, 0.1, 1e9)
    for scale in (1.0, 3.0):
        values[0].grad, values[2].grad = torch.tensor([scale, -scale]), torch.tensor([2.0 * scale])
        first.step()
    state = first.state()
    assert sorted(state) == ["0", "2"] and set(state["0"]) == {"step", "exp_avg", "exp_avg_sq"}
    copies = [nn.Parameter(value.detach().clone()) for value in values]
    second = ClippedAdam(copies, 0.1, 1e9)
    second.load_state(state)
    for tensor in (x for part in second.state().values() for x in part.values()):
        assert all(tensor is not x for part in state.values() for x in part.values())
    for many, adam in ((values, first), (copies, second)):
        many[0].grad, many[2].grad = torch.tensor([0.5, 0.25]), torch.tensor([-1.0])
        adam.step()
    for value, copy in zip(values, copies, strict=True):
        assert torch.equal(value, copy)


def test_minibatches_are_a_random_partition() -> None:
    def parts(rows: int, count: int, seed: int) -> list[list[int]]:
        return [part.tolist() for part in minibatches(rows, count, torch.Generator().manual_seed(seed))]

    ten = parts(10, 3, 0)
    assert sorted(map(len, ten)) == [3, 3, 4] and sorted(number for part in ten for number in part) == list(range(10))
    assert ten == parts(10, 3, 0) != parts(10, 3, 1)
    assert [len(part) for part in parts(2, 5, 0)] == [1, 1]  # none is empty
    assert [len(part) for part in parts(4, 1, 0)] == [4] and len(parts(4, 0, 0)) == 1


def test_micro_batches_are_consecutive() -> None:
    rows = torch.tensor([5, 3, 9, 1, 7])
    assert [part.tolist() for part in micro_batches(rows, 2)] == [[5, 3], [9, 1], [7]]
    assert [part.tolist() for part in micro_batches(rows, 0)] == [[5], [3], [9], [1], [7]]
