"""The declaration, its presets, rules and recorder."""

import json
import re

import pytest
import torch

from marl.config import IntentConfig, read_layer, resolve
from marl.coordination.intent import Intent, Predicts
from marl.coordination.safety import Supervised
from marl.envs.batched import Plans
from marl.errors import UserError
from marl.systems.registry import load_system
from scenarios.cav_merging.baselines import BASELINES
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.render import CavRecorder
from scenarios.cav_merging.scenario import SCENARIO
from scenarios.cav_merging.world import CavMerging


@pytest.mark.parametrize("preset", SCENARIO.preset_names())
def test_presets_resolve_and_run(preset):
    head = {"scenario": SCENARIO.name, "preset": preset, "system": SCENARIO.system}
    layer = read_layer(SCENARIO.presets / f"{preset}.yaml")
    config = resolve(SCENARIO.config, load_system(SCENARIO.system).config, [head, layer], [])
    world = SCENARIO.held_out(config.world)
    assert world.curriculum_episodes == 0
    env = SCENARIO.make(world, 2, torch.device("cpu"))
    timestep = env.reset(0)
    for _ in range(3):
        timestep = env.step(torch.ones(2, env.spec.n_agents, dtype=torch.int64))
    assert env.spec.observation_space["cavs"].contains(timestep.observation[0, 0].numpy())
    assert set(timestep.metrics) == set(env.spec.metrics)
    assert isinstance(env, Plans) and isinstance(env, Predicts) and isinstance(env, Supervised)
    assert SCENARIO.instance(world)["backend"] == "twin"


def test_a_curriculum_goes_from_easy_to_full():
    env = CavMerging(CavConfig(curriculum_episodes=3, horizon=1), 200)
    timestep = env.reset(0)
    largest = []
    for _ in range(5):
        largest.append(int(timestep.alive.sum(1).max()))
        timestep = env.step(torch.ones(200, 6, dtype=torch.int64))
    assert largest == [3, 4, 5, 6, 6]


def play(name: str, drivers: str, copies: int = 48) -> dict[str, float]:
    env = CavMerging(CavConfig(drivers=drivers), copies)
    policy = BASELINES[name](env)
    timestep = env.reset(10_000)
    for _ in range(100):
        timestep = env.step(policy.act(timestep))
    return {metric: float(values.mean()) for metric, values in timestep.metrics.items()}


def test_rules_drive_without_collisions():
    for name in ("idm_gap_acceptance", "fifo_merge"):
        figures = play(name, "assertive")
        assert figures["collision_rate"] <= 0.05
        assert figures["merged_share"] > 0.9
    assert play("sumo_default", "assertive")["merged_share"] > play("sumo_default", "timid")["merged_share"] + 0.2


def test_random_draws_only_legal_actions_and_from_the_copys_key():
    env = CavMerging(CavConfig(), 32)
    policy = BASELINES["random"](env)
    timestep = env.reset(0)
    for _ in range(90):
        action = policy.act(timestep)
        assert bool(timestep.action_mask.gather(2, action.unsqueeze(-1)).all())
        assert torch.equal(action, policy.act(timestep))
        timestep = env.step(action)


def test_rules_refuse_other_worlds():
    with pytest.raises(UserError, match="CavMerging"):
        BASELINES["fifo_merge"](object())


def test_merge_plan_is_first_in_first_out():
    """The ramp car is to follow the main car just ahead of it, the second main car the ramp car."""
    env = CavMerging(CavConfig(cavs=3, humans=0, contrast=False, max_cavs=3, max_humans=0), 1)
    env.enable_plan()
    env.reset(0)
    for i, (lane, x) in enumerate(((1, 300.0), (0, 290.0), (1, 270.0))):
        env.traffic.lane[0, i], env.traffic.x[0, i], env.traffic.v[0, i] = lane, x, 20.0
    env._look_around()
    features = env.plan().features["plan"][0]
    assert features[:, 0].tolist() == [0.0, 1.0, 1.0]
    assert features[1:, 1].tolist() == pytest.approx([5.0 / 180.0, 15.0 / 180.0])
    assert features[1, 3] < features[0, 3]


def test_announced_paths_follow_the_action():
    env = CavMerging(CavConfig(cavs=2, humans=0, contrast=False, max_cavs=2, max_humans=0), 1)
    intent = Intent(env, env.spec.observation_space, IntentConfig(horizon=5, companions=1, rounds=0))
    env.reset(0)
    for i, (lane, x) in enumerate(((1, 300.0), (0, 350.0))):
        env.traffic.lane[0, i], env.traffic.x[0, i], env.traffic.v[0, i] = lane, x, 20.0
        env.traffic.target[0, i] = 20.0
    calm = env.predict(None)
    assert calm.trajectory[0, 0, :, 0].tolist() == pytest.approx([304.0, 308.0, 312.0, 316.0, 320.0])
    assert calm.companions.tolist() == [[[1], [0]]]
    hasty = env.predict(torch.tensor([[3, 0]])).trajectory[0]
    assert hasty[0, 0].tolist() == pytest.approx([300.0 + 0.1 * (20.0 + 20.6), 1.0, 20.6])
    assert hasty[1, :, 1].tolist() == [1.0] * 5
    heard = intent.hear(env.current(), None).observation["intent"][0, 0]
    assert heard[:3].tolist() == pytest.approx([4.0 / 180.0, 0.0, 0.0])
    assert heard[15:19].tolist() == pytest.approx([1.0, 54.0 / 180.0, -1.0 / 3.0, 0.0])


def test_recorder_keeps_one_episode_of_copy_0():
    env = CavMerging(CavConfig(horizon=10), 2)
    recorder = CavRecorder(env)
    timestep = env.reset(0)
    recorder.add(timestep, None)
    for _ in range(25):
        action = torch.full((2, 6), 3)
        timestep = env.step(action)
        recorder.add(timestep, action)
    html = recorder.html()
    data = json.loads(re.search(r"const data = (\{.*\});\n", html).group(1))
    assert len(data["frames"]) == 10
    assert data["road"]["merge_end"] == 420.0
    assert [car[0] for car in data["frames"][0]] == env_numbers(0)
    assert all(car[5] == 3 for car in data["frames"][1] if car[4] == 0)
    assert "http" not in html


def env_numbers(seed: int) -> list[int]:
    env = CavMerging(CavConfig(horizon=10), 2)
    env.reset(seed)
    return env.traffic.number[0][env.traffic.present[0]].tolist()
