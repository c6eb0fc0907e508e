from __future__ import annotations

import copy
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from face_factories import newcomers_face, tiny_face
from gymnasium import spaces
from pettingzoo.test import parallel_api_test, parallel_seed_test

from marl.envs.batched import TimeStep
from marl.envs.pettingzoo import ParallelFace
from marl.seeding import fold_int
from marl.testing import TinyWorld, check_parallel


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pettingzoos_own_tests_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """And they did play: steps are counted."""
    played, step = Counter[str](), ParallelFace.step

    def counting(self: ParallelFace, actions: Any) -> Any:
        played[stage] += 1
        return step(self, actions)

    monkeypatch.setattr(ParallelFace, "step", counting)
    stage = "interface"
    parallel_api_test(tiny_face(), num_cycles=50)
    stage = "seeds"
    parallel_seed_test(tiny_face, num_cycles=20)
    stage = "newcomers"
    parallel_api_test(newcomers_face(), num_cycles=50)
    assert min(played[name] for name in ("interface", "seeds", "newcomers")) >= 2, played


@pytest.mark.parametrize("make", [tiny_face, newcomers_face])
def test_the_stricter_ones_pass(make: object) -> None:
    report = check_parallel(lambda: make(), steps=60)  # type: ignore[operator]
    assert not report.findings, str(report)


def test_bit_rows_are_shown_as_planes() -> None:
    face = tiny_face()
    seen, infos = face.reset(seed=1)
    position = face.env.position[0]  # type: ignore[attr-defined]
    line = seen["agent_0"]["line"]
    assert line.shape == (1, 1, 9) and line.dtype == np.uint8
    assert set(np.flatnonzero(line).tolist()) == set(position.long().tolist())
    assert infos["agent_1"]["action_mask"].dtype == np.int8 and infos["agent_1"]["action_mask"].shape == (5,)


def test_the_last_step_has_final_observations_and_metrics() -> None:
    face = ParallelFace(TinyWorld(1, 2, horizon=2))
    face.reset(seed=0)
    stay = dict.fromkeys(face.agents, 0)
    *_, infos = face.step(stay)
    assert {agent: set(info) for agent, info in infos.items()} == {"agent_0": {"key"}, "agent_1": {"key"}}
    last_state = face.state()
    seen, rewards, terminated, truncated, infos = face.step(stay)
    assert face.agents == []
    assert truncated == {"agent_0": True, "agent_1": True} and not any(terminated.values())
    assert seen["agent_0"][2] == 0.0  # The final observation: no time is left.
    assert infos["agent_0"]["metrics"]["length_steps"] == 2.0
    assert infos["agent_0"]["metrics"]["return"] == pytest.approx(2 * rewards["agent_0"])
    assert face.state().shape == (2, 5) and not np.array_equal(face.state(), last_state)
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        face.step(stay)


def test_reset_without_a_seed_goes_on_like_the_batched_world() -> None:
    face, world = ParallelFace(TinyWorld(1, 2, horizon=2)), TinyWorld(1, 2, horizon=2)
    face.reset(seed=4)
    world.reset(4)
    for _ in range(2):
        face.step(dict.fromkeys(face.agents, 0))
        view = world.step(torch.zeros(1, 2, dtype=torch.int64))
    seen, _ = face.reset()
    assert np.array_equal(seen["agent_1"], view.observation[0, 1].numpy())
    again, _ = face.reset()  # In the middle of an episode: another seed.
    other = TinyWorld(1, 2, horizon=2).reset(fold_int(4, 1) & 0x7FFFFFFF)
    assert np.array_equal(again["agent_1"], other.observation[0, 1].numpy())


def test_a_newcomer_has_a_name_of_its_own() -> None:
    face = newcomers_face()
    assert not hasattr(face, "possible_agents")
    names: set[str] = set()
    for seed in range(5):
        face.reset(seed=seed)
        while face.agents:
            seen, *_ = face.step(dict.fromkeys(face.agents, 0))
            assert set(face.agents) <= set(seen)
            names |= set(face.agents)
    newcomers = {name for name in names if "#" in name}
    assert newcomers
    name = newcomers.pop()
    assert face.observation_space(name) is face.observation_space(name.split("#")[0])
    strict = ParallelFace(TinyWorld(1, 3, horizon=12, mortal=True, refill=1))
    with pytest.raises(ValueError, match="newcomers=True"):
        for seed in range(5):
            strict.reset(seed=seed)
            while strict.agents:
                strict.step(dict.fromkeys(strict.agents, 0))


@pytest.mark.parametrize(
    ("actions", "sentence"),
    [
        ({"agent_0": 0}, "no action for the living agent agent_1"),
        ({"agent_0": 0, "agent_1": 0, "agent_9": 0}, "agent_9 is not alive"),
        ({"agent_0": 0, "agent_1": 7}, r"action of agent_1, 7, is not in Discrete\(3\)"),
        ({"agent_0": 0.5, "agent_1": 0}, "action of agent_0"),
    ],
)
def test_wrong_actions_are_named(actions: dict[str, float], sentence: str) -> None:
    face = ParallelFace(TinyWorld(1, 2))
    face.reset(seed=0)
    with pytest.raises(ValueError, match=sentence):
        face.step(actions)
    with pytest.raises(ValueError, match="one copy"):
        ParallelFace(TinyWorld(2))


def test_copies_continue_where_the_original_was() -> None:
    face = tiny_face()
    face.reset(seed=2)
    face.step(dict.fromkeys(face.agents, 0))
    for twin in (copy.deepcopy(face), pickle.loads(pickle.dumps(face))):
        assert twin.agents == face.agents
        assert np.array_equal(twin.state(), face.state())
        alone = copy.deepcopy(face)
        while twin.agents:
            ours = alone.step(dict.fromkeys(alone.agents, 1))
            theirs = twin.step(dict.fromkeys(twin.agents, 1))
            assert ours[1:4] == theirs[1:4]
    with pytest.raises(TypeError, match="rebuild="):
        pickle.dumps(ParallelFace(TinyWorld(1)))


def test_augment_extends_what_is_seen() -> None:
    def augment(timestep: TimeStep) -> TimeStep:
        return timestep._replace(observation=timestep.observation[..., :1])

    space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    face = ParallelFace(TinyWorld(1, 2), augment, {"walker": space})
    seen, _ = face.reset(seed=0)
    assert face.observation_space("agent_0") == space and seen["agent_0"].shape == (1,)


def test_render_is_delegated() -> None:
    face = ParallelFace(TinyWorld(1), render=lambda env: f"{env.copies} copy", render_mode="ansi")
    assert face.render() == "1 copy" and face.metadata["render_modes"] == ["ansi"]
    with pytest.raises(NotImplementedError, match="cannot draw itself"):
        ParallelFace(TinyWorld(1)).render()
    with pytest.raises(NotImplementedError, match="no central state"):
        ParallelFace(TinyWorld(1, state="none")).state()
