"""What the scenario declares: presets, options, instances, and the PettingZoo face."""

import json
from pathlib import Path

import pytest
import torch
from pettingzoo.test import parallel_api_test
from pydantic import BaseModel

from marl.api import configure, evaluate, make
from marl.config import assignment, read_layer, resolve
from marl.errors import UserError
from marl.scenario import load_scenario
from marl.testing import check_parallel
from scenarios.lifelong_mapf import LifelongMapf, MapfConfig, parallel_env
from scenarios.lifelong_mapf.scenario import SCENARIO


class NoAlgorithm(BaseModel):
    pass


def small_env():
    return parallel_env(agents=4, horizon=20, map_pool=2, radius=2)


@pytest.mark.parametrize("preset", SCENARIO.preset_names())
def test_presets_build_a_world(preset: str) -> None:
    layers = [{"scenario": "lifelong_mapf", "system": "mappo"}, read_layer(SCENARIO.presets / f"{preset}.yaml")]
    config = resolve(SCENARIO.config, NoAlgorithm, layers, ["world.map_pool=3"])
    world = SCENARIO.make(config.world, 1, torch.device("cpu"))
    world.reset(0)
    assert SCENARIO.instance(config.world)["agents"] == world.spec.n_agents
    assert set(world.spec.metrics) >= {"throughput"} or config.world.on_target != "restart"


def test_it_is_found_by_its_name_and_has_the_presets_it_names() -> None:
    assert load_scenario("lifelong_mapf") is SCENARIO
    assert {SCENARIO.default_preset, SCENARIO.demo_preset} <= set(SCENARIO.preset_names())


def test_options_set_keys_that_exist() -> None:
    values = {"--map": "maze", "--agents": "7", "--tasks": "t.json", "--collision": "priority"}
    values |= {"--horizon": "9", "--guidance": "plain", "--problem": "t.json", "--motion": "turning"}
    layers = [{"scenario": "lifelong_mapf", "system": "mappo"}]
    layers += [assignment(f"{option.key}={values[option.flag]}") for option in SCENARIO.options]
    world = resolve(SCENARIO.config, NoAlgorithm, layers).world
    assert (world.map, world.agents, world.tasks, world.motion) == ("maze", 7, "t.json", "turning")
    assert (world.collision, world.horizon, world.guidance.vector) == ("priority", 9, "plain")


def test_instances_are_told_apart_by_map_and_agents(tmp_path: Path) -> None:
    assert SCENARIO.instance(MapfConfig(map="maze", agents=5)) == {"map": "maze", "agents": 5}
    mixed = [{"kind": "maze"}, {"kind": "rooms"}, {"kind": "maze"}]
    assert SCENARIO.instance(MapfConfig(generator=mixed)) == {"map": "maze+rooms", "agents": 32}
    (tmp_path / "m.map").write_text("type octile\nheight 1\nwidth 3\nmap\n...\n")
    tasks = tmp_path / "few.json"
    agents = [{"start": [0, 0], "goals": [[0, 1]]}, {"start": [0, 2], "goals": [[0, 1]]}]
    tasks.write_text(json.dumps({"schema_version": 1, "map": "m.map", "agents": agents}))
    assert SCENARIO.instance(MapfConfig(tasks=str(tasks))) == {"map": "few.json", "agents": 2}


def test_a_map_set_without_a_name_is_a_pool_of_its_maps(tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text('one: "...\\n..."\ntwo: "....\\n.#.."\n')
    world = LifelongMapf(MapfConfig(map=str(tmp_path / "set.yaml"), agents=2), 40)
    world.reset(0)
    assert world.blocked.shape == (2, 8) and set(world.map_index.tolist()) == {0, 1}


def test_the_pettingzoo_face_conforms() -> None:
    report = check_parallel(small_env, steps=40)
    assert report.ok, report
    parallel_api_test(parallel_env(agents=3, map_pool=2, on_target="finish", horizon=30), 60)


def test_the_pettingzoo_face_renders() -> None:
    for mode, kind in (("ansi", str), ("rgb_array", object)):
        env = parallel_env(mode, agents=2, map_pool=1)
        env.reset(seed=0)
        assert isinstance(env.render(), kind)
    with pytest.raises(ValueError, match="ansi"):
        parallel_env("human")


def test_a_file_of_tasks_brings_its_number_of_agents(tmp_path: Path) -> None:
    """It goes before a preset's and a file's; what the user asks for beside it goes before all."""
    agents = [{"start": [0, column], "goals": [[1, column]]} for column in range(3)]
    (tmp_path / "hall.map").write_text("type octile\nheight 2\nwidth 4\nmap\n....\n....\n")
    tasks = tmp_path / "three.json"
    tasks.write_text(json.dumps({"schema_version": 1, "map": "hall.map", "agents": agents}))
    run = tmp_path / "run.yaml"
    run.write_text("world: {agents: 7, horizon: 9}\n")

    def count(**how) -> int:
        world = configure("lifelong_mapf", **how).world
        return SCENARIO.instance(world)["agents"]

    asked = {"tasks": str(tasks)}
    assert count(preset="one_shot") == 64
    assert count(preset="one_shot", options=asked) == 3
    assert count(preset="one_shot", overrides=[f"world.tasks={tasks}"]) == 3
    assert count(config=run, options=asked) == 3
    assert count(preset="one_shot", options={"agents": 2, **asked}) == 2
    assert count(preset="one_shot", options={**asked, "agents": 2}) == 2
    assert configure("lifelong_mapf", config=run, options=asked).world.horizon == 9
    run.write_text(f"world: {{agents: 2, tasks: {tasks}}}\n")
    assert count(preset="one_shot", config=run) == 2
    with pytest.raises(UserError, match="has tasks for 3 agents, 5 asked: use at most 3"):
        make("lifelong_mapf", preset="one_shot", agents=5, **asked)


def test_nothing_to_play_is_said_before_it_is_played() -> None:
    with pytest.raises(UserError, match="'agents' is an empty list"):
        evaluate("lifelong_mapf", ["pibt"], agents=[])
    with pytest.raises(UserError, match="no policy is named"):
        evaluate("lifelong_mapf", [])
    with pytest.raises(UserError, match=r"'world\.generator' in generator is empty: it needs one entry at least"):
        make("lifelong_mapf", generator=[])
