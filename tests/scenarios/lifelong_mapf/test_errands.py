"""Errands: lists of cells that a scheduler gives to robots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mapf_play import leaves
from numpy.typing import NDArray
from test_lorr import problem

from marl import api
from marl.errors import UserError
from marl.plugins import trust
from marl.testing import check_batched
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.lorr import load_problem
from scenarios.lifelong_mapf.step.errands import Desk, nearest
from scenarios.lifelong_mapf.world import LifelongMapf

STAY, UP, DOWN, LEFT, RIGHT = range(5)
#: Two robots in the west; three errands are open.
TASKS = ["1,2", "11", "12,13,14", "3", "4,4", "0"]


def errands(folder: Path, **header: Any) -> Path:
    return problem(folder, [0, 10], TASKS, **({"version": "2024 LoRR", "numTasksReveal": 1.5} | header))


def last_first(desk: Desk) -> NDArray[np.int64]:
    return desk.errand.size - 1 - np.arange(desk.free.size)


def the_same_for_all(desk: Desk) -> NDArray[np.int64]:
    return np.zeros(desk.free.size, np.int64)


@pytest.mark.parametrize("compiled", [True, False])
def test_stops_are_visited_in_order_and_new_errands_revealed(tmp_path: Path, compiled: bool) -> None:
    config = MapfConfig(tasks=str(errands(tmp_path)), scheduler="oldest", horizon=30)
    world = LifelongMapf(config, 1, compiled=compiled)
    world.reset(0)
    assert world.errands is not None
    assert world.errands.held.tolist() == [[0, 1]] and world.goal.tolist() == [[1, 11]]
    steps = [
        # joint action, reward, errands, goals
        ((RIGHT, RIGHT), [0, 1], [0, 2], [2, 12]),  # robot 1 is done with 1; 3 is revealed; it gets 2
        ((RIGHT, RIGHT), [1, 0], [3, 2], [3, 13]),  # robot 0 is done with 0; 4 is revealed; it gets 3
        ((RIGHT, RIGHT), [1, 0], [4, 2], [4, 14]),
        ((RIGHT, RIGHT), [0, 1], [4, 5], [4, 0]),  # the second stop of 4 is where the first one was
        ((STAY, STAY), [1, 0], [6, 5], [1, 0]),  # errand 6 is task 0 again
    ]
    for joint, reward, held, goals in steps:
        timestep = world.step(torch.tensor([joint]))
        assert timestep.reward.tolist() == [reward]
        assert world.errands.held.tolist() == [held] and world.goal.tolist() == [goals]
    assert int(world.errands.done) == 5 and int(world.errands.given) == 8


def test_the_nearest_rule_takes_the_soonest_pair_first() -> None:
    steps = np.array([[4, 1], [2, 9], [0, 3]], np.int32)  # errands by robots
    desk = Desk(np.array([0, 1]), np.zeros(2, np.int32), np.zeros(2, np.int8), np.arange(3), steps, np.array([0, 0, 9]))
    assert nearest(desk).tolist() == [1, 0]  # robot 1 and errand 0 (1 step), then robot 0 and errand 1 (2)
    long = desk._replace(length=np.array([5, 0, 0], np.int32))
    assert nearest(long).tolist() == [2, 0]  # errand 2 is done at once; of the rest, 0 after 6 steps, 1 after 9


def test_a_scheduler_of_ones_own(tmp_path: Path) -> None:
    path = str(errands(tmp_path))
    trust(__name__)
    world = LifelongMapf(MapfConfig(tasks=path, scheduler=f"{__name__}:last_first"), 1)
    world.reset(0)
    assert world.errands is not None and world.errands.held.tolist() == [[2, 1]]
    with pytest.raises(UserError, match=r"the scheduler gave \[0, 0\] to 2 robots"):
        LifelongMapf(MapfConfig(tasks=path, scheduler=f"{__name__}:the_same_for_all"), 1).reset(0)
    with pytest.raises(UserError, match="scheduler 'soonest' does not exist, use nearest, oldest or module:object"):
        LifelongMapf(MapfConfig(tasks=path, scheduler="soonest"), 1)


@pytest.mark.parametrize("motion", ["moves", "turning"])
def test_what_the_world_counts_is_what_the_saved_plan_holds(tmp_path: Path, motion: str) -> None:
    tasks, path = str(errands(tmp_path)), tmp_path / "plan.json"
    found = api.evaluate("lifelong_mapf", ["pibt"], problem=tasks, motion=motion, horizon=80, seeds=[0], save_plan=path)
    figures = {row.metric: row.mean for row in found.rows}
    judged = api.replay("lifelong_mapf", path, problem=tasks)
    assert not judged.faults
    assert judged.figures["tasks_finished"] == round(80 * figures["throughput"]) > 10
    assert judged.figures["stops_visited"] == round(80 * figures["stops_per_step"])
    saved = json.loads(path.read_text())
    assert saved["version"] == "2024 LoRR" and saved["numScheduleErrors"] == 0
    assert saved["tasks"][2] == [2, 0, [2, 2, 2, 3, 2, 4]]
    assert len(saved["events"]) == judged.figures["stops_visited"]


def test_greedy_tasks_go_to_whoever_comes_first(tmp_path: Path) -> None:
    many = [(7 * k) % 5 + 10 * (k % 2) for k in range(200)]
    tasks, path = str(problem(tmp_path, [0, 10, 4], many, taskAssignmentStrategy="greedy")), tmp_path / "plan.json"
    found = api.evaluate(
        "lifelong_mapf",
        ["pibt"],
        problem=tasks,
        horizon=60,
        seeds=[0],
        save_plan=path,
        overrides=["world.scheduler=oldest"],
    )
    rate = next(row.mean for row in found.rows if row.metric == "throughput")
    judged = api.replay("lifelong_mapf", path, problem=tasks)
    assert not judged.faults and judged.figures["tasks_finished"] == round(60 * rate) > 10
    few = str(problem(tmp_path / "few", [0, 10, 4], [1, 11, 3, 2], taskAssignmentStrategy="greedy"))
    with pytest.raises(UserError, match="all of its 4 tasks are given out: use a shorter horizon"):
        api.evaluate("lifelong_mapf", ["pibt"], problem=few, horizon=60, seeds=[0])


def test_batches_snapshots_and_the_conformance_kit(tmp_path: Path) -> None:
    config = MapfConfig(tasks=str(errands(tmp_path)), horizon=12)
    assert (report := check_batched(lambda copies: LifelongMapf(config, copies), steps=30, batches=(1, 3))).ok, report
    world = LifelongMapf(config, 3)
    world.reset(0)
    generator = torch.Generator().manual_seed(0)
    actions = torch.randint(0, 5, (30, 3, 2), generator=generator)
    for joint in actions[:10]:
        world.step(joint)
    saved = world.snapshot()
    before = [leaves(world.step(joint)) | {"goal": world.goal.clone()} for joint in actions[10:]]
    world.restore(saved)
    for joint, then in zip(actions[10:], before, strict=True):
        now = leaves(world.step(joint)) | {"goal": world.goal.clone()}
        assert all(torch.equal(then[name], now[name]) for name in now)


def test_what_is_not_played_is_said(tmp_path: Path) -> None:
    def sentence(path: Path, **options: Any) -> str:
        with pytest.raises(UserError) as caught:
            LifelongMapf(MapfConfig(tasks=str(path), **options), 1)
        return str(caught.value)

    late = {"version": "2026 LoRR", "agentCounter": 3, "delayConfig": {"seed": 0}}
    assert "delays robots at random" in sentence(errands(tmp_path, **late))
    assert LifelongMapf(MapfConfig(tasks=str(errands(tmp_path, version="2026 LoRR", agentCounter=3))), 1)
    assert "played with on_target=restart" in sentence(errands(tmp_path), on_target="nothing")
    assert "played with bound_share=false" in sentence(errands(tmp_path), bound_share=True)
    assert "reveals 1 tasks for 2 robots" in sentence(errands(tmp_path, numTasksReveal=0.5))
    path = errands(tmp_path)
    (tmp_path / "hall.map").write_text("type octile\nheight 3\nwidth 5\nmap\n.....\n@@@@@\n.....\n")
    assert "task 1 cannot be reached from the start of robot 0" in sentence(path)
    (tmp_path / "hall.tasks").write_text("2\n1\n2,3\n")
    assert load_problem(path).n_tasks == 2
    assert "robot 1 cannot reach the tasks" in sentence(path)
