"""The shipped policies: they run in any world of the scenario, see what they were trained to see, and can be tuned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from marl import api
from marl.evaluation.runner import run_policy
from marl.scenario import load_scenario
from marl.seeding import seeds_of
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig
from scenarios.lifelong_mapf.scenario import SCENARIO
from scenarios.lifelong_mapf.world import LifelongMapf

SHIPPED = api.shipped(SCENARIO)


def small_world(**options: object) -> LifelongMapf:
    generator = {"kind": "maze", "size": 9, "openings": 0.5}
    config = {"generator": generator, "map_pool": 1, "agents": 10, "horizon": 40, **options}
    return LifelongMapf(MapfConfig.model_validate(config), 4)


def test_they_are_there_and_small() -> None:
    assert {"follower", "scorer"} <= set(SHIPPED)
    for name in SHIPPED:
        files = [path for path in (SCENARIO.checkpoints / name).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 2_000_000


@pytest.mark.parametrize("name", SHIPPED)
def test_they_play_in_worlds_with_other_guidance(name: str) -> None:
    """The world itself would guide in the default way; scorers leave no move to be refused."""
    env = small_world()
    policy = api.policy_builder(load_scenario("lifelong_mapf"), f"lifelong_mapf/{name}")(env)
    figures = run_policy(env, policy, seeds_of(3, 4), 1).metrics
    assert figures["throughput"].mean() > 0.1
    assert not figures["collisions"].any()
    if name.startswith("scorer"):
        assert not figures["refused_share"].any()


def test_a_policy_brings_what_it_sees_and_the_world_its_numbers() -> None:
    mine = GuidanceConfig.model_validate({"choices": True, "contest": False, "vector": "warehouse"})
    assert GuidanceConfig().shown_as(mine) == mine
    chosen = GuidanceConfig.model_validate({"vector": "plain"}).shown_as(mine)
    assert chosen.choices and chosen.vector == "plain"
    single = GuidanceConfig.model_validate({"decay": 0.5}).shown_as(mine)
    assert (single.vector, single.weights().decay) == ("warehouse", 0.5)
    world = small_world(guidance={"static_weight": 1.0})
    world.adapt(MapfConfig(guidance={"kind": "follower", "contest": False}))
    assert set(world.enable_plan()) == {"path", "moves"}


@pytest.mark.parametrize(
    ("preset", "name", "size"),
    [
        ("scorer", "scorer", "rollout=16"),
        ("scorer_es", "scorer", "population=2"),
        ("follower", "follower", "rollout=16"),
    ],
)
def test_they_can_be_tuned_to_a_map_of_ones_own(tmp_path: Path, preset: str, name: str, size: str) -> None:
    """``marl train lifelong_mapf --preset scorer --init lifelong_mapf/scorer --map FILE``."""
    file = tmp_path / "mine.map"
    file.write_text("type octile\nheight 5\nwidth 7\nmap\n.......\n.@.@.@.\n.......\n.@.@.@.\n.......\n", "ascii")
    config = api.configure(
        "lifelong_mapf",
        preset=preset,
        options={"map": str(file), "agents": 6, "horizon": 16},
        overrides=["copies=2", "total_steps=384", f"algorithm.{size}"],
    )
    start = api.run_folder_of(Path(f"lifelong_mapf/{name}"))
    folder = api.run.train(config, tmp_path / "run", live=False, init=start)
    policy = api.load_policy(folder)
    before = api.load_policy(start)
    moved = [not torch.equal(policy._state[name], before._state[name]) for name in before._state]
    assert len(moved) > 0 and all(moved)
