"""GRPO against plain numpy: one normalisation for all rows of a question."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipe_batches import CONTEXT, case, z_scores

from marl.systems.grpo import advantages
from marl.systems.language.options import LanguageConfig


@pytest.mark.parametrize("scale", [None, 0.25])
@pytest.mark.parametrize("seed", range(6))
def test_rows_of_a_question_are_compared_whatever_their_role(seed: int, scale: float | None) -> None:
    made = case(seed)
    found = advantages(made.batch, LanguageConfig(scale=scale), CONTEXT)
    row = z_scores([r.total() for r in made.rows], [r.group for r in made.rows], scale)
    assert np.allclose(found.turn.numpy(), made.per_turn(lambda i: row[i]), atol=2e-4)
    assert found.weight.tolist() == [1.0] * len(made.rows)


def test_figures_count_questions_of_one_mind() -> None:
    made = case(0, groups=2, size=3, mute=1.0)
    batch = made.batch
    batch.success[:] = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    batch.cost[:] = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 2.0])  # a price of successes alone
    batch.turn_reward.zero_(), batch.turn_invalid.zero_()
    assert advantages(batch, LanguageConfig(), CONTEXT).figures == {"zero_variance_groups": 0.5}
