"""The PettingZoo face of on-ramps: cars leave before the episode ends, and its figures are not lost."""

from __future__ import annotations

import pytest

import marl
from marl.api import policy_builder
from marl.evaluation.runner import evaluate
from marl.scenario import load_scenario


@pytest.mark.parametrize("seed", [0, 3])
def test_the_figures_come_with_the_step_in_which_the_last_car_leaves(seed: int) -> None:
    """What users stop at is an empty ``agents``; the road goes on with human drivers until the episode's end."""
    policy = marl.load("cav_merging/hard")
    env = marl.parallel_env("cav_merging", policy=policy, preset="hard")
    observations, infos = env.reset(seed=seed)
    steps = 0
    while env.agents:
        observations, _, terminated, _, infos = env.step(policy.act(observations, env=env))
        steps += 1
    assert steps < env.max_cycles and all(terminated.values())
    figures = next(info["metrics"] for info in infos.values())

    scenario = load_scenario("cav_merging")
    world = marl.make("cav_merging", preset="hard").config
    build = policy_builder(scenario, "cav_merging/hard")
    results = evaluate(scenario, {"hard": build}, [({}, world)], [seed])
    assert {row.metric: row.mean for row in results.rows if row.metric in ("mean_speed_mps", "flow_veh_per_h")} == {
        name: pytest.approx(figures[name]) for name in ("mean_speed_mps", "flow_veh_per_h")
    }
    again, _ = env.reset()  # the next episode, not the rest of this one
    assert env.agents and set(again) == set(env.agents)
