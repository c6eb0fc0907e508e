"""Problems of the League of Robot Runners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from marl.api import configure
from marl.errors import UserError
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.lorr import given_goals, load_problem
from scenarios.lifelong_mapf.maps.tasks import load_tasks
from scenarios.lifelong_mapf.world import LifelongMapf

ROWS = (".E.S.", ".@.T.", ".....")


def problem(folder: Path, starts: list[Any], tasks: list[Any], **header: Any) -> Path:
    """Write a problem on the map of ``ROWS``; a header's key of None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hall.map").write_text("type octile\nheight 3\nwidth 5\nmap\n" + "\n".join(ROWS) + "\n")
    for name, values in (("hall.agents", starts), ("hall.tasks", tasks)):
        (folder / name).write_text("\n".join(map(str, ["# a comment", len(values), *values])) + "\n")
    values = {
        "mapFile": "hall.map",
        "agentFile": "hall.agents",
        "taskFile": "hall.tasks",
        "teamSize": len(starts),
        "numTasksReveal": 1,
        "taskAssignmentStrategy": "roundrobin",
    } | header
    path = folder / "p.json"
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return path


def test_robots_take_turns_at_the_tasks_without_end(tmp_path: Path) -> None:
    path = problem(tmp_path, [0, 4], [4, 0, 10])
    goals = given_goals(load_problem(path), horizon=1000)
    for robot, cells in enumerate(goals):
        assert cells[:4].tolist() == [[4, 0, 10][(2 * j + robot) % 3] for j in range(4)]
        # As many as could be reached: a task is at least as many steps away as cells.
        before = np.concatenate([[[0, 4][robot]], cells[:-1]])
        steps = np.maximum(abs(cells // 5 - before // 5) + abs(cells % 5 - before % 5), 1)
        assert steps[:-1].sum() < 1000 <= steps.sum()
    path = problem(tmp_path, [0, 4], [4, 0, 10], taskAssignmentStrategy="roundrobin_fixed")
    once = given_goals(load_problem(path), horizon=99)
    assert [cells.tolist() for cells in once] == [[4, 10], [0]]


@pytest.mark.parametrize("compiled", [True, False])
def test_a_task_on_the_present_cell_counts_at_the_end_of_the_next_step(tmp_path: Path, compiled: bool) -> None:
    path = problem(tmp_path, [0], [1, 1, 2, 2, 1])
    world = LifelongMapf(MapfConfig(tasks=str(path), horizon=20), 1, compiled=compiled)
    world.reset(0)
    paid = [float(world.step(torch.tensor([[action]])).reward) for action in (4, 0, 4, 3, 4, 3)]
    # There; by staying; the next one; gone from where the same cell is the task again; there again; the last one.
    assert paid == [1, 1, 1, 0, 1, 1]


def test_options_name_problems(tmp_path: Path) -> None:
    path = str(problem(tmp_path, [0, 4], [4, 0]))
    for option in ({"problem": path}, {"map": path}, {"tasks": path}):
        world = configure("lifelong_mapf", preset="random", options=option).world
        assert world.tasks == path and world.map is None and world.agents is None, option


def test_versions_and_map_letters(tmp_path: Path) -> None:
    errands = load_problem(problem(tmp_path, [0, 4], ["4,0", "10"], version="2024 LoRR", numTasksReveal=1.5))
    assert errands.errands and errands.revealed == 3 and errands.ticks == 1
    assert errands.stops.tolist() == [4, 0, 10] and errands.first.tolist() == [0, 2, 3]
    assert errands.grid.blocked.tolist() == [[c in "@T" for c in row] for row in ROWS]
    late = load_problem(
        problem(tmp_path, [0], ["4"], version="2026 LoRR", agentCounter=3, delayConfig={"seed": 0}, numTasksReveal=1.5)
    )
    assert late.ticks == 3 and late.delayed and late.errands


def sentence(path: Path, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_tasks(str(path), horizon=8, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("starts", "tasks", "header", "expected"),
    [
        ([0, 6], [4], {}, "hall.agents, line 4: cell 6, [1, 1], lies inside a wall"),
        ([0, 15], [4], {}, "hall.agents, line 4: cell 15 of 3 x 5 cells lies outside"),
        ([0, 1, 0], [4], {}, "hall.agents, line 5: robot 2 starts on [0, 0] as robot 0 does"),
        ([0], [4, 8], {}, "hall.tasks, line 4: cell 8, [1, 3], lies inside a wall"),
        ([0], ["4,2", "1,x"], {"version": "2024 LoRR"}, "hall.tasks, line 4: 'x' is not a cell's number"),
        ([0], ["-3"], {}, "hall.tasks, line 3: cell -3"),
        ([0], [], {}, "hall.tasks has 0 tasks, 1 are needed"),
        ([0], [4], {"teamSize": 2}, "hall.agents has 1 starts, 2 are needed"),
        ([0], [4], {"teamSize": 0}, "p.json, teamSize: input should be greater than or equal to 1"),
        ([0], [4], {"teamSize": 99}, "has 13 free cells, too few for a team of 99 robots"),
        ([0], [4], {"teamSize": "1"}, "p.json, teamSize: input should be a valid integer"),
        ([0], [4], {"mapFile": None}, "p.json has no 'mapFile', add it"),
        ([0], [4], {"mapFile": None, "mapFiles": "x"}, "p.json has no 'mapFile'; did you mean 'mapFiles'?"),
        ([0], [4], {"agentFile": "no.agents"}, "no.agents cannot be read"),
        ([0], [4], {"mapFile": "no.map"}, "no.map"),
        ([0], [4], {"taskAssignmentStrategy": "random"}, "taskAssignmentStrategy: input should be 'roundrobin'"),
        ([0, 4], [4], {"taskAssignmentStrategy": "roundrobin_fixed"}, "robot 1 has no task"),
    ],
)
def test_a_broken_problem_is_one_sentence(
    tmp_path: Path, starts: list[Any], tasks: list[Any], header: dict[str, Any], expected: str
) -> None:
    assert expected in sentence(problem(tmp_path, starts, tasks, **header))


def test_a_problem_and_what_it_is_asked_for(tmp_path: Path) -> None:
    path = problem(tmp_path, [0, 4], [4])
    assert "has a team of 2 robots, 3 asked: use at most 2" in sentence(path, n_agents=3)
    other = tmp_path / "other.map"
    other.write_text("type octile\nheight 1\nwidth 3\nmap\n...\n")
    with pytest.raises(UserError, match="is for a map of 3 rows and 5 columns, 'other' has 1 and 3"):
        LifelongMapf(MapfConfig(tasks=str(path), map=str(other)), 1)
    assert "robot 0: task 0 at [0, 4] cannot be reached from the start [0, 0]" in sentence(problem_on(tmp_path))


def problem_on(folder: Path) -> Path:
    """The problem of ``problem`` on a map in two parts."""
    path = problem(folder, [0], [4])
    (folder / "hall.map").write_text("type octile\nheight 1\nwidth 5\nmap\n..@..\n")
    return path
