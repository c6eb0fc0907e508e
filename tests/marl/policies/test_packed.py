import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from marl.envs.spaces import BitWindow
from marl.policies.packed import PackedLayout, packed_linear

WINDOWS = [BitWindow(3, 11, 11), BitWindow(1, 2, 15), BitWindow(2, 3, 6), BitWindow(1, 1, 1)]


def packed_rows(windows: list[BitWindow], count: int, density: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for window in windows:
        cells = torch.rand(count, window.planes * window.height, window.width, generator=generator) < density
        parts.append((cells * (1 << torch.arange(window.width))).sum(-1).to(torch.int16))
    return torch.cat(parts, dim=-1)


def multiplied(rows: Tensor, weight: Tensor, layout: PackedLayout) -> Tensor:
    return layout.unpack(rows) @ weight.t()


def test_unpacking_is_that_of_the_windows_side_by_side():
    layout, rows = PackedLayout(WINDOWS), packed_rows(WINDOWS, 4, 0.5)
    window = rows[:, :33].view(4, 3, 11)
    assert rows.shape == (4, layout.rows)
    assert layout.unpack(rows).shape == (4, layout.bits)
    assert torch.equal(layout.unpack(rows)[:, :363].view(4, 3, 11, 11), WINDOWS[0].unpack(window).float())


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 15)), min_size=1, max_size=3),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    features=st.integers(1, 9),
)
def test_the_output_equals_unpacking_and_multiplying(sizes, density, features):
    windows = [BitWindow(*size) for size in sizes]
    layout, rows = PackedLayout(windows), packed_rows(windows, 5, density)
    weight = torch.randn(features, layout.bits, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(packed_linear(rows, weight, layout), multiplied(rows, weight, layout))


@pytest.mark.parametrize("count", [0, 1, 70])
def test_the_gradient_equals_that_of_unpacking_and_multiplying(count):
    layout, rows = PackedLayout(WINDOWS), packed_rows(WINDOWS, count, 0.3)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(8, layout.bits, generator=generator, requires_grad=True)
    upstream = torch.randn(count, 8, generator=generator)
    (fast,) = torch.autograd.grad(packed_linear(rows, weight, layout), weight, upstream)
    (slow,) = torch.autograd.grad(multiplied(rows, weight, layout), weight, upstream)
    torch.testing.assert_close(fast, slow)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    layout, rows = PackedLayout(WINDOWS), packed_rows(WINDOWS, 50, 0.3)
    weight = torch.randn(64, layout.bits, generator=torch.Generator().manual_seed(1))
    assert torch.equal(packed_linear(rows, weight, layout)[7:8], packed_linear(rows[7:8], weight, layout))
