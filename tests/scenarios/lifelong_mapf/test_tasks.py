"""Task files: JSON, MovingAI .scen and POGEMA letters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.errors import UserError
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.grid import GridMap
from scenarios.lifelong_mapf.maps.tasks import Tasks, load_tasks
from scenarios.lifelong_mapf.world import LifelongMapf

#: The fourth column is a wall, so that the last one cannot be reached from the rest.
BLOCKED = np.array([[char == "#" for char in row] for row in ("...#.", ".#.#.", "...#.")])


@pytest.fixture
def grid() -> GridMap:
    return GridMap.open_everywhere("hall", BLOCKED)


def write(tmp_path: Path, agents: object, **more: object) -> str:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"schema_version": 1, "agents": agents} | more))
    return str(path)


def agent(start: list[int], *goals: list[int]) -> dict[str, object]:
    return {"start": start, "goals": list(goals)}


def error_of(spec: str, grid: GridMap | None, n_agents: int | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_tasks(spec, grid, n_agents)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_task_file_gives_flat_cells(tmp_path, grid):
    spec = write(tmp_path, [agent([0, 0], [2, 2], [0, 0]), agent([0, 4], [2, 4])])
    tasks = load_tasks(spec, grid)
    assert tasks.starts.tolist() == [0, 4]
    assert [goals.tolist() for goals in tasks.goals] == [[12, 0], [14]]
    assert tasks.starts.dtype == tasks.goals[0].dtype == np.int32
    assert load_tasks(spec, grid, n_agents=1).n_agents == 1
    assert "has tasks for 2 agents, 3 asked: use at most 2" in error_of(spec, grid, 3)


def test_saved_tasks_read_back_with_their_map(tmp_path, grid):
    (tmp_path / "hall.map").write_text("type octile\nheight 3\nwidth 5\nmap\n...@.\n.@.@.\n...@.\n")
    tasks = Tasks.of_cells(grid, [(2, 1)], [[(0, 1), (2, 2)]])
    tasks.save(tmp_path / "t.json", "hall.map")
    again = load_tasks(str(tmp_path / "t.json"))
    assert np.array_equal(again.grid.blocked, BLOCKED)
    assert again.starts.tolist() == tasks.starts.tolist()
    assert again.goals[0].tolist() == tasks.goals[0].tolist()


@pytest.mark.parametrize(
    ("agents", "sentence"),
    [
        ([agent([0, 3], [0, 0])], "agent 0: the start at [0, 3] lies inside a wall"),
        ([agent([0, 0], [1, 1])], "agent 0: goal 0 at [1, 1] lies inside a wall"),
        (
            [agent([0, 0], [0, 1]), agent([3, 0], [0, 0])],
            "agent 1: the start at [3, 0] lies outside of the map of 3 rows",
        ),
        ([agent([0, 0], [0, 1], [0, -1])], "agent 0: goal 1 at [0, -1] lies outside"),
        ([agent([0, 0], [0, 1]), agent([0, 0], [0, 2])], "agent 1: the start [0, 0] is also that of agent 0"),
        ([agent([0, 0], [2, 4])], "agent 0: goal 0 at [2, 4] cannot be reached from the start [0, 0]"),
        ([agent([0, 0])], "agent 0, goals: there are none, write one at least"),
        ([{"start": [0, 0]}], "agent 0, goals: field required"),
        ([{"start": [0, 0], "goal": [[0, 1]]}], "agent 0, goals: field required"),
        ([{"start": [0, 0], "goals": [[0, 1]], "gaols": 1}], "'gaols' is not a known key; did you mean 'goals'?"),
        ([agent([0.5, 0], [0, 1])], "agent 0, start, 0: input should be a valid integer"),
        ([agent([True, 0], [0, 1])], "agent 0, start, 0: input should be a valid integer"),
        ([agent([0, 0, 0], [0, 1])], "agent 0, start"),
        ([], "agents: there are none, write one at least"),
        (3, "agents: input should be a valid array"),
    ],
)
def test_faults_name_the_agent_and_the_cell(tmp_path, grid, agents, sentence):
    spec = write(tmp_path, agents)
    message = error_of(spec, grid)
    assert message.startswith(spec)
    assert sentence in message


def test_faults_of_the_file(tmp_path, grid):
    spec = write(tmp_path, [agent([0, 0], [0, 1])], schema_version=2)
    assert "schema_version: input should be 1" in error_of(spec, grid)
    assert "names no map" in error_of(write(tmp_path, [agent([0, 0], [0, 1])]), None)
    assert "map 'nowhere' does not exist" in error_of(write(tmp_path, [agent([0, 0], [0, 1])], map="nowhere"), None)
    Path(spec).write_text("{")
    assert "invalid JSON" in error_of(spec, grid)
    Path(spec).write_text("[" * 100_000)
    assert "invalid JSON" in error_of(spec, grid)
    assert "cannot be read" in error_of(str(tmp_path / "none.json"), grid)
    assert "is no task file" in error_of(str(tmp_path / "t.csv"), grid)


@settings(max_examples=50, deadline=None)
@given(st.one_of(st.binary(max_size=100), st.text(max_size=100).map(str.encode)))
def test_junk_is_a_user_error(tmp_path_factory, data: bytes):
    for name in ("j.json", "j.scen"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(data)
        with pytest.raises(UserError):
            load_tasks(str(path), GridMap.open_everywhere("hall", BLOCKED))


def scen(tmp_path: Path, *rows: str) -> str:
    path = tmp_path / "hall.scen"
    path.write_text("version 1\n" + "\n".join(rows) + "\n")
    return str(path)


def test_scen_gives_x_as_column(tmp_path):
    (tmp_path / "hall.map").write_text("type octile\nheight 3\nwidth 5\nmap\n...@.\n.@.@.\n...@.\n")
    spec = scen(tmp_path, "0\thall.map\t5\t3\t2\t0\t0\t1\t3.0", "0\thall.map\t5\t3\t4\t0\t4\t2\t2.0")
    for tasks in (load_tasks(spec), load_tasks(spec, GridMap.open_everywhere("hall", BLOCKED))):
        assert tasks.starts.tolist() == [2, 4]
        assert [goals.tolist() for goals in tasks.goals] == [[5], [14]]
    assert load_tasks(spec, n_agents=1).starts.tolist() == [2]
    assert "has tasks for 2 agents, 5 asked" in error_of(spec, None, 5)


def test_scen_faults_name_the_line(tmp_path, grid):
    assert "line 2: expected bucket" in error_of(scen(tmp_path, "0 hall.map 5 3 2 0"), grid)
    assert "line 2: expected bucket" in error_of(scen(tmp_path, "0 hall.map 5 3 a 0 0 0 1"), grid)
    assert "line 2: made for 4 rows and 5 columns, the map has 3 rows" in error_of(
        scen(tmp_path, "0 hall.map 5 4 2 0 0 0 1"), grid
    )
    assert "agent 0: goal 0 at [1, 1] lies inside a wall" in error_of(scen(tmp_path, "0 h.map 5 3 2 0 1 1 1"), grid)
    assert "holds no start and goal" in error_of(scen(tmp_path), grid)


def test_letters_of_a_pogema_map_are_tasks(tmp_path):
    path = tmp_path / "set.yaml"
    path.write_text("one: |-\n  b.A\n  a.B\ntwo: |-\n  ...\n")
    tasks = load_tasks(f"{path}:one")
    assert tasks.starts.tolist() == [3, 0]
    assert [goals.tolist() for goals in tasks.goals] == [[2], [5]]
    assert "holds 2 maps" in error_of(str(path), None)
    assert "has no letters" in error_of(f"{path}:two", None)
    assert "has no map 'three'" in error_of(f"{path}:three", None)


def folder_of(tmp_path: Path) -> Path:
    """Two instances for one agent each on maps of different widths: from the left end to the right one and back."""
    for name, width in (("a", 3), ("b", 5)):
        (tmp_path / f"{name}.map").write_text(f"type octile\nheight 2\nwidth {width}\nmap\n" + 2 * ("." * width + "\n"))
        one = {"schema_version": 1, "map": f"{name}.map", "agents": [agent([1, 0], [1, width - 1], [1, 0])]}
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    return tmp_path


@pytest.mark.parametrize("compiled", [True, False])
def test_a_folder_of_task_files_is_played_in_turn(tmp_path: Path, compiled: bool) -> None:
    config = MapfConfig(tasks=str(folder_of(tmp_path)), horizon=10, bound_share=True)
    world = LifelongMapf(config, 3, compiled=compiled)
    world.reset(1)  # seeds 1, 2, 3: the second file, the first, the second
    assert world.position.tolist() == [[5], [5], [5]]  # row 1 of a grid of five columns
    assert world.goal.tolist() == [[9], [7], [9]]
    right = torch.full((3, 1), 4)
    for _ in range(4):
        timestep = world.step(right)
    assert world.position.tolist() == [[9], [7], [9]]  # the narrow map has a wall behind its third column
    assert timestep.reward.tolist() == [[1], [0], [1]]
    assert world.goal.tolist() == [[5], [5], [5]]
    for _ in range(6):
        timestep = world.step(torch.full((3, 1), 3))
    assert timestep.done.all()
    # Alone: 4 steps there, 4 back; or 2 there, 2 back and then to goals that are drawn.
    assert timestep.metrics["throughput"].tolist()[::2] == [pytest.approx(0.2)] * 2
    assert world.goal.tolist() == [[7], [9], [7]]  # the next episode plays the next file


def test_a_folder_of_task_files_that_cannot_be_played_together(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    two = {"schema_version": 1, "map": "b.map", "agents": [agent([0, 0], [0, 1]), agent([1, 1], [0, 0])]}
    (folder / "b.json").write_text(json.dumps(two))
    with pytest.raises(UserError, match=r"b\.json has tasks for 2 agents and .*a\.json for 1: .*agents=1"):
        LifelongMapf(MapfConfig(tasks=str(folder)), 1)
    assert LifelongMapf(MapfConfig(tasks=str(folder), agents=1), 1).spec.n_agents == 1
    with pytest.raises(UserError, match="is no task file"):
        LifelongMapf(MapfConfig(tasks=""), 1)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="holds no task file"):
        LifelongMapf(MapfConfig(tasks=str(empty)), 1)


def test_two_who_stay_cannot_have_one_goal(tmp_path):
    """Whoever leaves or goes on may share one; goals on the way may be shared as well."""
    agents = [
        agent([0, 0], [0, 2]),
        agent([2, 2], [1, 2], [2, 0]),
        agent([2, 0], [0, 2], [2, 2]),
        agent([1, 0], [2, 0]),
    ]
    (tmp_path / "hall.map").write_text("type octile\nheight 3\nwidth 5\nmap\n...@.\n.@.@.\n...@.\n")
    spec = write(tmp_path, agents, map="hall.map")
    with pytest.raises(UserError) as caught:
        LifelongMapf(MapfConfig(tasks=spec, on_target="nothing"), 1)
    assert str(caught.value) == (
        f"{spec}, agent 3: the last goal [2, 0] is also that of agent 1, and only one can stay there "
        "(on_target=nothing): move one of them, or let agents leave with on_target=finish"
    )
    for on_target in ("finish", "restart"):
        LifelongMapf(MapfConfig(tasks=spec, on_target=on_target), 1)
    LifelongMapf(MapfConfig(tasks=spec, on_target="nothing", agents=3), 1)
