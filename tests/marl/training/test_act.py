"""``act`` is ``evaluate``: on the same observations the same actions, in every space and of every shipped policy."""

from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spaces_scenario
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from random_policies import untrained
from spaces_scenario import CASES, HORIZON, SpacesConfig, SpacesEnv
from tiny_scenario import tiny_config

import marl
from marl import api
from marl.config import resolve
from marl.coordination.face import coordinated_face
from marl.envs.native import from_native
from marl.errors import UserError
from marl.scenario import load_scenario
from marl.systems.mappo import MAPPO
from marl.systems.registry import load_system
from marl.training.policy import LearnedPolicy, load_policy
from marl.training.run import train
from marl.training.tracking import read_metrics

# Any space

FLOATS = st.sampled_from([np.float32, np.float64])
SHAPES = st.sampled_from([(), (1,), (3,), (2, 3)])


@st.composite
def boxes(draw: Any) -> spaces.Box:
    low, high = draw(st.sampled_from([(0.0, 1.0), (-3.0, 5.0), (0.5, np.inf), (-np.inf, np.inf), (-3e38, 3e38)]))
    return spaces.Box(low, high, draw(SHAPES), draw(FLOATS))


multi = st.builds(
    lambda nvec, start: spaces.MultiDiscrete(nvec, start=np.full_like(nvec, start)),
    st.sampled_from([np.array([2, 4]), np.array([3]), np.array([[2, 3], [4, 2]])]),
    st.sampled_from([0, 2]),
)
discrete = st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(2, 5), st.sampled_from([0, 1, -2]))
binary = st.builds(spaces.MultiBinary, st.sampled_from([1, 3, (2, 2)]))
image = st.builds(lambda shape: spaces.Box(0, 255, shape, np.uint8), st.sampled_from([(6, 5, 3), (1, 5, 6), (4,)]))
leaf = st.one_of(st.builds(spaces.Box, st.just(-1.0), st.just(1.0), SHAPES, FLOATS), discrete, multi, binary, image)
observation = st.recursive(
    leaf, lambda inner: st.dictionaries(st.sampled_from(["a", "b"]), inner, min_size=1).map(spaces.Dict), max_leaves=3
)
action = st.one_of(discrete, multi, binary, boxes())
CALM = settings(
    deadline=None, max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


def same(one: Any, other: Any) -> bool:
    return bool(np.allclose(np.asarray(one, float), np.asarray(other, float), rtol=1e-5, atol=1e-6))


@CALM
@given(observation, action, st.sampled_from(["none", "infos", "observation"]), st.booleans(), st.booleans())
@example(spaces.Discrete(3), spaces.Discrete(3, start=1), "observation", True, False)
@example(spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([2, 3]), "infos", False, False)
@example(spaces.Box(0, 255, (6, 5, 3), np.uint8), spaces.Box(0.0, 1.0, (2,)), "none", False, True)
def test_any_space(seen: spaces.Space[Any], acts: spaces.Space[Any], masks: str, greedy: bool, gru: bool) -> None:
    """What the environment is given by ``evaluate``'s way, ``act`` gives for what the environment showed."""
    if isinstance(acts, spaces.Box):
        masks = "none"
    case = len(CASES)
    CASES[case] = (seen, acts, masks)
    cnn = isinstance(seen, spaces.Box) and len(seen.shape) == 3
    network = {"hidden": [16], "recurrent": "gru" if gru else "none", "encoder": "cnn" if cnn else "mlp"}
    config = resolve(
        SpacesConfig,
        MAPPO.config,
        [
            {
                "scenario": "spaces_scenario:SPACES",
                "system": "mappo",
                "total_steps": 1000,
                "copies": 2,
                "world": {"case": case},
                "coordination": {"guidance": {"enabled": False}},
                "algorithm": {"greedy": greedy, "actor": network, "critic_input": "observation"},
            }
        ],
    )
    scratch = Path(tempfile.mkdtemp())
    try:
        policy, shown = untrained(config, scratch / "run"), load_policy(scratch / "run")
    finally:
        shutil.rmtree(scratch)
    env = spaces_scenario.make_spaces(config.world, 1, torch.device("cpu"))
    raw = SpacesEnv.last
    face = coordinated_face(spaces_scenario.make_spaces(config.world, 1, torch.device("cpu")), config.coordination)
    bound = policy.bind(env)
    timestep = env.reset(5)
    face_seen, face_infos = face.reset(seed=5)
    policy.act(*raw.shown)  # builds its own world once; what was drawn is forgotten below
    policy.reset()
    for t in range(2 * HORIZON):
        observations, infos = raw.shown
        told = {agent: {**info, "key": int(timestep.key[0])} for agent, info in infos.items()}
        answers = policy.act(observations, told)
        on_face = shown.act(face_seen, face_infos)
        assert all(raw.legal(agent, answer) for agent, answer in answers.items())
        timestep = env.step(bound.act(timestep))
        executed = raw.given[-1]
        for agent, answer in answers.items():
            assert raw.action_space(agent).contains(answer)
            assert same(answer, executed[agent]) and same(on_face[agent], executed[agent])
        face_seen, _, _, _, face_infos = face.step(on_face)
        if not face.agents:
            assert t % HORIZON == HORIZON - 1
            face_seen, face_infos = face.reset()
            policy.reset()
            shown.reset()


@pytest.mark.parametrize("acts", [spaces.MultiDiscrete([3, 4], start=[1, 0]), spaces.MultiBinary(3)])
def test_masks_of_several_choices_are_used_in_training(tmp_path: Path, acts: spaces.Space[Any]) -> None:
    """The environment refuses what its mask forbids; sampling and learning see the same masks."""
    case = len(CASES)
    CASES[case] = (spaces.Box(-1, 1, (3,), np.float32), acts, "infos")
    layers = {
        "scenario": "spaces_scenario:SPACES",
        "system": "ippo",
        "total_steps": 3 * 8 * 2 * 3,
        "copies": 2,
        "world": {"case": case},
        "coordination": {"guidance": {"enabled": False}},
        "algorithm": {"rollout": 8, "actor_rate": 0.05},
    }
    config = resolve(SpacesConfig, load_system("ippo").config, [layers])
    rows = read_metrics(train(config, tmp_path / "run", live=False) / "metrics.csv")
    assert len(rows) == 3 and all(row["learn/first_log_ratio"] < 1e-5 for row in rows)


# Worlds of the platform

TINY: dict[str, dict[str, Any]] = {
    "plain": {},
    "recurrent": {"algorithm": {"actor": {"recurrent": "gru"}}},
    "two groups": {"world": {"unlike": True, "agents": 3}},
    "agents die and are replaced": {"world": {"mortal": True, "refill": 3}, "algorithm": {"agent_index": True}},
    "masks": {"world": {"masks": True, "unlike": True, "agents": 3}},
    "continuous": {"world": {"continuous": True}},
    "one network each": {"algorithm": {"sharing": "none", "actor": {"recurrent": "gru"}}},
    "windows": {"world": {"observation": "dict"}, "algorithm": {"actor": {"encoder": "cnn"}}},
}


def compare(policy: LearnedPolicy, face: Any, scenario: str, seed: int, by_env: bool, **options: Any) -> int:
    """Plays an episode both ways; returns how many actions were compared."""
    env = (
        api.make(scenario, **options)
        if options
        else load_scenario(scenario).make(policy.config.world, 1, torch.device("cpu"))
    )
    bound = policy.bind(env)
    timestep = env.reset(seed)
    observations, infos = face.reset(seed=seed)
    policy.reset()
    compared = 0
    while face.agents:
        bound.account(timestep)
        expected = bound.act(timestep)
        if by_env:
            actions = policy.act(observations, env=face)
        else:
            actions = policy.act({agent: observations[agent] for agent in face.agents}, infos)
        for name, answer in actions.items():
            slot = face.slots[name]
            group = next(group for group, members in env.spec.groups.items() if slot in members)
            tree = expected if len(env.spec.groups) == 1 else expected[group]
            own = tree[0, env.spec.groups[group].index(slot)].numpy()
            space = env.spec.action_space[group]
            wanted = np.clip(own, space.low, space.high) if isinstance(space, spaces.Box) else own
            assert same(from_native(answer, space), wanted), (name, answer, own)
        compared += len(actions)
        timestep = env.step(expected)
        observations, _, _, _, infos = face.step(actions)
    env.close()
    return compared


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("name", TINY)
def test_tiny_worlds(tmp_path: Path, name: str, greedy: bool) -> None:
    sections = {**TINY[name], "algorithm": {**TINY[name].get("algorithm", {}), "greedy": greedy}}
    config = tiny_config(**sections)
    policy = untrained(config, tmp_path / "run")
    env = load_scenario(config.scenario).make(config.world, 1, torch.device("cpu"))
    face = coordinated_face(env, config.coordination, newcomers=True)
    assert compare(policy, face, config.scenario, 3, by_env=False) > 15
    assert compare(policy, face, config.scenario, 4, by_env=True) > 15


SHIPPED = {
    "lifelong_mapf/scorer": {"map": "maze", "agents": 8, "horizon": 25},
    "lifelong_mapf/scorer_warehouse": {"map": "maze", "agents": 8, "horizon": 25},
    "lifelong_mapf/follower": {"map": "maze", "agents": 8, "horizon": 25},
    "cav_merging/general": {"horizon": 25},
    "cav_merging/hard": {"horizon": 25},
}


def with_greedy(policy: LearnedPolicy, greedy: bool) -> LearnedPolicy:
    algorithm = policy.config.algorithm.model_copy(update={"greedy": greedy})
    changed = policy.config.model_copy(update={"algorithm": algorithm})
    return LearnedPolicy(policy.name, changed, policy._state, policy._modules)


def test_every_shipped_policy_of_numbers_is_compared() -> None:
    names = ("lifelong_mapf", "cav_merging", "agent_hierarchy", "traffic_signals", "vmas_tasks")
    every = {f"{name}/{policy}" for name in names for policy in api.shipped(load_scenario(name))}
    assert {name for name in every if isinstance(marl.load(name), LearnedPolicy)} == set(SHIPPED)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_policies(name: str, greedy: bool) -> None:
    """On the face that is made for them, supervised and not, where they have a supervisor."""
    scenario, options = name.split("/")[0], SHIPPED[name]
    policy = with_greedy(marl.load(name), greedy)
    face = marl.parallel_env(scenario, policy=policy, **options)
    assert compare(policy, face, scenario, 7, by_env=True, **options) >= 50
    bare = policy.supervised(False)
    face = marl.parallel_env(scenario, policy=bare, **options)
    assert compare(bare, face, scenario, 8, by_env=False, **options) >= 50


@pytest.mark.parametrize("scenario", ["agent_hierarchy", "traffic_signals", "vmas_tasks"])
def test_other_scenarios(tmp_path: Path, scenario: str) -> None:
    if scenario == "vmas_tasks":
        pytest.importorskip("vmas")
    if scenario == "traffic_signals" and find_spec("sumo_rl") is None:
        pytest.skip("sumo-rl is not installed")
    presets = {"agent_hierarchy": "discrete"}
    config = api.configure(scenario, preset=presets.get(scenario))
    policy = untrained(config, tmp_path / "run")
    face = marl.parallel_env(scenario, preset=presets.get(scenario), policy=policy)
    assert compare(policy, face, scenario, 7, by_env=False) > 20


# What is refused


def test_a_supervised_policy_says_that_it_needs_its_world() -> None:
    policy = marl.load("cav_merging/hard")
    env = marl.parallel_env("cav_merging", policy=policy)
    observations, infos = env.reset(seed=0)
    with pytest.raises(UserError, match=r"asks its world before it acts \(coordination\.safety\)"):
        policy.act(observations, infos)
    with pytest.raises(UserError, match="has not the coordination modules"):
        policy.act(observations, env=marl.parallel_env("cav_merging", policy=policy.supervised(False)))
    some = dict(list(observations.items())[1:])
    with pytest.raises(UserError, match=r"the observation of 'cav_\d+' is missing"):
        policy.act(some, env=env)


def test_a_missing_mask_and_a_wrong_one_are_named(tmp_path: Path) -> None:
    policy = untrained(tiny_config(world={"masks": True}), tmp_path / "run")
    seen = np.zeros(3, np.float32)
    with pytest.raises(UserError, match=r"the action mask of agent 'agent_0' is missing"):
        policy.act({"agent_0": seen})
    with pytest.raises(UserError, match="the action mask is missing"):
        policy.act(seen)
    with pytest.raises(UserError, match=r"an action mask for Discrete\(3\) is .*: give 3 numbers"):
        policy.act(seen, {"action_mask": [1, 0]})
    with pytest.raises(UserError, match="infos are a dict for each agent"):
        policy.act({"agent_0": seen}, {"agent_0": [1, 0, 0]})
    assert policy.act({"observation": seen, "action_mask": [0, 1, 0]}) == 1
    assert policy.act({"agent_1": seen}, {"agent_1": {"action_mask": np.array([0, 0, 1])}}) == {"agent_1": 2}


def test_without_keys_the_seed_and_the_call_decide(tmp_path: Path) -> None:
    policy = untrained(tiny_config(), tmp_path / "run")
    seen = {"agent_0": np.zeros(3, np.float32), "agent_1": np.zeros(3, np.float32)}

    def drawn(seed: int) -> list[int]:
        policy.reset()
        return [action for _ in range(20) for action in policy.act(seen, seed=seed).values()]

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(set(zip(*[iter(drawn(0))] * 2, strict=True))) > 1
    assert any(a != b for a, b in pairwise(drawn(0)))
