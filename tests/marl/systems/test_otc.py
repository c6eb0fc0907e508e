"""OTC against plain numpy: the factor of all episodes of a question, and the price of illegal calls."""

from __future__ import annotations

import math

import numpy as np
import pytest
from recipe_batches import CONTEXT, Case, case, z_scores

from marl.systems.otc import OtcConfig, advantages


def by_hand(made: Case, invalid: float, smooth: float = 1.0) -> np.ndarray:
    """Rewards of rows. The thriftiest success is sought among all episodes of the group."""
    factor = []
    for episode in made.episodes:
        group = [other.outcome for other in made.episodes if other.group == episode.group]
        least = min((o.calls for o in group if o is not None and o.success), default=None)
        assert episode.outcome is not None
        m = episode.outcome.calls
        if least is None or (m == 0 and least == 0):
            factor.append(1.0)
        elif least == 0:
            factor.append(math.cos(m * math.pi / (2 * m + smooth)))
        else:
            factor.append(math.sin(2 * least * m / (m + least) * math.pi / (2 * least)))
    return np.array([r.success * factor[r.episode] + sum(r.now(invalid)) for r in made.rows])


@pytest.mark.parametrize("trained", [("planner", "north", "south"), ("north", "south")])
@pytest.mark.parametrize("seed", range(8))
def test_success_times_thrift_less_illegal_calls(seed: int, trained: tuple[str, ...]) -> None:
    """Also where the first role is frozen, so that episodes without a call have no row, but count."""
    made = case(seed, trained=trained, mute=0.4)
    config = OtcConfig.model_validate({"reward": {"invalid": 0.3}})
    found = advantages(made.batch, config, CONTEXT).turn.numpy()
    row = z_scores(by_hand(made, 0.3), [(r.group, r.level) for r in made.rows])
    assert np.allclose(found, made.per_turn(lambda i: row[i]), atol=5e-4)
    if "planner" not in trained:
        assert len({r.episode for r in made.rows}) < len(made.episodes)


def test_an_episode_nobody_learns_from_may_be_the_thriftiest() -> None:
    """One success without a call: the others of its group are measured against 0 calls."""
    made = case(11, groups=1, size=4, trained=("north", "south"), mute=0.4)
    silent = next(i for i, e in enumerate(made.episodes) if len(e.conversations) == 1)
    batch = made.batch
    batch.episode_success.zero_()
    lone = advantages(batch, OtcConfig(), CONTEXT).figures["tool_efficiency"]
    batch.episode_success[silent] = 1.0
    assert lone == 1.0 and advantages(batch, OtcConfig(), CONTEXT).figures["tool_efficiency"] < 1.0
