"""The collector's batch: true successors, cuts and masks, checked against the world itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from marl.config import CoordinationConfig
from marl.coordination.pipeline import Pipeline
from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.policies.config import DEFAULT_NETWORK
from marl.policies.joint import JointPolicy
from marl.rollout.batch import Batch, stretches
from marl.rollout.collector import Collector, EpisodeMeans
from marl.testing.worlds import TinyWorld

OFF = CoordinationConfig.model_validate({"guidance": {"enabled": False}})


class StateSum:
    """A critic whose value of an agent is the sum of its share of the state."""

    def initial_hidden(self, copies: int) -> dict[str, Tensor]:
        return {}

    def value(
        self, observation: Tree, state: Tree | None, alive: Tensor, hidden: dict[str, Tensor], start: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(state, Tensor)
        return state.sum(-1), {}


class Recording(BatchedEnv):
    """Passes everything on and remembers what the world returned."""

    def __init__(self, env: TinyWorld):
        self.env, self.spec, self.copies, self.device = env, env.spec, env.copies, env.device
        self.steps: list[TimeStep] = []

    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        self.steps = [self.env.reset(seed, mask)]
        return self.steps[0]

    def step(self, actions: Tree) -> TimeStep:
        self.steps.append(self.env.step(actions))
        return self.steps[-1]


class Relieving(Recording):
    """In step 5 another agent takes slot 1 of copy 2 over, which the world does not call an end."""

    def step(self, actions: Tree) -> TimeStep:
        after = self.env.step(actions)
        agent_id = after.agent_id.clone()
        agent_id[2, 1] += 100 * (len(self.steps) >= 5)
        self.steps.append(after._replace(agent_id=agent_id))
        return self.steps[-1]


def collected(steps: int, recording: type[Recording] = Recording, **options: object) -> tuple[Batch, list[TimeStep]]:
    env = recording(TinyWorld(4, 3, **options))  # type: ignore[arg-type]
    pipeline = Pipeline(env, OFF)
    policy = JointPolicy(
        env.spec, pipeline.observation_space, DEFAULT_NETWORK, generator=torch.Generator().manual_seed(0)
    )
    collector = Collector(pipeline, policy, StateSum())
    collector.reset(0)
    batch, episodes = collector.collect(steps)
    assert episodes.count == sum(int(step.done.sum()) for step in env.steps)
    return batch, env.steps


def test_next_value_is_that_of_the_final_state_where_an_episode_was_truncated() -> None:
    batch, steps = collected(10, horizon=4)
    for t in range(10):
        after = steps[t + 1]
        expected = after.state.sum(-1)
        if after.final is not None:
            ended = after.terminated | after.truncated
            expected = torch.where(ended, after.final.state.sum(-1), expected)
        assert torch.equal(batch.next_value[t], expected)
        assert torch.equal(batch.cut[t], torch.full((4, 3), (t + 1) % 4 == 0))
        assert not batch.terminated[t].any()
        assert torch.equal(batch.start[t], torch.full((4, 3), t % 4 == 0))


def test_means_of_episodes_by_hand() -> None:
    """What is not done is not looked at, and figures may be read in between."""
    step = TinyWorld(2, 1).reset(0)
    episodes, counts = EpisodeMeans(), []
    assert (episodes.count, episodes.means()) == (0, {})
    for done, first, second in (
        ([0, 0], [9, 9], [9, 9]),
        ([0, 1], [float("nan"), 1], [9, 4]),
        ([1, 1], [2, 6], [0, 5]),
    ):
        metrics = {"a": torch.tensor(first).float(), "b": torch.tensor(second).float()}
        episodes.add(step._replace(done=torch.tensor(done).bool(), metrics=metrics))
        counts.append(episodes.count)
    assert counts == [0, 1, 3] and episodes.means() == {"a": 3.0, "b": 3.0}


def test_agents_that_die_are_masked_and_their_successors_start_anew() -> None:
    batch, steps = collected(24, horizon=12, mortal=True, refill=2)
    for t in range(24):
        assert torch.equal(batch.mask[t], steps[t].alive)
        assert torch.equal(batch.terminated[t], steps[t + 1].terminated)
        new = (steps[t].agent_id != steps[t - 1].agent_id) | steps[t].done.unsqueeze(1) if t else torch.ones(4, 3) > 0
        assert torch.equal(batch.start[t], new)
    assert batch.terminated.any() and not batch.mask.all()


def test_the_trace_stops_where_another_agent_takes_a_slot_over() -> None:
    batch, _ = collected(8, Relieving, horizon=20)
    cut, start = torch.zeros(8, 4, 3, dtype=torch.bool), torch.zeros(8, 4, 3, dtype=torch.bool)
    cut[4, 2, 1] = start[5, 2, 1] = True
    start[0] = True
    assert torch.equal(batch.cut, cut) and torch.equal(batch.start, start)
    assert not batch.terminated.any() and batch.mask.all()


def test_stretches_keep_steps_together() -> None:
    """T = 4, B = 2, L = 2: rows are (steps 0-1, copy 0), (0-1, copy 1), (2-3, copy 0), (2-3, copy 1)."""
    x = torch.arange(8).view(4, 2)
    assert stretches(x, 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert stretches(x, 1).tolist() == [list(range(8))]


class Terminating(Recording):
    """What ends an episode is the agents' own doing, not the clock."""

    def step(self, actions: Tree) -> TimeStep:
        after = self.env.step(actions)
        never = torch.zeros_like(after.truncated)
        self.steps.append(after._replace(terminated=after.truncated, truncated=never))
        return self.steps[-1]


def test_a_last_state_is_judged_only_where_somebody_was_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after a termination is worth nothing, so that the critic need not be asked."""
    asked = []
    value = StateSum.value

    def counted(self: StateSum, *arguments: Any) -> Any:
        asked.append(1)
        return value(self, *arguments)

    monkeypatch.setattr(StateSum, "value", counted)
    for recording, ends in ((Recording, 2), (Terminating, 0)):
        asked.clear()
        batch, steps = collected(10, recording, horizon=4)
        assert sum(step.final is not None for step in steps) == 2
        assert bool(batch.terminated.any()) is (recording is Terminating)
        assert len(asked) == 10 + 1 + ends  # each step, what follows the last, and the ends


class Leaving(Relieving):
    """In step 5 of copy 2 the episode is over as well, though the world calls it no agent's end."""

    def step(self, actions: Tree) -> TimeStep:
        after = super().step(actions)
        done = after.done.clone()
        done[2] |= len(self.steps) == 6
        self.steps[-1] = after._replace(done=done)
        return self.steps[-1]


def test_the_trace_stops_at_the_end_of_an_episode_whoever_comes_next() -> None:
    batch, _ = collected(8, Leaving, horizon=20)
    cut = torch.zeros(8, 4, 3, dtype=torch.bool)
    cut[4, 2] = True
    assert torch.equal(batch.cut, cut) and not batch.terminated.any()
