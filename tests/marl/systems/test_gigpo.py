"""GiGPO against plain numpy: trajectories, and turns from the same state; discounts by either clock."""

from __future__ import annotations

import numpy as np
import pytest
from recipe_batches import CONTEXT, case, discounted, z_scores

from marl.systems.gigpo import GigpoConfig, advantages


@pytest.mark.parametrize("clock", ["row", "team"])
@pytest.mark.parametrize("seed", range(6))
def test_whole_trajectories_and_turns_in_the_same_state(seed: int, clock: str) -> None:
    made = case(seed)
    config = GigpoConfig(gamma=0.8, turn_weight=0.5, clock=clock)  # type: ignore[arg-type]
    found = advantages(made.batch, config, CONTEXT).turn.numpy()
    whole = z_scores([r.total() for r in made.rows], [(r.group, r.agent) for r in made.rows], 1.0)
    keys = [(r.group, turn.anchor) for r in made.rows for turn in r.turns]
    turns = z_scores(discounted(made, 0.8, clock == "team"), keys, 1.0)
    assert np.allclose(found, made.per_turn(lambda i: whole[i]) + 0.5 * turns, atol=2e-5)


def test_clocks_by_hand() -> None:
    """A planner speaks at times 0 and 4, a searcher at 1, 2 and 3; the outcome of 1 comes at the end, gamma is 1/2."""
    made = next(
        c
        for c in (case(seed, groups=1, size=1, mute=0.0) for seed in range(1000))
        if [len(r.turns) for r in c.rows] == [2, 3]
    )
    batch = made.batch
    batch.success.fill_(1.0), batch.cost.zero_(), batch.turn_reward.zero_(), batch.turn_invalid.zero_()
    batch.turn_time[:] = batch.turn_time.new_tensor([0, 4, 1, 2, 3])
    row = GigpoConfig(gamma=0.5).returns(batch, 0.0)
    team = GigpoConfig(gamma=0.5, clock="team").returns(batch, 0.0)
    assert row.tolist() == [0.5, 1.0, 0.25, 0.5, 1.0]
    assert team.tolist() == [1 / 16, 1.0, 1 / 8, 1 / 4, 1 / 2]
