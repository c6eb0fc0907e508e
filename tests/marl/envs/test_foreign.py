from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from black_death import BlackDeath
from face_factories import tiny_face
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper
from simulators import Fragile, Gambler, Herd, Unbounded, Wordy

from marl.envs.batched import Snapshots
from marl.envs.pettingzoo import ParallelFace, from_parallel
from marl.envs.random_play import random_actions
from marl.errors import UserError
from marl.testing import TinyWorld, check_batched, check_parallel
from marl.testing.probes import global_generators
from marl.testing.tensors import first_difference


def test_the_herd_is_itself_correct() -> None:
    assert not check_parallel(lambda: Herd(), steps=60).findings


class Fallible(ParallelEnv[str, Any, int]):
    """Ann falls at step ``falls``, alone; all are truncated, or at the limit terminated, after ``limit`` steps."""

    metadata: ClassVar[dict[str, Any]] = {"name": "fallible"}
    possible_agents: ClassVar[list[str]] = ["ann", "bob"]

    def __init__(self, falls: int = 2, limit: int = 4, terminates: bool = False, declared: bool = True):
        self.agents: list[str] = []
        self._falls, self._limit, self._terminates = falls, limit, terminates
        self._seen, self._acts = spaces.Box(0.0, 99.0, (3,), np.float32), spaces.Discrete(2)
        if declared:
            self.max_cycles = limit

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._seen

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self._acts

    def state(self) -> Any:
        if self._time == self._falls:
            raise AttributeError("she has no position")
        return np.zeros(1, np.float32)

    def _look(self) -> dict[str, Any]:
        return {agent: np.full(3, self._time, np.float32) for agent in self.agents}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents, self._time = ["ann", "bob"], 0
        return self._look(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        self._time += 1
        live, seen = list(self.agents), self._look()
        over = self._time == self._limit
        terminated = {a: (a == "ann" and self._time == self._falls) or (over and self._terminates) for a in live}
        truncated = {a: over and not terminated[a] for a in live}
        self.agents = [a for a in live if not (terminated[a] or truncated[a])]
        return seen, dict.fromkeys(live, 0.0), terminated, truncated, {a: {} for a in live}


def ends_of(factory: Any, steps: int = 6, **options: Any) -> list[tuple[list[bool], list[bool], bool, float]]:
    """(terminated, truncated, done, last view of Bob) of each step, until the episode ends."""
    world = from_parallel(factory, 1, workers=0, state=False, **options)
    world.reset(0)
    out = []
    for _ in range(steps):
        view = world.step(torch.zeros(1, 2, dtype=torch.int64))
        last = float(view.final.observation[0, 1, 0]) if view.final is not None else -1.0
        out.append((view.terminated[0].tolist(), view.truncated[0].tolist(), bool(view.done[0]), last))
        if out[-1][2]:
            break
    return out


@pytest.mark.parametrize("declared", [True, False])
def test_what_black_death_tells_late_is_read_in_time(declared: bool) -> None:
    """Of a fallen agent the wrapper says nothing until the end; what the ends were the environment inside said."""
    ends = ends_of(lambda: BlackDeath(Fallible(declared=declared)), horizon=None if declared else 50)
    assert [end[:3] for end in ends[:3]] == [([False, False], [False, False], False)] * 3
    assert ends[3:] == [([True, False], [False, True], True, 4.0)]


def test_both_flags_of_a_wrapper_are_told_apart_by_the_environment_inside() -> None:
    class Both(BaseParallelWrapper):
        def step(self, actions: Any) -> Any:
            seen, rewards, terminated, truncated, infos = super().step(actions)
            both = {agent: terminated[agent] or truncated[agent] for agent in terminated}
            return seen, rewards, both, both, infos

    assert [end[:2] for end in ends_of(lambda: Both(Fallible(declared=False)), horizon=50)] == [
        ([False, False], [False, False]),
        ([True, False], [False, False]),
        ([False, False], [False, False]),
        ([False, False], [False, True]),
    ]


@pytest.mark.parametrize("truncate", [False, True])
def test_a_time_limit_that_is_called_termination_is_a_truncation_if_the_caller_says_so(truncate: bool) -> None:
    ends = ends_of(lambda: Fallible(falls=2, terminates=True), truncate_at_horizon=truncate)
    assert ends[1][:2] == ([True, False], [False, False])
    assert ends[3][:2] == ([False, not truncate], [False, truncate])


def test_a_state_that_raises_is_named_and_can_be_done_without() -> None:
    world = from_parallel(lambda: Fallible(falls=2), 1, workers=0)
    world.step(random_actions(world, world.reset(0)))
    with pytest.raises(UserError, match=r"state\(\) of .* AttributeError: she has no position; .*state=False"):
        world.step(torch.zeros(1, 2, dtype=torch.int64))
    assert from_parallel(lambda: Fallible(), 1, workers=0, state=False).spec.state_space is None
    assert len(ends_of(lambda: Fallible())) == 4


def test_who_waits_for_a_turn_has_one_action() -> None:
    class InTurns(Fallible):
        def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            return self._masked(super().reset(seed))

        def step(self, actions: dict[str, int]) -> Any:
            assert all(actions[agent] == 0 for number, agent in enumerate(self.agents) if self._time % 2 != number)
            return self._masked(super().step(actions))

        def _masked(self, returned: Any) -> Any:
            for number, agent in enumerate(returned[-1]):
                returned[-1][agent] = {"action_mask": np.full(2, self._time % 2 == number, np.int8)}
            return returned

    world = from_parallel(lambda: InTurns(falls=99), 2, workers=0)
    view = world.reset(0)
    for t in range(12):
        turn = t % 4 % 2
        assert view.action_mask[:, turn].all() and view.action_mask[:, 1 - turn].tolist() == [[True, False]] * 2
        view = world.step(random_actions(world, view))


def test_global_random_numbers_are_each_copy_s_own() -> None:
    """An environment that draws from the process's generators becomes a function of its seed, in any company."""
    assert "nondeterministic" in check_parallel(lambda: Gambler(), steps=30).faults
    for workers in (0, None):
        report = check_batched(
            lambda copies, workers=workers: from_parallel(Gambler, copies, workers=workers, deterministic=True),
            steps=15,
            batches=(1, 2, 3),
        )
        assert report.faults <= {"seed-ignored"}, str(report)


def test_the_process_keeps_its_random_numbers() -> None:
    with global_generators(4) as used:
        world = from_parallel(Gambler, 2, workers=0)
        world.step(random_actions(world, world.reset(0)))
        world.close()
    assert used == []


def test_spec() -> None:
    world = from_parallel(Herd, 2, workers=0)
    assert world.spec.agents == ("cow_0", "dog_0", "cow_1")
    assert world.spec.groups == {"cow": (0, 2), "dog": (1,)}
    assert world.spec.observation_space["cow"].shape == (2,)
    assert world.spec.horizon == 10
    assert not isinstance(world, Snapshots)
    assert isinstance(from_parallel(Herd, 1, workers=0, deterministic=True), Snapshots)


def test_it_is_the_foreign_environment_step_by_step() -> None:
    world, env = from_parallel(Herd, 1, workers=0), Herd()
    view = world.reset(5)
    seed = int(world.pool.seeds[0])  # type: ignore[attr-defined]
    env.reset(seed=seed)
    for t in range(1, 11):
        actions = random_actions(world, view)
        live = list(env.agents)
        chosen = {
            "cow_0": np.int64(actions["cow"][0, 0] + 1),
            "cow_1": np.int64(actions["cow"][0, 1] + 1),
            "dog_0": actions["dog"][0, 0].numpy(),
        }
        seen, rewards, terminated, truncated, _ = env.step({agent: chosen[agent] for agent in live})
        state = env.state()
        view = world.step(actions)
        for slot, agent in enumerate(world.spec.agents):
            assert view.reward[0, slot] == np.float32(rewards[agent] if agent in live else 0.0)
            assert view.terminated[0, slot] == (agent in live and terminated[agent])
            assert view.truncated[0, slot] == (agent in live and truncated[agent])
        if not env.agents:
            assert view.done[0] and view.final is not None
            assert view.final.state[0].tolist() == state.tolist()
            assert view.metrics["length_steps"].tolist() == [float(t)]
            return
        assert view.alive[0].tolist() == [agent in env.agents for agent in world.spec.agents]
        if "cow_0" in env.agents:
            assert view.observation["cow"][0, 0].tolist() == seen["cow_0"]["observation"].tolist()
        if "cow_1" in env.agents:
            assert view.action_mask["cow"][0, 1].tolist() == seen["cow_1"]["action_mask"].astype(bool).tolist()
        assert view.state[0].tolist() == state.tolist()
    raise AssertionError("the episode did not end")


def test_the_batched_herd_conforms() -> None:
    report = check_batched(
        lambda copies: from_parallel(Herd, copies, workers=0, deterministic=True), steps=24, batches=(1, 2, 3)
    )
    assert not report.findings, str(report)


def test_workers_do_not_change_it() -> None:
    worlds = [from_parallel(Herd, 3, workers=0, deterministic=True)]
    worlds.append(from_parallel("simulators:Herd", 3, workers=2, deterministic=True))
    views = [world.reset(3) for world in worlds]
    index = torch.arange(3)
    for _ in range(25):
        assert first_difference(*views, worlds[0].spec, index, index) is None
        views = [world.step(random_actions(world, view)) for world, view in zip(worlds, views, strict=True)]
    snapshot = worlds[1].snapshot()  # type: ignore[attr-defined]
    worlds[0].reset(77)
    worlds[0].restore(snapshot, torch.tensor([2, 2]), torch.tensor([0, 1]))  # type: ignore[attr-defined]
    ours, theirs = torch.tensor([0, 1]), torch.tensor([2, 2])
    views[0] = worlds[0].current()  # type: ignore[attr-defined]
    for _ in range(12):
        views = [world.step(random_actions(world, view)) for world, view in zip(worlds, views, strict=True)]
        assert first_difference(*views, worlds[0].spec, ours, theirs) is None
    for world in worlds:
        world.close()
        world.close()


def test_there_and_back_again() -> None:
    """A batched world, its PettingZoo face, and that face batched: the flags, rewards and lives are the same."""
    report = check_batched(lambda copies: from_parallel(tiny_face, copies, workers=0), steps=12, batches=(1, 2))
    assert not report.findings, str(report)
    world = from_parallel(tiny_face, 1, workers=0)
    view = world.reset(0)
    plain = TinyWorld(1, 3, horizon=8, unlike=True, masks=True, mortal=True, observation="dict", slip=0.1)
    other = plain.reset(int(world.pool.seeds[0]))  # type: ignore[attr-defined]
    for _ in range(8):
        actions = random_actions(world, view)
        view = world.step(actions)
        other = plain.step({"walker": actions["group_0"], "jumper": actions["group_1"]})
        for name in ("reward", "terminated", "truncated", "done"):
            assert torch.equal(getattr(view, name), getattr(other, name)), name
        if bool(other.done):
            return
        assert torch.equal(view.alive, other.alive)


def test_a_lost_episode_is_truncated_and_counted(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    world = from_parallel(partial(Fragile, str(trap)), 2, workers=2)
    view = world.reset(0)
    for _ in range(2):
        view = world.step(random_actions(world, view))
    before = view
    trap.touch()
    view = world.step(random_actions(world, view))
    (lost,) = torch.nonzero(view.metrics["lost"]).flatten().tolist()
    assert view.done[lost] and not view.terminated[lost].any()
    assert torch.equal(view.truncated[lost], before.alive[lost])
    assert view.final is not None and torch.equal(view.final.observation["cow"][lost], before.observation["cow"][lost])
    assert torch.equal(view.final.state[lost], before.state[lost])
    assert world.restarts == 1  # type: ignore[attr-defined]
    assert not world.step(random_actions(world, view)).metrics["lost"].any()
    world.close()


def test_a_worker_killed_during_a_replay_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    world = from_parallel(Herd, 1, workers=1, deterministic=True)
    view = world.reset(0)
    world.step(random_actions(world, view))
    os.kill(world.pool.pids[0], signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="failed while an episode was replayed"):
        world.restore(world.snapshot())  # type: ignore[attr-defined]
    world.close()


def test_what_cannot_be_batched_is_one_sentence() -> None:
    with pytest.raises(UserError, match="give horizon=STEPS"):
        from_parallel(Unbounded, 1, workers=0)
    assert from_parallel(Unbounded, 1, workers=0, horizon=4).spec.horizon == 4
    with pytest.raises(UserError, match="fixed shape"):
        from_parallel(Wordy, 1, workers=0)
    with pytest.raises(UserError, match="possible_agents"):
        from_parallel(lambda: ParallelFace(TinyWorld(1), newcomers=True), 1, workers=0)


def test_a_given_horizon_truncates() -> None:
    world = from_parallel(Unbounded, 2, workers=0, horizon=3)
    view = world.reset(0)
    for t in range(1, 7):
        alive = view.alive
        view = world.step(random_actions(world, view))
        assert bool((view.truncated[view.done] | view.terminated[view.done] | ~alive[view.done]).all())
        assert bool(view.done.all()) == (t % 3 == 0)
