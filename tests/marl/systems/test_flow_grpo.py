"""Flow-GRPO against plain numpy, in the paper's form and in that of the released trainer."""

from __future__ import annotations

import numpy as np
import pytest
from recipe_batches import CONTEXT, case, z_scores

from marl.systems.flow_grpo import FLOW_GRPO, FlowGrpoConfig, advantages
from marl.systems.language.rows import unit_rows


@pytest.mark.parametrize("compare", ["trajectory", "turn"])
@pytest.mark.parametrize("seed", range(5))
def test_outcomes_are_broadcast_to_turns(seed: int, compare: str) -> None:
    made = case(seed, trained=["planner"])
    found = advantages(made.batch, FlowGrpoConfig(compare=compare), CONTEXT).turn.numpy()  # type: ignore[arg-type]
    if compare == "turn":  # the trainer: all turns are members of the group
        expected = z_scores(
            made.per_turn(lambda i: made.rows[i].total()), [r.group for r in made.rows for _ in r.turns]
        )
    else:
        row = z_scores([r.total() for r in made.rows], [r.group for r in made.rows])
        expected = made.per_turn(lambda i: row[i])
    assert np.allclose(found, expected, atol=2e-4)


def test_the_two_forms_by_hand() -> None:
    """Rewards 1 and 0 of rows of unlike length; of one turn and three: means .5 and .25, deviations .5 and .433."""
    made = case(1, groups=1, size=2, trained=["planner"], mute=1.0)
    batch = made.batch
    batch.success[:] = batch.success.new_tensor([1.0, 0.0])
    batch.cost.zero_(), batch.turn_reward.zero_(), batch.turn_invalid.zero_()
    count = batch.turns_of_row.tolist()
    share = count[0] / sum(count)
    paper = advantages(batch, FlowGrpoConfig(), CONTEXT).turn
    trainer = advantages(batch, FlowGrpoConfig(compare="turn"), CONTEXT).turn
    assert count[0] != count[1] and [float(paper[0]), float(paper[-1])] == pytest.approx([1.0, -1.0], abs=1e-4)
    deviation = (share * (1 - share)) ** 0.5
    assert float(trainer[0]) == pytest.approx((1 - share) / deviation, abs=1e-4)
    assert float(trainer[-1]) == pytest.approx(-share / deviation, abs=1e-4)


def test_a_trajectory_weighs_the_same_whatever_its_turns() -> None:
    """``loss: turn``, the paper's: a row's tokens have shares that sum to 1; ``token``: 1 each."""
    made = case(2, trained=["planner"])
    found = advantages(made.batch, FlowGrpoConfig(), CONTEXT)
    for loss, of_row in (("turn", lambda r: 1.0), ("token", lambda r: float(sum(r.lengths)))):
        rows = unit_rows(made.batch, found, {0}, loss, everything=True)  # type: ignore[arg-type]
        sums = [float(row.share.sum()) for row in rows.rows if row.share is not None]
        assert sums == pytest.approx([of_row(r) for r in made.rows], rel=1e-5)
        assert rows.normaliser == pytest.approx(sum(sums), rel=1e-5)
    assert FLOW_GRPO.config().loss == "turn"  # type: ignore[call-arg]
