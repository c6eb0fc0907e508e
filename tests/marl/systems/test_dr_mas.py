"""Dr. MAS against plain numpy: every agent over its own active turns."""

from __future__ import annotations

import numpy as np
import pytest
from recipe_batches import CONTEXT, case, z_scores

from marl.systems.dr_mas import advantages
from marl.systems.language.options import LanguageConfig


@pytest.mark.parametrize("seed", range(6))
def test_every_turn_counts_in_its_agents_normalisation(seed: int) -> None:
    made = case(seed)
    found = advantages(made.batch, LanguageConfig(), CONTEXT).turn.numpy()
    reward = made.per_turn(lambda i: made.rows[i].total())
    keys = [(r.group, r.agent) for r in made.rows for _ in r.turns]
    assert np.allclose(found, z_scores(reward, keys), atol=2e-4)
    for key in set(keys):  # what the paper proves: the mean square of an agent's advantages is 1
        mine = found[[k == key for k in keys]]
        assert not mine.any() or float((mine**2).mean()) == pytest.approx(1.0, abs=1e-3)
