"""The adapter of VMAS: on a stand-in of its simulator, whose episodes are known, and on VMAS where it is installed."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from marl import api
from marl.errors import UserError
from marl.scenario import load_scenario
from scenarios.vmas_tasks.alone import Alone
from scenarios.vmas_tasks.config import VmasConfig
from scenarios.vmas_tasks.scenario import SCENARIO
from scenarios.vmas_tasks.world import VmasWorld, make_simulator

CPU = torch.device("cpu")
needs_vmas = pytest.mark.skipif(importlib.util.find_spec("vmas") is None, reason="the extra 'vmas' is not installed")


class Counters:
    """Copies that count to a number of their own and are done then; agents see their count and the number.

    seeds, calls: what was asked of it.
    """

    def __init__(self, goals: list[int], agents: int = 2):
        self.agents = [SimpleNamespace(name=f"agent_{i}") for i in range(agents)]
        self.scenario = None
        self.goals = torch.tensor(goals, dtype=torch.float32)
        self.count = torch.zeros(len(goals))
        self.calls: list[str] = []
        self.actions: list[Tensor] = []

    def seed(self, seed: int) -> None:
        self.calls.append(f"seed {seed}")

    def reset(self, *, return_observations: bool) -> None:
        self.count[:] = 0
        self.calls.append("reset")

    def reset_at(self, index: int, *, return_observations: bool) -> None:
        self.count[index] = 0
        self.calls.append(f"reset {index}")

    def _seen(self) -> list[Tensor]:
        return [torch.stack((self.count + 10 * i, self.goals), 1) for i in range(len(self.agents))]

    def step(self, actions: list[Tensor]) -> list[Any]:
        self.actions = actions
        self.count += 1
        rewards = [self.count + i for i in range(len(self.agents))]
        return [self._seen(), rewards, self.count >= self.goals, [{} for _ in self.agents]]

    def get_from_scenario(self, **wanted: bool) -> list[Any]:
        return [self._seen()]

    def get_agent_action_space(self, agent: Any) -> Any:
        return spaces.Box(-1.0, 1.0, (1,), np.float32)


def world(goals: list[int], horizon: int = 3) -> tuple[VmasWorld, Counters]:
    simulator = Counters(goals)
    made = VmasWorld(VmasConfig(horizon=horizon), simulator, len(goals))
    simulator.calls.clear()
    return made, simulator


def test_a_time_limit_is_a_truncation_and_a_solved_task_a_termination() -> None:
    made, simulator = world([2, 9])
    first = made.reset(5)
    assert first.observation.tolist() == [[[0, 2], [10, 2]], [[0, 9], [10, 9]]]
    assert first.state.tolist() == [[0, 2, 10, 2], [0, 9, 10, 9]]
    actions = torch.zeros(2, 2, 1)
    steps = [made.step(actions) for _ in range(3)]
    assert [step.terminated[:, 0].tolist() for step in steps] == [[False, False], [True, False], [False, False]]
    assert [step.truncated[:, 0].tolist() for step in steps] == [[False, False], [False, False], [False, True]]
    assert steps[0].final is None
    # The copy that is done has restarted, its last view is kept, and the other goes on.
    assert steps[1].observation[:, 0, 0].tolist() == [0, 2]
    assert steps[1].final.observation[:, 0, 0].tolist() == [2, 2]
    assert steps[1].metrics["return"].tolist() == [1.5 + 2.5, 4.0]
    assert steps[1].metrics["solved"][0] == 1.0 and steps[1].metrics["length_steps"][0] == 2.0
    assert steps[2].metrics["return"][1] == 1.5 + 2.5 + 3.5 and steps[2].metrics["solved"][1] == 0.0
    assert [call for call in simulator.calls if call.startswith("reset")] == ["reset", "reset 0", "reset 1"]


def test_copies_that_end_together_are_restarted_in_one_call() -> None:
    made, simulator = world([9, 9, 9], horizon=2)
    made.reset(0)
    made.step(torch.zeros(3, 2, 1))
    made.step(torch.zeros(3, 2, 1))
    assert [call for call in simulator.calls if call.startswith("reset")] == ["reset", "reset"]


def test_seeds_of_restarts_depend_on_the_seed_and_their_number_only() -> None:
    def seeds(seed: int) -> list[str]:
        made, simulator = world([9], horizon=1)
        made.reset(seed)
        made.step(torch.zeros(1, 2, 1))
        made.step(torch.zeros(1, 2, 1))
        return [call for call in simulator.calls if call.startswith("seed")]

    assert seeds(3) == seeds(3) and seeds(3) != seeds(4)
    assert len(set(seeds(3))) == 3


def test_actions_reach_their_agents() -> None:
    made, simulator = world([9, 9])
    made.reset(0)
    actions = torch.tensor([[[0.1], [0.2]], [[0.3], [0.4]]])
    made.step(actions)
    assert [own.flatten().tolist() for own in simulator.actions] == [
        pytest.approx([0.1, 0.3]),
        pytest.approx([0.2, 0.4]),
    ]


def test_without_vmas_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vmas", None)
    with pytest.raises(UserError, match=r"pip install 'marl-platform\[vmas\]'"):
        SCENARIO.make(VmasConfig(), 1, CPU)


def test_it_is_found_by_reference() -> None:
    assert load_scenario("scenarios.vmas_tasks.scenario:SCENARIO") is SCENARIO
    assert SCENARIO.preset_names() == ["balance", "navigation"]


class Sharing:
    """Draws as VMAS does: all of a kind from one list of states."""

    states: ClassVar[list[Any]] = [0]
    agents: ClassVar[list[Any]] = []
    scenario = None

    def seed(self, seed: int) -> None:
        self.states[0] = seed

    def reset(self) -> int:
        self.states[0] += 1
        return self.states[0]

    def step(self, actions: list[Tensor]) -> int:
        if not actions:
            raise ValueError("no actions")
        return self.reset()

    def reset_at(self, index: int) -> int:
        return self.reset()

    def get_from_scenario(self) -> int:
        return self.reset()


def test_environments_that_share_their_states_are_kept_apart() -> None:
    one, other = (Alone(Sharing, Sharing.states, CPU) for _ in range(2))
    one.seed(10)
    other.seed(20)
    assert [one.reset(), other.reset(), one.step([1]), other.reset_at(0), one.reset_at(0)] == [11, 21, 12, 22, 13]
    with pytest.raises(ValueError):
        one.step([])
    assert [one.get_from_scenario(), other.get_from_scenario()] == [14, 23]
    assert Sharing.states == [0]


@needs_vmas
def test_vmas_itself() -> None:
    """Navigation: three like agents with 18 numbers each; the same seeds and actions give the same episodes."""
    config = VmasConfig(options={"n_agents": 3}, horizon=4)
    runs = []
    for _ in range(2):
        made = SCENARIO.make(config, 2, CPU)
        step = made.reset(3)
        seen = [step.observation]
        for t in range(9):
            step = made.step(torch.full((2, 3, 2), 0.1 * t))
            assert bool(step.truncated.all()) == (t % 4 == 3) and not step.terminated.any()
            seen.append(step.observation)
        runs.append(torch.stack(seen))
        assert made.spec.groups == {"agent": (0, 1, 2)}
    assert torch.equal(*runs)
    assert runs[0].shape == (10, 2, 3, 18)


@needs_vmas
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (VmasConfig(task="navigatoin"), "no scenario 'navigatoin'; did you mean 'navigation'"),
        (VmasConfig(options={"n_agnets": 3}), "navigation does not know n_agnets of world.options"),
        (VmasConfig(options={"n_agents": 2.5}), "VMAS refuses world.options .* of navigation: 'float' object"),
        (VmasConfig(options={"n_agents": 0}), r"world\.options {'n_agents': 0}.*: (it fails with|give it some)"),
        (
            VmasConfig(task="simple_tag", options={"num_good_agents": 0, "num_adversaries": 0}),
            "simple_tag.*(it fails with|give it some)",
        ),
    ],
)
def test_mistakes(config: VmasConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_simulator(config, 1, CPU)


def test_another_task_comes_without_the_options_of_the_preset() -> None:
    """``lidar_range`` of navigation means nothing to transport, which would refuse it."""
    world = api.configure("vmas_tasks", options={"task": "transport"}, overrides=["world.options={n_agents: 6}"]).world
    assert (world.task, world.options) == ("transport", {"n_agents": 6})
    assert api.configure("vmas_tasks").world.options["n_agents"] == 3
