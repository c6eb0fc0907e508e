"""Joint moves, goals and views: hand-made cases, and the compiled form against plain torch."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mapf_play import leaves, random_actions

from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.generators import MazeMap, RandomMap
from scenarios.lifelong_mapf.maps.grid import GridMap
from scenarios.lifelong_mapf.state import Goals
from scenarios.lifelong_mapf.step.kernels import draw_goal
from scenarios.lifelong_mapf.step.pool import MapPool
from scenarios.lifelong_mapf.step.reference import draw_goal as draw_goal_torch
from scenarios.lifelong_mapf.world import LifelongMapf

STAY, UP, DOWN, LEFT, RIGHT = range(5)

# On an open 3 x 3 grid (cells 0 to 8): positions, actions, and the positions after the step by collision system.
CASES = {
    "rotation of four": (
        [0, 1, 4, 3],
        [RIGHT, DOWN, LEFT, UP],
        {"soft": [1, 4, 3, 0], "priority": [0, 1, 4, 3], "block_both": [0, 1, 4, 3]},
    ),
    "the leader moves before its follower": (
        [1, 0],
        [RIGHT, RIGHT],
        {"soft": [2, 1], "priority": [2, 1], "block_both": [2, 0]},
    ),
    "the follower asks before its leader": (
        [0, 1],
        [RIGHT, RIGHT],
        {"soft": [1, 2], "priority": [0, 2], "block_both": [0, 2]},
    ),
    "exchange of places": (
        [0, 1],
        [RIGHT, LEFT],
        {"soft": [0, 1], "priority": [0, 1], "block_both": [0, 1]},
    ),
    "an empty cell that two want": (
        [0, 2],
        [RIGHT, LEFT],
        {"soft": [1, 2], "priority": [1, 2], "block_both": [0, 2]},
    ),
    "an empty cell that three want": (
        [5, 1, 3],
        [LEFT, DOWN, RIGHT],
        {"soft": [4, 1, 3], "priority": [4, 1, 3], "block_both": [5, 1, 3]},
    ),
    "a wall stops the chain behind it": (
        [2, 1, 0],
        [RIGHT, RIGHT, RIGHT],
        {"soft": [2, 1, 0], "priority": [2, 1, 0], "block_both": [2, 1, 0]},
    ),
    "who loses a cell stops the chain behind": (
        [0, 4, 7],
        [RIGHT, UP, UP],
        {"soft": [1, 4, 7], "priority": [1, 4, 7], "block_both": [0, 4, 7]},
    ),
    "an exchange stops the chain behind it": (
        [0, 1, 3],
        [RIGHT, LEFT, UP],
        {"soft": [0, 1, 3], "priority": [0, 1, 3], "block_both": [0, 1, 3]},
    ),
    "a cell that is being left and two want": (
        [3, 4, 1],
        [RIGHT, RIGHT, DOWN],
        {"soft": [4, 5, 1], "priority": [3, 5, 4], "block_both": [3, 5, 1]},
    ),
}


def world_of(folder: Path, starts: list[int], collision: str, compiled: bool) -> LifelongMapf:
    (folder / "open.map").write_text("type octile\nheight 3\nwidth 3\nmap\n...\n...\n...\n")
    cells = [[cell // 3, cell % 3] for cell in starts]
    agents = [{"start": cell, "goals": [[2, 2] if cell != [2, 2] else [0, 0]]} for cell in cells]
    tasks = folder / "tasks.json"
    tasks.write_text(json.dumps({"schema_version": 1, "map": "open.map", "agents": agents}))
    return LifelongMapf(MapfConfig(tasks=str(tasks), collision=collision), 2, compiled=compiled)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("collision", ["soft", "priority", "block_both"])
@pytest.mark.parametrize("case", CASES)
def test_joint_moves_by_hand(tmp_path: Path, case: str, collision: str, compiled: bool) -> None:
    starts, actions, expected = CASES[case]
    world = world_of(tmp_path, starts, collision, compiled)
    world.reset(0)
    world.step(torch.tensor([actions, [STAY] * len(actions)]))
    assert world.position.tolist() == [expected[collision], starts]


@pytest.mark.parametrize("compiled", [True, False])
def test_moves_out_of_the_grid_are_stays(tmp_path: Path, compiled: bool) -> None:
    world = world_of(tmp_path, [0, 8], "soft", compiled)
    world.reset(0)
    for actions in ([UP, DOWN], [LEFT, RIGHT]):
        world.step(torch.tensor([actions, actions]))
        assert world.position.tolist() == [[0, 8], [0, 8]]


@pytest.mark.parametrize("on_target", ["restart", "nothing", "finish"])
@pytest.mark.parametrize("collision", ["soft", "priority", "block_both"])
@pytest.mark.parametrize("radius", [1, 5, 7])
def test_compiled_form_equals_torch_form(collision: str, on_target: str, radius: int) -> None:
    config = MapfConfig(
        generator=[RandomMap(height=7, width=18, density=0.2), MazeMap(size=9, openings=0.5)],
        map_pool=4,
        agents=30 if on_target != "nothing" else 2,
        collision=collision,
        on_target=on_target,
        radius=radius,
        horizon=25,
        pogema_observation_fault=radius == 7,
    )
    worlds = [LifelongMapf(config, 3, compiled=compiled) for compiled in (True, False)]
    steps = [world.reset(11) for world in worlds]
    for t in range(60):
        fast, plain = (leaves(step) for step in steps)
        assert fast.keys() == plain.keys()
        for name in fast:
            assert fast[name].dtype == plain[name].dtype, name
            assert torch.equal(fast[name], plain[name]), f"{name} at step {t}"
        states = [world.snapshot() for world in worlds]
        for name in states[0]:
            assert torch.equal(states[0][name], states[1][name]), f"{name} at step {t}"
        actions = random_actions(steps[0])
        steps = [world.step(actions) for world in worlds]


def test_refused_moves_are_those_that_others_prevented(tmp_path: Path) -> None:
    world = world_of(tmp_path, [0, 2, 6], "soft", True)
    world.reset(0)
    world.step(torch.tensor([[RIGHT, LEFT, LEFT]] * 2))  # agent 1 loses the cell, agent 2 runs into the border
    assert world.snapshot()["refused"].tolist() == [[False, True, False]] * 2
    assert world.snapshot()["refusals"].tolist() == [1, 1]


def goals_of(grid: GridMap) -> Goals:
    none = torch.zeros(1, 1, 0, dtype=torch.int32)
    return MapPool([grid]).goals(none, torch.zeros(1, 1, dtype=torch.int32))


def test_goals_are_uniform_over_the_other_goal_cells_of_the_component() -> None:
    free = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 0, 1, 1]], np.bool_)  # components {0, 1, 4, 8} and {3, 7, 10, 11}
    grid = GridMap("two", ~free, free, free & (np.arange(12).reshape(3, 4) != 1))  # cell 1 is no goal
    goals = goals_of(grid)
    arrays = Goals(*(table.numpy() for table in goals))
    for cell, others in ((0, {4, 8}), (1, {0, 4, 8}), (11, {3, 7, 10})):
        drawn = [int(draw_goal(arrays, np.int64(5), 0, cell, 0, k)) for k in range(600)]
        assert set(drawn) == others
        for goal in others:
            assert drawn.count(goal) == pytest.approx(600 / len(others), rel=0.25)


def test_goals_by_kernel_and_by_torch_are_the_same() -> None:
    goals = goals_of(RandomMap(size=9).generate(3))
    arrays = Goals(*(table.numpy() for table in goals))
    cells = goals.cells[0, :20].unsqueeze(0)
    key = torch.tensor([-123456789])
    drawn = draw_goal_torch(goals, key, torch.zeros(1, dtype=torch.int32), cells, torch.full_like(cells, 7))
    for agent, cell in enumerate(cells[0].tolist()):
        assert drawn[0, agent] == draw_goal(arrays, np.int64(-123456789), 0, cell, agent, 7)


def test_window_and_goal_by_hand(tmp_path: Path) -> None:
    (tmp_path / "l.map").write_text("type octile\nheight 2\nwidth 3\nmap\n..@\n...\n")
    agents = [{"start": [0, 0], "goals": [[1, 2]]}, {"start": [1, 1], "goals": [[0, 0]]}]
    tasks = tmp_path / "tasks.json"
    tasks.write_text(json.dumps({"schema_version": 1, "map": "l.map", "agents": agents}))
    world = LifelongMapf(MapfConfig(tasks=str(tasks), radius=2), 1)
    seen = world.reset(0).observation
    space = world.spec.observation_space["agents"]["window"]
    walls, others = space.unpack(seen["window"])[0, 0].tolist()
    assert walls == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 1], [0, 1, 0, 0, 1], [0, 1, 0, 0, 0], [0, 1, 1, 1, 1]]
    assert others == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    torch.testing.assert_close(seen["goal"][0], torch.tensor([[1 / 3, 2 / 4, 3 / 11], [-1 / 3, -1 / 3, 2 / 10]]))


def test_padding_to_a_common_grid_does_not_show() -> None:
    small, large = RandomMap(size=6), RandomMap(height=11, width=40)
    config = MapfConfig(generator=[small, large], map_pool=2, agents=4, radius=7, central_state=False)
    alone = MapfConfig(generator=[small], map_pool=1, agents=4, radius=7, central_state=False)
    mixed, single = LifelongMapf(config, 8), LifelongMapf(alone, 8)
    seen, expected = mixed.reset(0), single.reset(0)
    checked = 0
    for b in range(8):
        if mixed.map_index[b] == 0:
            assert torch.equal(seen.observation["window"][b, :, 0], expected.observation["window"][b, :, 0])
            assert torch.equal(seen.observation["goal"][b], expected.observation["goal"][b])
            checked += 1
    assert 0 < checked < 8


def test_central_state_is_within_its_space_and_counts_neighbours(tmp_path: Path) -> None:
    world = world_of(tmp_path, [4, 1, 5, 8], "soft", True)
    timestep = world.reset(0)
    state = timestep.state
    assert all(world.spec.state_space.contains(state[0, i].numpy()) for i in range(4))
    assert state[0, 0, 5:9].tolist() == [1, 1, 1, 1]  # free: all four moves from the centre
    assert state[0, 0, 9:13].tolist() == [1, 0, 0, 1]  # occupied: above and to the right
    assert state[0, 1, 5:9].tolist() == [0, 1, 1, 1]
    counts = state[0, 0, 13:22] * torch.tensor([16, 12, 16, 12, 9, 12, 16, 12, 16])  # blocks of 4, 3, 4 cells
    assert counts.tolist() == pytest.approx([0, 0, 0, 0, 4, 0, 0, 0, 0])
    assert state[0, 0, 31].item() == pytest.approx(4 / 9)
    world.step(torch.tensor([[UP, STAY, STAY, STAY]] * 2))
    assert world.current().state[0, :, 4].tolist() == [1, 0, 0, 0]


def test_an_illegal_action_is_refused_by_name(tmp_path: Path) -> None:
    world = world_of(tmp_path, [0, 8], "soft", True)
    world.reset(0)
    for bad in (-1, 5):
        with pytest.raises(ValueError, match="agent 1 in copy 1 is"):
            world.step(torch.tensor([[STAY, STAY], [STAY, bad]]))


def test_random_moves_never_collide() -> None:
    for collision, density in itertools.product(("soft", "priority", "block_both"), (0.0, 0.2)):
        config = MapfConfig(generator=RandomMap(size=9, density=density), map_pool=3, agents=25, collision=collision)
        world = LifelongMapf(config, 4)
        timestep = world.reset(0)
        for _ in range(80):
            before = world.position.clone()
            timestep = world.step(random_actions(timestep))
            for b in range(4):
                moves = list(zip(before[b].tolist(), world.position[b].tolist(), strict=True))
                assert len({after for _, after in moves}) == 25
                assert not any((after, cell) in moves for cell, after in moves if cell != after)
        assert world.snapshot()["collisions"].tolist() == [0] * 4
