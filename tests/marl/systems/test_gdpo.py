"""GDPO against plain numpy: answer, form and thrift normalised apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipe_batches import CONTEXT, case, z_scores

from marl.systems.gdpo import GdpoConfig, advantages


@pytest.mark.parametrize("kl", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(6))
def test_rewards_normalised_for_themselves(seed: int, kl: float) -> None:
    made = case(seed)
    made.batch.turn_drift[:] = torch.rand(len(made.batch.turn_row), generator=torch.Generator().manual_seed(seed))
    config = GdpoConfig.model_validate({"weights": [1.0, 0.3, 0.2], "kl": {"weight": kl, "place": "reward"}})
    found = advantages(made.batch, config, CONTEXT).turn.numpy()
    keys = [(r.group, r.level) for r in made.rows]
    answer = [r.success for r in made.rows]
    form = [r.legal + sum(turn.reward for turn in r.turns) for r in made.rows]
    thrift = [r.success * max(0.0, 1.0 - 0.03 * r.cost) for r in made.rows]
    parts = [(1.0, answer), (0.3, form), (0.2, thrift)]
    if kl:
        drift = [float(made.batch.turn_drift[made.batch.turn_row == i].sum()) for i in range(len(made.rows))]
        parts.append((-kl, drift))
    total = sum(weight * z_scores(value, keys, eps=1e-4) for weight, value in parts)
    total = (total - total.mean()) / (total.std() + 1e-4)
    assert np.allclose(found, made.per_turn(lambda i: total[i]), atol=1e-3)
