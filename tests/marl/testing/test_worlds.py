from __future__ import annotations

import pytest
import torch

from marl.envs.batched import Snapshots
from marl.testing.worlds import TinyWorld, walk_to_goal


def test_one_step_by_hand() -> None:
    world = TinyWorld(1, 2, length=5, horizon=4)
    world.reset(0)
    world.position, world.goal = torch.tensor([[0.0, 3.0]]), torch.tensor([[2.0, 0.0]])
    out = world.step(torch.tensor([[2, 0]]))  # The first moves right, the second stays: distances 1 and 3 of 4.
    assert out.reward.tolist() == [[-0.5, -0.5]]
    assert out.observation.tolist() == [[[0.25, 0.25, 0.75], [-0.75, 0.75, 0.75]]]
    assert out.state.tolist() == [[[0.25, 0.25, 1.0, 0.75, 0.5], [-0.75, 0.75, 1.0, 0.75, 0.5]]]


def test_the_ends_of_the_line_hold_and_are_masked() -> None:
    world = TinyWorld(1, 2, length=5, unlike=True, masks=True)
    world.reset(0)
    world.position = torch.tensor([[0.0, 3.0]])
    out = world.current()
    assert out.action_mask["walker"].tolist() == [[[True, False, True]]]
    assert out.action_mask["jumper"].tolist() == [[[True, True, True, True, False]]]
    world.step({"walker": torch.tensor([[1]]), "jumper": torch.tensor([[4]])})
    assert world.position.tolist() == [[0.0, 4.0]]


def test_time_is_a_truncation_and_arrival_a_termination() -> None:
    world = TinyWorld(8, 2, horizon=16, terminates=True)
    out = world.reset(3)
    assert not bool((world.position == world.goal).any())
    for _ in range(9):
        out = world.step(walk_to_goal(out))
        if bool(out.done.any()):
            assert bool(out.terminated[out.done].all()) and not bool(out.truncated.any())
            assert out.metrics["reached_share"][out.done].tolist() == [1.0] * int(out.done.sum())
    still = TinyWorld(2, 2, horizon=3)
    still.reset(0)
    flags = [still.step(torch.zeros(2, 2, dtype=torch.int64)).truncated.all().item() for _ in range(6)]
    assert flags == [False, False, True, False, False, True]


def test_walking_to_the_goal_is_best() -> None:
    world = TinyWorld(64, 2)
    returns = []
    for policy in (walk_to_goal, lambda out: torch.zeros_like(out.agent_id)):
        out = world.reset(0)
        for _ in range(16):
            out = world.step(policy(out))
        returns.append(float(out.metrics["return"].mean()))
    assert returns[0] > returns[1] + 3


def test_a_refilled_slot_has_a_new_agent() -> None:
    world = TinyWorld(16, 3, horizon=30, mortal=True, refill=2)
    out = world.reset(0)
    refilled = 0
    for _ in range(29):
        before, out = out, world.step(torch.zeros(16, 3, dtype=torch.int64))
        fresh = out.alive & ~before.alive & ~out.done.unsqueeze(1)
        assert bool((out.agent_id[fresh] == before.agent_id[fresh] + 3).all())
        refilled += int(fresh.sum())
    assert refilled > 10


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="no masks"):
        TinyWorld(1, masks=True, continuous=True)
    with pytest.raises(ValueError, match="at least two agents"):
        TinyWorld(1, 1, unlike=True)
    assert isinstance(TinyWorld(1), Snapshots)
