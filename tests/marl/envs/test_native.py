"""Actions and masks of one agent, to and fro between Gymnasium's forms and those of a batched world."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from marl.envs.native import choices, flat_mask, from_native, native_mask, to_native
from marl.errors import UserError

NESTED = spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [0, 5]])
SPACES = [
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([2, 3], start=[1, 0]),
    NESTED,
    spaces.MultiBinary((2, 3)),
]


@pytest.mark.parametrize(
    "space", [*SPACES, spaces.Box(0.0, 1.0, (2, 3), np.float64), spaces.Box(-1, 1, (), np.float32)]
)
def test_actions_there_and_back(space: spaces.Space[Any]) -> None:
    space.seed(0)
    for _ in range(20):
        action = space.sample()
        flat = from_native(action, space)
        assert flat.ndim == (0 if isinstance(space, spaces.Discrete) else 1)
        if not isinstance(space, spaces.Box):
            assert flat.min() >= 0
        back = to_native(flat, space)
        assert space.contains(back if isinstance(back, int) else np.asarray(back)) and np.array_equal(back, action)


def test_boxes_are_clipped() -> None:
    assert to_native(np.array([-3.0, 0.5]), spaces.Box(0.0, 1.0, (2,), np.float32)).tolist() == [0.0, 0.5]
    assert to_native(np.array([-3.0]), spaces.Box(-np.inf, 1.0, (1,), np.float32)).tolist() == [-3.0]


@pytest.mark.parametrize("space", SPACES)
def test_masks_there_and_back_and_sampled_by(space: Any) -> None:
    draw = np.random.default_rng(0)
    space.seed(0)
    for _ in range(20):
        parts = [draw.random(n) < 0.5 for n in choices(space)]
        for part in parts:
            part[draw.integers(len(part))] = True
        row = np.concatenate(parts)
        mask = native_mask(row, space)
        assert np.array_equal(flat_mask(mask, space), row)
        assert np.array_equal(flat_mask(row.astype(np.int8), space), row)
        sampled = from_native(space.sample(mask=mask), space).flatten()
        assert all(part[int(value)] for part, value in zip(parts, sampled, strict=True))


@pytest.mark.parametrize(
    ("mask", "space", "said"),
    [
        ([1, 0], spaces.Discrete(3), "give 3 numbers, 1 where legal"),
        ([1, 0, 2], spaces.Discrete(3), "give 3 numbers"),
        (([1, 0], [1, 0]), spaces.MultiDiscrete([2, 3]), r"give 2 \+ 3 numbers"),
        ([1, 1], spaces.Box(0.0, 1.0, (2,)), "such actions have no mask"),
        ("legal", spaces.Discrete(3), "give 3 numbers"),
        (None, spaces.Discrete(3), "give 3 numbers"),
    ],
)
def test_masks_that_do_not_fit(mask: Any, space: spaces.Space[Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        flat_mask(mask, space)
