"""M-GRPO against plain numpy: levels apart, and rollouts aligned to equally many sub-agent rows."""

from __future__ import annotations

import numpy as np
import pytest
from recipe_batches import CONTEXT, case, z_scores

from marl.systems.m_grpo import MGrpoConfig, advantages


@pytest.mark.parametrize("level", ["depth", "role"])
@pytest.mark.parametrize("seed", range(5))
def test_levels_are_normalised_apart(seed: int, level: str) -> None:
    made = case(seed)
    config = MGrpoConfig(level=level)  # type: ignore[arg-type]
    found = advantages(made.batch, config, CONTEXT)
    weight = found.weight.numpy()
    keys = [(r.group, r.level if level == "depth" else r.agent) for r in made.rows]
    row = z_scores([r.total() for r in made.rows], keys, 0.25, weight)
    assert np.allclose(found.turn.numpy(), made.per_turn(lambda i: row[i]), atol=2e-4)


@pytest.mark.parametrize("target", [None, 2])
@pytest.mark.parametrize("seed", range(5))
def test_every_rollout_that_called_gives_as_many_rows(seed: int, target: int | None) -> None:
    made = case(seed)
    weight = advantages(made.batch, MGrpoConfig(target=target), CONTEXT).weight.numpy()
    below = [i for i, r in enumerate(made.rows) if r.level == 1]
    called = sorted({made.rows[i].episode for i in below})
    size = target or -(-len(below) // len(called))
    for episode in called:
        assert sum(weight[i] for i in below if made.rows[i].episode == episode) == size
    assert all(weight[i] == 1.0 for i, r in enumerate(made.rows) if r.level == 0)


def test_without_alignment_rows_count_once() -> None:
    made = case(1)
    found = advantages(made.batch, MGrpoConfig(align=False), CONTEXT)
    assert found.weight.tolist() == [1.0] * len(made.rows) and "dropped_level_1" not in found.figures
