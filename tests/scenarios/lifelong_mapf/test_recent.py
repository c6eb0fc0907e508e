"""What agents remember of the step before, by hand."""

from __future__ import annotations

import numpy as np
import torch
from mapf_play import random_actions
from stub_world import StubWorld

from marl.envs.spaces import BitWindow
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.views.recent import Recent
from scenarios.lifelong_mapf.world import LifelongMapf

RADIUS = 2


def shown(recent: Recent) -> tuple[np.ndarray, np.ndarray]:
    """Planes [N, 2, 5, 5] and past [N, 7] of the first copy."""
    features = recent.features()
    return BitWindow(2, 5, 5).unpack(features["before"])[0].numpy(), features["past"][0].numpy()


def cells(plane: np.ndarray) -> list[tuple[int, int]]:
    """The set cells as (rows, columns) from the agent."""
    return [(int(r) - RADIUS, int(c) - RADIUS) for r, c in np.argwhere(plane)]


def test_where_others_stood_and_what_became_of_the_own_move() -> None:
    """Agent 0 walks right, agent 1 is refused, agent 2 stands too far from agent 0 to be seen."""
    world = StubWorld([".......", "......."], [(0, 1), (0, 3), (0, 6)], [(1, 0)] * 3)
    world.refused = torch.zeros(1, 3, dtype=torch.bool)
    recent = Recent(world, RADIUS)
    recent.restart(np.array([True]))
    before, past = shown(recent)
    assert not before[:, 0].any() and not past.any()  # nothing has been seen yet
    assert cells(before[1, 1]) == [(0, -2)] and not before[0, 1].any()  # agent 0 has the lower number

    world.move(torch.tensor([[4, 0, 3]]))  # to columns 2, 3, 5
    world.refused[0, 1] = True
    recent.advance()
    before, past = shown(recent)
    assert cells(before[0, 0]) == [(0, 1)]  # agent 1 stood on column 3; column 6 was beyond the window
    assert cells(before[1, 0]) == [(0, -2)]  # agent 0 stood on column 1; column 6 was not within two columns
    assert not before[2, 0].any()  # from column 6 it saw columns 4 and 5 only
    assert cells(before[2, 1]) == [(0, -2)]
    assert past[0].tolist() == [0, 0, 0, 0, 1, 0, 0]
    np.testing.assert_allclose(past[1], [1, 0, 0, 0, 0, 1, 1 / 5])
    assert past[2].tolist() == [0, 0, 0, 1, 0, 0, 0]

    world.move(torch.tensor([[0, 0, 0]]))
    recent.advance()
    np.testing.assert_allclose(shown(recent)[1][:, -1], [1 / 5, 2 / 6, 1 / 5])


def test_snapshots_hold_the_memory() -> None:
    """A world that was put back shows and remembers the same."""
    config = MapfConfig(agents=12, map_pool=2, horizon=9, guidance={"kind": "follower", "recent": True})
    world = LifelongMapf(config, 3)
    world.enable_plan()
    timestep = world.reset(5)
    for _ in range(4):
        timestep = world.step(random_actions(timestep))
    saved, seen = world.snapshot(), {name: x.clone() for name, x in world.plan().features.items()}
    actions = random_actions(timestep)
    expected = [world.step(actions), world.plan().features]
    world.restore(saved)
    for name, feature in world.plan().features.items():
        assert torch.equal(feature, seen[name]), name
    world.step(actions)
    for name, feature in world.plan().features.items():
        assert torch.equal(feature, expected[1][name]), name
