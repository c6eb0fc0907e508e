"""Environments of every kind as batched worlds: what comes in and out of them, step by step."""

from __future__ import annotations

import pickle
from typing import Any

import foreign_worlds
import gymnasium
import numpy as np
import pytest
import torch
from foreign_worlds import Builder, Camera, Pair, Puzzle, Runners, Team
from gymnasium import spaces

from marl.envs.adapters.common_reward import CommonReward
from marl.envs.adapters.frames import frame_of
from marl.envs.adapters.kinds import EnvironmentFactory, as_parallel
from marl.envs.adapters.plain_spaces import plain_spaces
from marl.envs.batched import TimeStep
from marl.envs.foreign import ForeignEnv, from_parallel
from marl.envs.native import flat_mask
from marl.envs.random_play import random_actions
from marl.errors import UserError


def play(factory: Any, steps: int, **options: Any) -> tuple[ForeignEnv, list[TimeStep]]:
    """A world of one copy in this process, and what it shows while action 0 is taken everywhere."""
    world = from_parallel(factory, 1, workers=0, **options)
    assert isinstance(world, ForeignEnv)
    seen = [world.reset(0)]
    for _ in range(steps):
        nothing = {name: torch.zeros(1, len(slots), dtype=torch.int64) for name, slots in world.spec.groups.items()}
        seen.append(world.step(nothing))
    return world, seen


# Games in turns


def test_a_turn_is_a_step_and_who_waits_has_nothing_to_choose() -> None:
    tictactoe = pytest.importorskip("pettingzoo.classic.tictactoe_v3")
    world = from_parallel("pettingzoo.classic.tictactoe_v3:env", 1, workers=0, horizon=9)
    game = tictactoe.env()
    game.reset(seed=0)
    view = world.reset(0)
    won = dict.fromkeys(game.possible_agents, 0.0)
    for turn in range(9):
        acting = turn % 2
        assert view.action_mask[0, 1 - acting].tolist() == [True] + [False] * 8
        assert view.action_mask[0, acting].tolist() == game.last()[0]["action_mask"].astype(bool).tolist()
        assert (view.observation[0, acting].numpy() == game.last()[0]["observation"]).all()
        move = int(np.flatnonzero(game.last()[0]["action_mask"])[turn % 2])
        view = world.step(torch.tensor([[move if k == acting else 5 for k in (0, 1)]]))
        game.step(move)
        won = {agent: won[agent] + game.rewards.get(agent, 0.0) for agent in won}
        assert view.reward[0].tolist() == [game.rewards.get(agent, 0.0) for agent in won]
        if bool(view.done[0]):
            break
    assert bool(view.done[0]) and view.terminated[0].all() and set(won.values()) == {1.0, -1.0}


def test_agents_of_a_game_that_may_act_at_once_do() -> None:
    rps = pytest.importorskip("pettingzoo.classic.rps_v2")
    world = from_parallel("pettingzoo.classic.rps_v2:env", 1, workers=0)
    view = world.step(torch.tensor([[0, 1]])) if world.reset(0) is not None else None
    assert view is not None and view.reward[0].tolist() == [-1.0, 1.0] and world.spec.horizon == 15
    assert rps.env().metadata["is_parallelizable"]


# Gymnasium


def test_tuples_are_agents() -> None:
    world = from_parallel(Pair, 1, workers=0)
    assert world.spec.agents == ("agent_0", "agent_1") and len(world.spec.groups) == 2 and world.spec.horizon == 3
    world.reset(0)
    view = world.step({"group_0": torch.tensor([[3]]), "group_1": torch.tensor([[1]])})
    assert view.reward[0].tolist() == [3.0, 1.0] and not view.terminated.any()
    assert view.observation["group_1"].tolist() == [[[6.0]]]
    view = world.step({"group_0": torch.tensor([[1]]), "group_1": torch.tensor([[1]])})
    assert view.terminated[0].tolist() == [True, False] and not view.done[0]
    view = world.step({"group_0": torch.tensor([[2]]), "group_1": torch.tensor([[0]])})
    assert view.truncated[0].tolist() == [False, True] and bool(view.done[0]) and view.reward[0].tolist() == [0.0, 0.0]


def test_one_number_is_the_reward_of_every_agent_and_a_list_of_views_is_one_of_each() -> None:
    world, seen = play(lambda: Pair(one_reward=True, listed=True), 1)
    assert list(world.spec.groups) == ["agent"] and seen[0].observation[0].tolist() == [[0.0], [5.0]]
    assert world.step(torch.tensor([[3, 2]])).reward[0].tolist() == [5.0, 5.0]


def test_a_single_agent_and_its_time_limit() -> None:
    world = from_parallel("gymnasium.envs.classic_control.pendulum:PendulumEnv", 1, workers=0, horizon=5)
    assert world.spec.agents == ("agent",)
    made = from_parallel(EnvironmentFactory("gymnasium:Pendulum-v1"), 2, workers=0)
    assert made.spec.horizon == 200 and made.spec.action_space["agent"] == spaces.Box(-2.0, 2.0, (1,), np.float32)
    view = made.reset(0)
    for _ in range(200):
        view = made.step(random_actions(made, view))
    assert view.truncated.all() and not view.terminated.any() and view.metrics["length_steps"].tolist() == [200.0] * 2


# Spaces


def test_every_space_of_fixed_shape() -> None:
    world = from_parallel(Puzzle, 1, workers=0)
    (space,) = world.spec.observation_space.values()
    assert isinstance(space, spaces.Dict) and set(space.spaces) == {"pair", "a_b", "grid"}
    view = world.reset(0)
    assert view.observation["pair"]["0"].tolist() == [[2]] and view.observation["grid"].tolist() == [[[2, 1]]]
    assert view.observation["pair"]["1"].tolist() == [[[0.5, -0.5]]] and view.observation["a_b"].tolist() == [[[1, 0]]]
    assert world.spec.action_space["agent"] == spaces.MultiDiscrete([2, 2, 2, 4, 3])
    # tools come before way, as Gymnasium sorts them: one tool is free, the other must stay, and so on
    wanted = [True, True, True, False, False, True, False, False, True, False, False, False, True]
    assert view.action_mask[0, 0].tolist() == wanted
    env = as_parallel(Puzzle())
    plain = plain_spaces(env)
    plain.reset(seed=0)
    plain.step({"agent": np.array([1, 0, 1, 2, 2])})
    did = env.env.did  # type: ignore[attr-defined]  # the environment inside
    assert did["way"] == 1 and did["tools"][0].tolist() == [1, 0] and did["tools"][1].tolist() == [1, 2]


def test_actions_of_numbers_are_side_by_side_within_their_bounds() -> None:
    class Arms(Camera):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(0, 5, (1, 1))})

        def step(self, action: Any) -> Any:
            assert action["a"].tolist() == [1.0, -0.5] and action["b"].tolist() == [[5.0]]
            return super().step(action)

    plain = plain_spaces(as_parallel(Arms()))
    assert plain.action_space("agent") == spaces.Box(np.array([-1, -1, 0]), np.array([1, 1, 5]), dtype=np.float32)
    plain.reset()
    plain.step({"agent": np.array([3.0, -0.5, 7.0])})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text": True}, r"part 'word' of the observation of agent is a Text"),
        ({"mixed": True}, r"the action of agent mixes numbers and choices"),
    ],
)
def test_what_has_no_fixed_shape_is_refused_by_name(options: dict[str, bool], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        plain_spaces(as_parallel(Camera(**options)))


@pytest.mark.parametrize("first", [False, True])
def test_large_images_are_scaled_by_means_over_areas(first: bool) -> None:
    plain = plain_spaces(as_parallel(Camera(first)), 16)
    shape = (3, 8, 16) if first else (8, 16, 3)
    assert plain.observation_space("agent") == spaces.Box(0, 255, shape, np.uint8)
    seen, _ = plain.reset(seed=0)
    rows = seen["agent"].mean(axis=(0, 2) if first else (1, 2))
    assert seen["agent"].shape == shape and rows.tolist() == [255.0] * 4 + [0.0] * 4
    assert plain_spaces(as_parallel(Camera(first)), 80).observation_space("agent").shape[-1] == (80 if first else 3)


# Rewards, groups, ends


@pytest.mark.parametrize(("share", "total"), [("sum", 6.0), ("mean", 2.0)])
def test_a_team_is_paid_together_until_its_end(share: Any, total: float) -> None:
    """Red, who left after two steps, still earns what the others bring home in the fourth."""
    _, seen = play(lambda: CommonReward(Runners(late=50.0), share), 4)
    earned = [view.reward[0].tolist() for view in seen[1:]]
    rest = [total, total, total * 5 / 6, total * 5 / 6 + 100 * total / 6]
    assert earned == [pytest.approx([each] * 3) for each in rest]
    assert [view.alive[0].tolist() for view in seen[:4]] == [[True] * 3] * 4
    assert seen[4].terminated.all() and bool(seen[4].done[0])
    assert seen[3].observation[0, 0].tolist() == [0.0, 0.0]
    assert seen[3].action_mask[0, 0].tolist() == [True, False, False]
    assert seen[3].action_mask[0, 1].all() and float(seen[4].metrics["return"][0]) == pytest.approx(sum(rest))


def test_a_team_is_truncated_where_some_of_it_is() -> None:
    _, seen = play(lambda: CommonReward(Runners(limit=3), "sum"), 3, state=False)
    assert seen[3].truncated.all() and not seen[3].terminated.any()


def test_only_the_living_act_under_a_common_reward() -> None:
    env = Runners()
    play(lambda: CommonReward(env, "sum"), 3)
    assert [sorted(heard) for heard in env.heard] == [sorted(Runners().possible_agents)] * 2 + [["blue_0", "blue_1"]]


def test_groups_by_name_have_returns_of_their_own() -> None:
    world, seen = play(Runners, 4, by_name=True)
    assert {name: len(slots) for name, slots in world.spec.groups.items()} == {"red": 1, "blue": 2}
    figures = {name: float(value[0]) for name, value in seen[4].metrics.items()}
    assert (
        figures["return_red"] == 2.0 and figures["return_blue"] == 10.0 and figures["return"] == pytest.approx(22 / 3)
    )
    together, _ = play(Runners, 0)
    assert list(together.spec.groups) == ["group_0"] and "return_group_0" not in together.spec.metrics


def play_dict(world: ForeignEnv, view: TimeStep, steps: int) -> TimeStep:
    for _ in range(steps):
        view = world.step(random_actions(world, view))
    return view


def test_a_state_that_is_lost_with_the_last_agent_is_not_missed() -> None:
    _, seen = play(Runners, 4)
    assert seen[4].terminated.any() and seen[4].final is not None
    assert isinstance(seen[4].final.state, torch.Tensor) and seen[4].final.state.tolist() == [[3.0, 3.0]]
    with pytest.raises(UserError, match=r"state\(\) of .* nobody is there"):
        play(lambda: Runners(limit=1), 1)  # truncated: what the state is worth would be asked


# marlenv


@pytest.mark.parametrize("made", [Team, Builder])
def test_marlenv(made: Any) -> None:
    world = from_parallel(made, 1, workers=0)
    view = world.reset(0)
    assert view.observation["data"].shape == (1, 2, 2, 2) and view.observation["extras"].tolist() == [[[1.0], [1.0]]]
    assert view.action_mask[0].tolist() == [[True, False, True], [True, True, True]] and view.state.tolist() == [[0.0]]
    view = world.step(torch.tensor([[2, 1]]))
    assert view.reward.tolist() == [[3.0, 3.0]] and view.state.tolist() == [[1.0]] and world.spec.horizon == 3
    view = play_dict(world, view, 2)  # type: ignore[arg-type]  # from_parallel's own kind
    assert view.truncated.all() and not view.terminated.any()
    assert isinstance(as_parallel(Team(extras=0)).observation_space("agent_0"), spaces.Box)


# Making


def test_a_factory_travels() -> None:
    factory = EnvironmentFactory("foreign_worlds:Runners", {"limit": 2}, "sum", render=True)
    env = pickle.loads(pickle.dumps(factory))()
    assert isinstance(env, CommonReward) and env.max_cycles == 2 and env.render_mode == "rgb_array"


@pytest.mark.parametrize(
    ("env", "arguments", "sentence"),
    [
        ("nowhere:env", {}, "module 'nowhere' cannot be imported"),
        ("foreign_worlds:Runer", {}, "'Runer' is not in 'foreign_worlds'; did you mean 'Runners'"),
        ("gymnasium:No-Such-v1", {}, "'No-Such-v1' is not in 'gymnasium'"),
        ("foreign_worlds:Runners", {"agents": 2}, "foreign_worlds:Runners cannot be called with agents: .*'agents'"),
        ("gymnasium:make", {"id": "Nothing-v0"}, "gymnasium:make makes no environment: NameNotFound"),
        ("types:SimpleNamespace", {}, "types.SimpleNamespace is none of the known kinds"),
        ("gymnasium:make_vec", {"id": "CartPole-v1"}, "VectorEnv is several environments at once"),
    ],
)
def test_what_makes_no_environment(env: str, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        EnvironmentFactory(env, arguments)()


# Pictures


def test_pictures_of_every_step_and_of_the_end() -> None:
    world = from_parallel(Runners, 1, workers=0, render=True)
    assert isinstance(world, ForeignEnv)
    view = world.reset(0)
    shown = []
    for _ in range(4):
        view = world.step(random_actions(world, view))
        shown.append(int(world.frame(ended=bool(view.done[0]))[0, 0, 0]))
    assert shown == [10, 20, 30, 40] and world.frame().shape == (32, 32, 3) and world.frame().max() == 0


def test_text_becomes_a_picture_and_nothing_is_said_to_be_nothing() -> None:
    class Written(Camera):
        def render(self) -> Any:
            return "a\nb"

    picture = frame_of(as_parallel(Written()))
    assert picture.max() > 200 and all(side % 16 == 0 for side in picture.shape[:2])
    with pytest.raises(UserError, match=r"cannot show itself: NotImplementedError"):
        frame_of(as_parallel(gymnasium.Wrapper(Camera())))


def test_masks_of_dicts_have_the_order_of_their_space() -> None:
    plain = plain_spaces(as_parallel(Puzzle()))
    _, infos = plain.reset(seed=0)
    space = plain.action_space("agent")
    assert flat_mask(infos["agent"]["action_mask"], space).sum() == 6
    assert foreign_worlds.Puzzle().action_space.spaces["way"].start == -1
