"""A world of which only the rules are written, and the first look at what any world returns."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tiny_scenario import TINY
from torch import Tensor

from marl import api
from marl.config import CoordinationConfig
from marl.coordination.pipeline import Pipeline
from marl.envs.batched import EnvSpec, Metric, TimeStep
from marl.envs.forms import check_form
from marl.envs.random_play import RandomPolicy, random_actions
from marl.envs.tensor_world import Moved, TensorWorld
from marl.errors import UserError
from marl.evaluation.runner import run_policy
from marl.scenario import baselines_of, load_scenario
from marl.seeding import Stream, uniform
from marl.testing import TinyWorld, check_batched

CPU = torch.device("cpu")


class Leaky(TensorWorld):
    """Three buckets fill at random and can be emptied; one that flows over is out. Paid: what was poured away."""

    def __init__(self, copies: int, device: torch.device | str = CPU):
        spec = EnvSpec(
            agents=("a", "b", "c"),
            groups={"bucket": (0, 1, 2)},
            observation_space={"bucket": spaces.Box(0.0, 1.0, (1,), np.float32)},
            action_space={"bucket": spaces.Discrete(2)},
            state_space=None,
            horizon=7,
            metrics={"poured": Metric("1", "higher")},
            primary_metric="poured",
        )
        super().__init__(spec, copies, device)
        self.keep(level=torch.zeros(copies, 3, device=self.device), poured=torch.zeros(copies, device=self.device))

    def begin(self, mask: Tensor) -> None:
        self.renew(mask, level=0.5 * uniform(self.draw(Stream.WORLD, torch.arange(3, device=self.device))), poured=0.0)

    def move(self, actions: Tensor) -> Moved:
        emptied = torch.where(actions == 1, self.level, 0.0)
        rain = uniform(self.draw(Stream.WORLD + 1, 3 * self.time.unsqueeze(1) + torch.arange(3, device=self.device)))
        self.level = self.level - emptied + 0.4 * rain
        over = self.level > 1.0
        self.level = self.level.clamp(max=1.0)
        self.poured = self.poured + (emptied * self.alive).sum(1)
        return Moved(emptied, over)

    def observe(self, who: Tensor) -> Tensor:
        return (self.level * who).unsqueeze(-1)

    def measure(self) -> dict[str, Tensor]:
        return {"poured": self.poured}


def test_a_world_of_rules_alone_conforms() -> None:
    report = check_batched(lambda copies: Leaky(copies), steps=30, batches=(1, 3, 5))
    assert not report.findings, str(report)


def test_agents_end_alone_and_the_episode_with_the_last_or_at_the_horizon() -> None:
    world = Leaky(1)
    world.reset(0)
    world.level = torch.tensor([[1.0, 0.0, 0.0]])
    first = world.step(torch.zeros(1, 3, dtype=torch.int64))
    assert first.terminated.tolist() == [[True, False, False]] and first.alive.tolist() == [[False, True, True]]
    assert first.final is not None and first.final.observation[0, 0, 0] == 1.0 and not first.done
    second = world.step(torch.ones(1, 3, dtype=torch.int64))
    assert second.reward[0, 0] == 0.0  # poured by somebody who is out
    for _ in range(5):
        last = world.step(torch.ones(1, 3, dtype=torch.int64))
    assert last.truncated.tolist() == [[False, True, True]] and bool(last.done) and world.time.tolist() == [0]
    assert last.alive.all() and world.episode.tolist() == [1] and last.metrics["poured"] > 0


def test_keys_by_copy_and_counter() -> None:
    world = Leaky(3)
    world.reset(4)
    each = world.draw(Stream.WORLD, torch.arange(2))
    assert world.draw(Stream.WORLD, 1).tolist() == each[:, 1].tolist()
    assert torch.equal(world.draw(Stream.WORLD, torch.tensor([[1], [0], [1]]))[:, 0], each[range(3), [1, 0, 1]])
    assert len(set(each.flatten().tolist())) == 6


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        (lambda r: r[:, 0], r"a reward that is float32 \(2,\): give float32 \(2, 3\), one number for each agent"),
        (lambda r: r.double(), r"a reward that is float64 \(2, 3\)"),
        (lambda r: None, r"a reward that is a NoneType"),
        (lambda r: Moved(r, r[:, 0] > 2), r"terminated that is bool \(2,\): give bool \(2, 3\), or \(2, 1\)"),
        (lambda r: Moved(r, r), r"terminated that is float32 \(2, 3\)"),
    ],
)
def test_what_move_returns_is_looked_at(moved: Any, message: str) -> None:
    class Odd(Leaky):
        def move(self, actions: Tensor) -> Any:
            return moved(torch.zeros(2, 3))

    world = Odd(2)
    world.reset(0)
    with pytest.raises(UserError, match=message):
        world.step(torch.zeros(2, 3, dtype=torch.int64))


def test_a_tensor_without_copies_cannot_be_kept() -> None:
    with pytest.raises(UserError, match=r"keep\(field=...\) got a tensor of shape \(9, 9\): .* the 2 copies"):
        Leaky(2).keep(field=torch.zeros(9, 9))


def changed(**fields: Any) -> type[TinyWorld]:
    """A world whose every time step has other fields."""

    class Changed(TinyWorld):
        def _view(self, view: TimeStep) -> TimeStep:
            return view._replace(**{name: change(getattr(view, name)) for name, change in fields.items()})

        def reset(self, seed: Any, mask: Any = None) -> TimeStep:
            return self._view(super().reset(seed, mask))

        def step(self, actions: Any) -> TimeStep:
            return self._view(super().step(actions))

    return Changed


MISTAKES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"reward": lambda r: r[:, 0]}, r"reward is float32 \[2\], not float32 \[2, 3\]"),
    ({}, {"observation": lambda o: o.double()}, r"observation is float64 \[2, 3, 3\], not float32 \[2, 3, 3\]"),
    ({}, {"observation": lambda o: o[..., :2]}, r"observation is float32 \[2, 3, 2\], not float32 \[2, 3, 3\]"),
    (
        {"observation": "dict"},
        {"observation": lambda o: {"place": o["place"]}},
        "observation is a dict of place, not",
    ),
    ({"unlike": True}, {"observation": lambda o: o["walker"]}, "observation is a Tensor, not a dict with the groups"),
    (
        {"unlike": True},
        {"observation": lambda o: {**o, "jumper": o["walker"]}},
        r"observation\['jumper'\] is float32 \[2, 2, 3\], not float32 \[2, 1, 4\]",
    ),
    ({}, {"alive": lambda a: a.float()}, r"alive is float32 \[2, 3\], not bool \[2, 3\]"),
    ({}, {"done": lambda d: d.tolist()}, r"done is a list, not bool \[2\]"),
    ({}, {"state": lambda s: None}, "state is missing, but not state_space"),
    ({"state": "none"}, {"state": lambda s: torch.zeros(2)}, "state is given, but not state_space"),
    ({"masks": True}, {"action_mask": lambda m: m[..., :2]}, r"action_mask is bool \[2, 3, 2\], not bool \[2, 3, 3\]"),
    ({}, {"metrics": lambda m: {}}, "the metric 'length_steps' is missing: EnvSpec.metrics names it"),
    ({}, {"metrics": lambda m: {**m, "x": m["return"]}}, "the metric 'x' is odd: EnvSpec.metrics does not name it"),
    ({}, {"metrics": lambda m: {**m, "return": m["return"][0]}}, r"the metric 'return' is float32 \[\], not"),
]


@pytest.mark.parametrize(("options", "fields", "message"), MISTAKES)
def test_the_first_time_step_is_compared_with_the_spec(options: Any, fields: Any, message: str) -> None:
    world = changed(**fields)(2, 3, **options)
    with pytest.raises(UserError, match=message):
        check_form(world, world.reset(0))
    pipeline = Pipeline(world, CoordinationConfig.model_validate({"guidance": {"enabled": False}}))
    with pytest.raises(UserError, match=message):
        pipeline.view(world.reset(0))

    class Still:
        def act(self, timestep: TimeStep) -> Any:
            return random_actions(TinyWorld(2, 3, **options), timestep)

    with pytest.raises(UserError, match=message):
        run_policy(world, Still(), torch.tensor([0, 1]), 1)


def test_the_first_step_too_and_only_the_first() -> None:
    class Later(TinyWorld):
        def step(self, actions: Any) -> TimeStep:
            out = super().step(actions)
            return out._replace(reward=out.reward.double())

    world = Later(2, 3)
    pipeline = Pipeline(world, CoordinationConfig.model_validate({"guidance": {"enabled": False}}))
    view = pipeline.view(world.reset(0))
    with pytest.raises(UserError, match="reward is float64"):
        pipeline.view(world.step(random_actions(world, view)))
    world.spec = dataclasses.replace(world.spec, metrics={})
    pipeline.view(view)


class Mixed(TensorWorld):
    """One agent of each kind of action; a MultiDiscrete with a mask among them."""

    SPACES: ClassVar[dict[str, spaces.Space[Any]]] = {
        "choice": spaces.Discrete(3),
        "several": spaces.MultiDiscrete([2, 4]),
        "bits": spaces.MultiBinary(3),
        "near": spaces.Box(-1.0, 1.0, (2,), np.float32),
        "far": spaces.Box(50.0, 100.0, (1,), np.float32),
        "any": spaces.Box(-np.inf, np.inf, (1,), np.float32),
        "half": spaces.Box(200.0, np.inf, (1,), np.float32),
    }

    def __init__(self, copies: int):
        names = list(self.SPACES)
        spec = EnvSpec(
            agents=tuple(names),
            groups={name: (slot,) for slot, name in enumerate(names)},
            observation_space={name: spaces.Box(0.0, 1.0, (1,), np.float32) for name in names},
            action_space=self.SPACES,
            state_space=None,
            horizon=9,
        )
        super().__init__(spec, copies)

    def begin(self, mask: Tensor) -> None:
        pass

    def move(self, actions: Any) -> Tensor:
        return torch.zeros(self.copies, self.spec.n_agents)

    def observe(self, who: Tensor) -> Any:
        return {name: torch.zeros(self.copies, 1, 1) for name in self.SPACES}

    def action_mask(self) -> Any:
        legal = torch.tensor([False, True, False, False, True, True])
        return {"several": legal.expand(self.copies, 1, 6), "choice": legal[:3].expand(self.copies, 1, 3)}


def test_the_random_policy_plays_every_kind_of_action() -> None:
    world = Mixed(64)
    assert not check_batched(lambda copies: Mixed(copies), steps=12, batches=(1, 2)).errors
    actions = RandomPolicy(world).act(world.reset(0))
    assert actions["choice"].unique().tolist() == [1]
    assert actions["several"][..., 0].unique().tolist() == [1] and actions["several"][..., 1].unique().tolist() == [
        2,
        3,
    ]
    assert sorted(actions["bits"].unique().tolist()) == [0, 1] and actions["bits"].shape == (64, 1, 3)
    for name, low, high in (("near", -1, 1), ("far", 50, 100), ("any", -10, 10), ("half", 200, 210)):
        drawn = actions[name]
        assert low <= drawn.min() < low + 0.3 * (high - low) and high - 0.3 * (high - low) < drawn.max() <= high, name


def test_the_random_policy_is_in_every_scenario_and_a_scenario_may_have_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert baselines_of(TINY)["random"] is RandomPolicy
    grids = load_scenario("lifelong_mapf")
    assert baselines_of(grids)["random"] is grids.baselines["random"]
    for scenario in ("tiny_scenario:TINY", "agent_hierarchy"):
        results = api.evaluate(scenario, ["random"], seeds=range(4))
        assert {row.policy for row in results.rows} == {"random"}
    hierarchy = api.make("agent_hierarchy")
    monkeypatch.setattr(type(hierarchy), "speech_only", "it takes words alone")
    with pytest.raises(UserError, match="it takes words alone"):
        RandomPolicy(hierarchy)
