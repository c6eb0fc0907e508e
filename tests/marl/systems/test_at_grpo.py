"""AT-GRPO and hierarchical GRPO against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from recipe_batches import CONTEXT, case, z_scores

from marl.envs.chat import Outcome
from marl.rollout.language.trees import TreePlayer
from marl.rollout.language.turns import TurnRecord
from marl.systems.at_grpo import AtGrpoConfig, HierarchicalGrpoConfig, advantages, player


@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_turns_of_the_same_role_and_number(seed: int, scale: float | None) -> None:
    made = case(seed)
    found = advantages(made.batch, AtGrpoConfig(scale=scale, tree=False), CONTEXT).turn.numpy()
    earned = [r.final() + now for r in made.rows for now in r.now()]
    keys = [(r.group, r.agent, t) for r in made.rows for t in range(len(r.turns))]
    assert np.allclose(found, z_scores(earned, keys, scale), atol=5e-4)


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_the_same_sub_problem(seed: int) -> None:
    made = case(seed)
    found = advantages(made.batch, HierarchicalGrpoConfig(), CONTEXT).turn.numpy()
    row = z_scores([r.total() for r in made.rows], [(r.group, r.agent, r.task) for r in made.rows], 1.0)
    assert np.allclose(found, made.per_turn(lambda i: row[i]), atol=2e-5)


def test_the_published_defaults() -> None:
    """PettingLLMs divides by the standard deviation, prime-rl's hierarchical form does not."""
    assert AtGrpoConfig().scale is None and HierarchicalGrpoConfig().scale == 1.0


def test_what_a_candidate_is_worth() -> None:
    made = player(lambda: None, {}, AtGrpoConfig.model_validate({"reward": {"cost": 0.1, "invalid": 0.5}}))  # type: ignore
    assert isinstance(made, TreePlayer)
    outcome = Outcome(True, 3.0, 2, [], {})
    assert made._judge(outcome, TurnRecord(0, "", 0.0)) == pytest.approx(0.7)
    assert made._judge(outcome, TurnRecord(0, "", -0.25, True)) == pytest.approx(0.7 - 0.25 - 0.5)


def test_no_success_is_worth_less_than_a_failure() -> None:
    """However much it cost."""
    made = player(lambda: None, {}, AtGrpoConfig.model_validate({"reward": {"cost": 0.1}}))  # type: ignore
    assert isinstance(made, TreePlayer)
    for success in (True, False):
        assert made._judge(Outcome(success, 15.0, 2, [], {}), TurnRecord(0, "", 0.0)) == 0.0
