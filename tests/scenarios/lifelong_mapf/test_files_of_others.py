"""Instances of other tools, and maps and tasks given from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marl import api
from marl.errors import UserError
from scenarios.lifelong_mapf import parallel_env
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.sources import load_map
from scenarios.lifelong_mapf.maps.tasks import load_tasks, task_files
from scenarios.lifelong_mapf.world import LifelongMapf

#: Three rows of four columns, a wall in the middle row.
WALLS = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
MULTI = """agents:
-   goal: [3, 1]
    name: agent0
    start: [0, 2]
-   {name: agent1, start: [2, 0], goal: [2, 0]}
map:
    dimensions: [4, 3]
    obstacles:
    - [1, 1]
"""
KIVA = "3,5\n4\n2\n100\n.r.ee\n.r@@.\n...ee\n"


def sentence(load: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_multi_robot_planning(tmp_path: Path) -> None:
    spec = written(tmp_path / "ex0.yaml", MULTI)
    tasks = load_tasks(spec)
    assert tasks.grid.blocked.tolist() == [[bool(cell) for cell in row] for row in WALLS]
    assert tasks.starts.tolist() == [8, 2] and [goals.tolist() for goals in tasks.goals] == [[7], [2]]
    assert load_map(spec).blocked.tolist() == tasks.grid.blocked.tolist()
    assert load_tasks(spec, n_agents=1).n_agents == 1
    tuples = MULTI.replace("- [1, 1]", "- !!python/tuple [1, 1]").replace(
        "start: [0, 2]", "start: !!python/tuple [0, 2]"
    )
    assert load_tasks(written(tmp_path / "tuples.yaml", tuples)).starts.tolist() == [8, 2]
    figures = api.evaluate("lifelong_mapf", ["pibt"], preset="one_shot", tasks=spec, seeds=[0])
    assert {row.metric: row.mean for row in figures.rows}["success"] == 1


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("goal: [3, 1]", "goal: [1, 1]", "agent 0: goal 0 at [1, 1] lies inside a wall"),
        ("start: [0, 2]", "start: [0, 2, 1]", "agent 0, start: [0, 2, 1] is not [x, y]"),
        ("goal: [3, 1]", "potentialGoals: [[3, 1]]", "agent 0: it has several possible goals"),
        ("goal: [3, 1]", "x: 1", "agent 0: it has no goal"),
        ("- [1, 1]", "- [4, 1]", "obstacle 0 at [4, 1] lies outside of 4 x 3"),
        ("[4, 3]", "[4]", "map: dimensions: [4] is not [x, y]"),
        ("[4, 3]", "[4, 99999]", "dimensions are 4 x 99999"),
        ("    - [1, 1]", "    - [1, 1", "cannot be read"),
        ("goal: [3, 1]", "goal: !!python/object/apply:os.system [ls]", "cannot be read"),
    ],
)
def test_broken_multi_robot_files(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert expected in sentence(load_tasks, written(tmp_path / "e.yaml", MULTI.replace(old, new)))


def test_kiva(tmp_path: Path) -> None:
    grid = load_map(written(tmp_path / "kiva.map", KIVA))
    assert grid.blocked.nonzero()[0].tolist() == [1, 1] and grid.blocked.nonzero()[1].tolist() == [2, 3]
    assert np.argwhere(grid.starts).tolist() == [[0, 1], [1, 1]]
    assert np.argwhere(grid.goals).tolist() == [[0, 3], [0, 4], [2, 3], [2, 4]]
    world = LifelongMapf(MapfConfig(map=str(tmp_path / "kiva.map"), agents=2), 4)
    world.reset(0)
    assert set(world.position.flatten().tolist()) == {1, 6} and set(world.goal.flatten().tolist()) <= {3, 4, 13, 14}
    bare = load_map(written(tmp_path / "bare.map", "1,3\n0\n0\n0\n...\n"))
    assert bare.starts.all() and bare.goals.all()
    assert "has 2 rows of cells" in sentence(load_map, written(tmp_path / "k.map", "3,5\n4\n2\n100\n.....\n.....\n"))
    assert "line 6: the row has 4 cells" in sentence(
        load_map, written(tmp_path / "k.map", KIVA.replace(".r@@.", ".r@@"))
    )


def test_pibt2(tmp_path: Path) -> None:
    (tmp_path / "hall.map").write_text("type octile\nheight 3\nwidth 4\nmap\n....\n.@..\n....\n")
    head = "map_file=hall.map\nagents=2\nseed=0\nrandom_problem=0\n# a comment\n"
    tasks = load_tasks(written(tmp_path / "i.txt", head + "0,2,3,1\n2,0,3,2\n1,0,0,0\n"))
    assert tasks.starts.tolist() == [8, 2] and [goals.tolist() for goals in tasks.goals] == [[7], [11]]
    random = head.replace("random_problem=0", "random_problem=1")
    assert "use --map hall.map --agents 2" in sentence(load_tasks, written(tmp_path / "i.txt", random))
    assert "line 6: expected key=value or x,y,x,y" in sentence(
        load_tasks, written(tmp_path / "i.txt", head + "0,2,3\n")
    )
    assert "has 1 starts and goals, and says agents=2" in sentence(
        load_tasks, written(tmp_path / "i.txt", head + "0,2,3,1\n")
    )
    assert "names no map_file" in sentence(load_tasks, written(tmp_path / "i.txt", "hello=1\n"))


def test_primal(tmp_path: Path) -> None:
    path = tmp_path / "env.npy"
    world, goals = -np.array(WALLS), np.zeros((3, 4), int)
    world[2, 0], goals[1, 3], world[0, 2], goals[2, 2] = 1, 1, 2, 2
    np.save(path, np.stack([world, goals]))
    tasks = load_tasks(str(path))
    assert tasks.starts.tolist() == [8, 2] and [cells.tolist() for cells in tasks.goals] == [[7], [10]]
    assert load_map(str(path)).blocked.tolist() == [[bool(cell) for cell in row] for row in WALLS]
    np.save(path, np.array(WALLS))
    assert load_map(str(path)).blocked.sum() == 1
    assert "holds no robots, only a map" in sentence(load_tasks, str(path))
    goals[2, 2] = 0
    np.save(path, np.stack([world, goals]))
    assert "robot 2 has 0 cells as its goal" in sentence(load_tasks, str(path))
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    assert "is no array that numpy reads without running code" in sentence(load_tasks, str(path))
    np.save(path, np.zeros((3, 2, 2)))
    assert "is 3 x 2 x 2, use [2, H, W]" in sentence(load_map, str(path))


def test_a_scenario_with_another_machines_path(tmp_path: Path) -> None:
    (tmp_path / "hall.map").write_text("type octile\nheight 3\nwidth 4\nmap\n....\n.@..\n....\n")
    for named in ("/home/other/maps/hall.map", "maps\\hall.map", "hall.map"):
        spec = written(tmp_path / "s.scen", f"version 1\n0\t{named}\t4\t3\t0\t2\t3\t1\t4\n")
        assert load_tasks(spec).starts.tolist() == [8]
    spec = written(tmp_path / "s.scen", "version 1\n0\t/home/other/none.map\t4\t3\t0\t2\t3\t1\t4\n")
    assert "none.map" in sentence(load_tasks, spec)


def test_known_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    pogema = "environment:\n  name: Environment\n  map_name: {grid_search: [a]}\nalgorithms: {}\n"
    message = sentence(load_map, written(tmp_path / "e.yaml", pogema))
    assert "looks like an evaluation of POGEMA" in message and "--map SET.yaml:NAME" in message
    assert "configuration of marl" in sentence(load_map, written(tmp_path / "c.yaml", "world:\n  agents: 3\n"))
    plan = written(tmp_path / "p.json", '{"actualPaths": ["F"], "start": [[0, 0, "E"]]}')
    assert "looks like a plan" in sentence(load_tasks, plan) and "--replay" in sentence(load_tasks, plan)


def test_a_folder_of_foreign_instances(tmp_path: Path) -> None:
    for number in range(2):
        written(tmp_path / f"ex{number}.yaml", MULTI)
    assert [Path(file).name for file in task_files(str(tmp_path))] == ["ex0.yaml", "ex1.yaml"]


@pytest.mark.parametrize(
    "given",
    [
        WALLS,
        np.array(WALLS),
        np.array(WALLS, bool),
        ["....", ".#..", "...."],
        "....\n.#..\n....\n",
        "type octile\nheight 3\nwidth 4\nmap\n....\n.@..\n....\n",
    ],
)
def test_maps_from_python(given: Any) -> None:
    world = LifelongMapf(MapfConfig(map=given, agents=3), 1)
    assert world.blocked[0].tolist() == [0, 0, 0, 0, 0, 1] + [0] * 6
    env = parallel_env(map=given, agents=2)
    assert env.reset(seed=1)
    made = api.make("lifelong_mapf", map=given, agents=2)
    assert made.blocked[0].sum() == 1


def test_an_array_is_one_map_of_an_evaluation() -> None:
    found = api.evaluate("lifelong_mapf", ["pibt"], map=np.array(WALLS), agents=2, horizon=8, seeds=[0])
    assert found.rows[0].instances["map"] == "inline"


@pytest.mark.parametrize(
    "tasks",
    [
        [((2, 0), (1, 3)), ((0, 2), (2, 2))],
        [(np.array([2, 0]), np.array([1, 3])), ([0, 2], [2, 2])],
        [{"start": (2, 0), "goals": [(1, 3)]}, {"start": (0, 2), "goals": [(2, 2)]}],
        {"schema_version": 1, "agents": [{"start": [2, 0], "goals": [[1, 3]]}, {"start": [0, 2], "goals": [[2, 2]]}]},
    ],
)
def test_tasks_from_python(tasks: Any) -> None:
    world = LifelongMapf(MapfConfig(map=WALLS, tasks=tasks, on_target="finish"), 1)
    world.reset(0)
    assert world.position.tolist() == [[8, 2]] and world.goal.tolist() == [[7, 10]]


def test_faults_from_python_are_one_sentence() -> None:
    for options, expected in (
        ({"agents": -1}, "'agents' is -1"),
        ({"map": [[0, 1], [0]]}, "of one length"),
        ({"agentz": 3}, "unknown key 'agentz'"),
        ({"map": ["..", ".?"]}, "'?' in column 1"),
        ({"map": WALLS, "tasks": [((0, 0), (0, 1), (0, 2))]}, "(start, goal) or {start, goals}"),
        ({"map": WALLS, "tasks": [((1, 1), (0, 0))]}, "agent 0: the start at [1, 1] lies inside a wall"),
        ({"map": WALLS, "tasks": [((0, 0), (0, 5))]}, "agent 0: goal 0 at [0, 5] lies outside"),
    ):
        assert expected in sentence(lambda options=options: parallel_env(**options))
