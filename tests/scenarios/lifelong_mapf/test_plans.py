"""Plan files: written, read, validated and counted."""

from __future__ import annotations

import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_lorr import problem

from marl import api
from marl.cli import main
from marl.errors import UserError
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.sources import save_pogema
from scenarios.lifelong_mapf.plans.conflicts import conflicts
from scenarios.lifelong_mapf.plans.plan import Plan
from scenarios.lifelong_mapf.plans.replay import Replay, replay
from scenarios.lifelong_mapf.plans.text_files import read_plan
from scenarios.lifelong_mapf.world import LifelongMapf

INSTANCES = Path(__file__).parents[4] / "shared" / "instances"
OPEN = np.zeros((4, 4), np.bool_)


def kit_file(path: Path, starts: list[list[Any]], paths: list[str], **more: Any) -> Path:
    """An output of the kit."""
    values = {"actionModel": "MAPF_T", "teamSize": len(starts), "start": starts, "actualPaths": paths} | more
    path.write_text(json.dumps(values))
    return path


def plan_of(*rows: str, source: str = "p") -> Plan:
    """Robots on a grid of 4 x 4, a row of hexadecimal cells for each step."""
    cells = np.array([[divmod(int(cell, 16), 4) for cell in row] for row in rows], np.int32)
    return Plan(source, cells)


def test_headings_turn_to_the_right_and_robots_drive_ahead(tmp_path: Path) -> None:
    plan = read_plan(kit_file(tmp_path / "plan.json", [[1, 1, "E"], [3, 3, "N"]], ["F,R,F,R,F,R,F", "C,F,W,T,R,F,R"]))
    assert plan.headings is not None
    assert plan.cells[:, 0].tolist() == [[1, 1], [1, 2], [1, 2], [2, 2], [2, 2], [2, 1], [2, 1], [1, 1]]
    assert plan.headings[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert plan.cells[:, 1].tolist() == [[3, 3], [3, 3], [3, 2], [3, 2], [3, 2], [3, 2], [2, 2], [2, 2]]
    assert plan.headings[:, 1].tolist() == [3, 2, 2, 2, 2, 3, 3, 0]
    # The kit of 2023 writes a start to the south as two letters.
    assert read_plan(kit_file(tmp_path / "s.json", [[0, 0, "S", "W"]], ["F"])).cells[1, 0].tolist() == [1, 0]
    # PlanViz's letters of robots that do not turn: U is the row below.
    flat = read_plan(kit_file(tmp_path / "f.json", [[1, 1, "E"]], ["U,R,D,L,W"], actionModel="MAPF"))
    assert flat.headings is None
    assert flat.cells[:, 0].tolist() == [[1, 1], [2, 1], [2, 2], [1, 2], [1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("plan", "walls", "expected"),
    [
        (plan_of("01", "12", "23"), "", []),  # following is allowed
        (plan_of("0154", "1540", "5401"), "", []),  # and so is going round
        (plan_of("01", "10"), "", ["step 1: robots 0 and 1: edge conflict at [0, 1]"]),
        (plan_of("02", "11"), "", ["step 1: robots 0 and 1: vertex conflict at [0, 1]"]),
        (plan_of("011", "011"), "", [f"step {t}: robots 1 and 2: vertex conflict at [0, 1]" for t in (0, 1)]),
        (
            plan_of("0214", "1111"),
            "",
            ["step 1: robot 3: jump at [0, 1]"]
            + [f"step 1: robots 0 and {k}: vertex conflict at [0, 1]" for k in (1, 2, 3)],
        ),
        (plan_of("05", "15"), "1", ["step 1: robot 0: wall at [0, 1]"]),
        (plan_of("0", "5"), "", ["step 1: robot 0: jump at [1, 1]"]),
    ],
)
def test_every_conflict_is_found_with_step_robots_and_kind(plan: Plan, walls: str, expected: list[str]) -> None:
    blocked = OPEN.copy()
    for cell in walls:
        blocked[divmod(int(cell, 16), 4)] = True
    assert [fault.sentence() for fault in conflicts(plan, blocked)] == expected


def test_off_the_map_elsewhere_and_against_the_heading() -> None:
    off = Plan("p", np.array([[[0, 0]], [[-1, 0]], [[-1, -1]], [[0, -1]]], np.int32))
    assert [fault.sentence() for fault in conflicts(off, OPEN, np.array([1]))] == [
        "step 0: robot 0: another start at [0, 0]",
        "step 1: robot 0: outside at [-1, 0]",
        "step 2: robot 0: outside at [-1, -1]",
        "step 3: robot 0: outside at [0, -1]",
    ]
    cells = np.array([[[1, 1]], [[2, 1]], [[2, 2]], [[2, 2]]], np.int32)
    headings = np.array([[0], [1], [1], [3]], np.int8)
    assert [fault[:2] for fault in conflicts(Plan("p", cells, headings), OPEN)] == [(1, "sideways"), (2, "sideways")]


def pairs_by_force(cells: NDArray[np.int32], step: int) -> set[tuple[str, tuple[int, int]]]:
    """Vertex conflicts with the first robot of a cell, and all exchanges."""
    found: set[tuple[str, tuple[int, int]]] = set()
    for i, j in itertools.combinations(range(cells.shape[1]), 2):
        same = (cells[step, i] == cells[step, j]).all()
        if same and not any((cells[step, k] == cells[step, j]).all() for k in range(i)):
            found.add(("vertex conflict", (i, j)))
        moved = (cells[step, i] != cells[step - 1, i]).any()
        crossed = (cells[step, i] == cells[step - 1, j]).all() and (cells[step, j] == cells[step - 1, i]).all()
        if step and moved and crossed:
            found.add(("edge conflict", (i, j)))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_conflicts_are_those_of_a_search_over_all_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    cells = np.stack([generator.permutation(16)[:9] for _ in range(2)])
    steps = [cells[0]]
    for _ in range(12):
        steps.append(np.where(generator.random(9) < 0.3, generator.permutation(steps[-1]), steps[-1]))
    cells = np.stack([np.stack(steps) // 4, np.stack(steps) % 4], -1).astype(np.int32)
    faults = [fault for fault in conflicts(Plan("p", cells), OPEN) if len(fault.robots) == 2]
    for step in range(cells.shape[0]):
        here = [(kind, robots) for at, kind, robots, _ in faults if at == step]
        # Robots that swapped onto a cell that several held exchange with one of them only.
        assert {pair for pair in here if pair[0][0] == "v"} == {
            p for p in pairs_by_force(cells, step) if p[0][0] == "v"
        }
        assert {pair for pair in here if pair[0][0] == "e"} <= pairs_by_force(cells, step)


def judged(path: Path, tasks: Path, **more: Any) -> Replay:
    return replay(path, MapfConfig(tasks=str(tasks), **more))


def test_tasks_are_counted_as_the_kit_does(tmp_path: Path) -> None:
    tasks = problem(tmp_path, [0, 10], [1, 11, 1, 12, 3, 10])
    # Robot 0: cell 1, then 1 again by staying, then 3; robot 1: 11, 12, and back to 10.
    path = kit_file(tmp_path / "plan.json", [[0, 0, "E"], [2, 0, "E"]], ["F,W,F,F,W,W,W,W", "F,F,R,R,F,F,W,W"])
    found = judged(path, tasks)
    assert found.faults == () and found.figures["tasks_finished"] == 6
    lying = kit_file(tmp_path / "q.json", [[0, 0, "E"], [2, 0, "E"]], ["F,W", "F,F"], numTaskFinished=3)
    assert judged(lying, tasks).faults == ("the file says that 3 tasks were finished, 4 were",)
    greedy = problem(tmp_path / "g", [0, 10], [1, 11, 3, 12], taskAssignmentStrategy="greedy")
    # Both are there after a step; robot 0 gets cell 3, robot 1 cell 12; then there is nothing left.
    assert judged(path, greedy).figures["tasks_finished"] == 4
    fixed = problem(tmp_path / "f", [0, 10], [1, 11, 2], taskAssignmentStrategy="roundrobin_fixed")
    assert judged(path, fixed).figures["tasks_finished"] == 3


def test_errands_are_counted_by_the_schedule_that_is_checked(tmp_path: Path) -> None:
    tasks = problem(tmp_path, [0, 10], ["1,2", "11", "12,13", "3"], version="2024 LoRR", numTasksReveal=1.5)
    starts = [[0, 0, "E"], [2, 0, "E"]]

    def counted(*schedule: str) -> Replay:
        file = kit_file(tmp_path / "plan.json", starts, ["F,F,F,W", "F,F,F,W"], actualSchedule=list(schedule))
        return judged(file, tasks)

    good = counted("1:0,3:3", "1:1,2:2")
    assert good.faults == ()
    # Errand 0 ends with step 2, 1 with step 1, 2 (revealed from the start) with step 3, 3 with step 3.
    assert good.figures["tasks_finished"] == 4 and good.figures["stops_visited"] == 6
    assert counted("1:0", "1:1").figures["tasks_finished"] == 2
    assert counted("2:0", "1:1").figures["tasks_finished"] == 1  # cell 1 was passed before
    assert counted("1:3", "1:1").faults == ("step 1: robot 0: errand 3 is finished or not revealed yet",)
    assert counted("1:0", "1:1,3:1").faults == ("step 3: robot 1: errand 1 is finished or not revealed yet",)
    assert counted("1:0", "1:0").faults == ("step 1: robot 0: errand 0 is also that of robot 1",)
    begun = counted("1:0,2:2", "1:1").faults
    assert begun == ("step 2: robot 0: errand 2 comes before errand 0, which it has begun, is finished",)
    silent = judged(kit_file(tmp_path / "plan.json", starts, ["F", "F"], numTaskFinished=5), tasks)
    assert silent.faults == () and "tasks_finished" not in silent.figures
    assert "no 'actualSchedule'" in silent.notes[0] and "claims 5" in silent.notes[0]


@pytest.mark.parametrize(
    ("plan", "instance", "finished"),
    [
        ("lorr2023/best_solutions/MR23-I-03.json.zip", "lorr2023/random.domain/MR23-I-03.json", 3042),
        ("lorr2023/best_solutions/MR23-I-04.json.zip", "lorr2023/random.domain/MR23-I-04.json", 1741),
        ("lorr2023/best_solutions/MR23-I-05.json.zip", "lorr2023/random.domain/MR23-I-05.json", 7432),
        ("lorr2024/best_solutions/MR24-RANDOM-02.json.zip", "lorr2024/random.domain/RANDOM-02.json", 1260),
    ],
)
def test_best_known_solutions_finish_what_they_claim(tmp_path: Path, plan: str, instance: str, finished: int) -> None:
    if not INSTANCES.is_dir():
        pytest.skip("the instances are not here")
    with zipfile.ZipFile(INSTANCES / plan) as file:
        (tmp_path / "plan.json").write_bytes(file.read(file.namelist()[0]))
    found = judged(tmp_path / "plan.json", INSTANCES / instance)
    assert found.faults == () and found.figures["tasks_finished"] == finished


@pytest.mark.parametrize("preset", ["random", "maze"])
def test_saved_plans_are_valid_and_count_what_was_played(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "plan.json"
    results = api.evaluate(
        "lifelong_mapf",
        ["guided_pibt"],
        seeds=[3],
        save_plan=path,
        preset=preset,
        agents=20,
        horizon=40,
        overrides=["world.map_pool=1"],
    )
    grid = tmp_path / "grid.yaml"
    held_out = MapfConfig.model_validate(
        api.configure("lifelong_mapf", preset=preset, options={}, overrides=["world.map_pool=1"]).world.model_dump()
    ).model_copy(update={"map_seed": 500_000})
    save_pogema([LifelongMapf(held_out, 1)._pool.maps[0]], grid)
    found = api.replay("lifelong_mapf", path, map=str(grid))
    rate = next(row.mean for row in results.rows if row.metric == "throughput")
    assert found.faults == () and found.figures["tasks_finished"] == round(rate * 40) > 0
    saved = json.loads(path.read_text())
    assert saved["actionModel"] == "MAPF" and saved["makespan"] == 40
    assert [task[0] for task in saved["tasks"]] == list(range(len(saved["tasks"])))  # PlanViz looks them up by place


def test_a_saved_plan_of_a_problem_is_counted_by_the_problem(tmp_path: Path) -> None:
    tasks = problem(tmp_path, [0, 10, 4], [1, 1, 14, 12, 3, 10, 2])
    path = tmp_path / "plan.json"
    words = ["lifelong_mapf", "--problem", str(tasks)]
    assert (
        main(["evaluate", *words, "--policies", "pibt", "--seeds", "0:1", "--horizon", "50", "--save-plan", str(path)])
        == 0
    )
    played = json.loads(path.read_text())["numTaskFinished"]
    out = tmp_path / "judged.json"
    assert main(["evaluate", *words, "--replay", str(path), "--json", str(out)]) == 0
    judged_ = json.loads(out.read_text())
    assert judged_["valid"] and judged_["figures"]["tasks_finished"] == played > 10


def test_a_plan_with_a_conflict_is_named_and_ends_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = problem(tmp_path, [0, 2], [4])
    path = kit_file(tmp_path / "plan.json", [[0, 0, "E"], [0, 2, "W"]], ["F,F", "F,F"])
    assert main(["evaluate", "lifelong_mapf", "--replay", str(path), "--problem", str(tasks)]) == 1
    out = capsys.readouterr().out
    assert "fault: step 1: robots 0 and 1: vertex conflict at [0, 1]" in out
    assert "fault: step 2: robots 0 and 1" not in out  # they part again


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is no JSON"),
        ('{"a": 1}', "holds no 'actualPaths'"),
        ('{"actualPaths": ["F"], "actionModel": "X"}', "actionModel is 'X', use MAPF_T or MAPF"),
        ('{"actualPaths": ["F"]}', "has no starts and 1 paths"),
        ('{"actualPaths": ["F,X"], "start": [[0, 0, "E"]]}', "step 2, robot 0: 'X' is none of F R C W T"),
        ('{"actualPaths": ["F", "F,F"], "start": [[0, 0, "E"], [1, 1, "E"]]}', "robot 1 has 2 actions, robot 0 has 1"),
        (
            '{"actualPaths": ["F"], "start": [[0, 0, "Q"]]}',
            "robot 0: its start [0, 0, 'Q'] is not [row, column, heading]",
        ),
        ('{"actualPaths": ["[(0,0,0,E,0):(F 3)]"], "start": [[0, 0, "E"]]}', "robot 0: its path is in ticks"),
        ('{"actualPaths": ["F"], "start": [[0, 0, "E"]], "actualSchedule": ["x"]}', "its events, tasks or schedule"),
    ],
)
def test_a_broken_plan_is_one_sentence(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_plan(path)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_paths_of_other_tools(tmp_path: Path) -> None:
    eecbs = tmp_path / "paths.txt"
    eecbs.write_text("Agent 0: (0,0)->(0,1)->(0,2)->\nAgent 1: (1,0)->\n")
    assert read_plan(eecbs).cells.tolist() == [[[0, 0], [1, 0]], [[0, 1], [1, 0]], [[0, 2], [1, 0]]]
    pibt2 = tmp_path / "result.txt"
    pibt2.write_text("instance=x\nsolution=\n0:(0,0),(3,1),\n1:(1,0),(3,1),\n")
    assert read_plan(pibt2).cells.tolist() == [[[0, 0], [1, 3]], [[0, 1], [1, 3]]]
    for text, expected in (
        ("Agent 0: (0,0)->\nAgent 2: (1,0)->\n", "line 2: agent 2 comes where agent 1 was expected"),
        ("Agent 0: (0,0)-(0,1)\n", "line 1: expected cells"),
        ("solution=\n0:(0,0),\n1:(0,0),(1,1),\n", "line 3: 2 robots, the steps before have 1"),
        ("solution=\n1:(0,0),\n", "line 2: expected step 0"),
        ("hello\n", "is no plan"),
    ):
        eecbs.write_text(text)
        with pytest.raises(UserError, match=r".*") as caught:
            read_plan(eecbs)
        assert expected in str(caught.value), text


def test_plans_and_instances_that_do_not_go_together(tmp_path: Path) -> None:
    tasks = problem(tmp_path, [0, 2], [4])
    path = kit_file(tmp_path / "plan.json", [[0, 0, "E"]], ["F"])
    with pytest.raises(UserError, match=r"p2\.json has 1 robots, .*p\.json has 2"):
        judged(path.rename(tmp_path / "p2.json"), problem(tmp_path, [0, 2], [4]))
    with pytest.raises(UserError, match="which map"):
        replay(tmp_path / "p2.json", MapfConfig())
    with pytest.raises(UserError, match="one episode"):
        api.evaluate("lifelong_mapf", ["pibt"], seeds=[0, 1], save_plan=tmp_path / "x.json", tasks=str(tasks))
    with pytest.raises(UserError, match="on_target=finish"):
        api.evaluate("lifelong_mapf", ["pibt"], preset="one_shot", seeds=[0], save_plan=tmp_path / "x.json")
    with pytest.raises(UserError, match="has no plan files"):
        api.replay("vmas_tasks", path)
