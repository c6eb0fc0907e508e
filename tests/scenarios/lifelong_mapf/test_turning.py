"""Robots that turn: headings in the world, its views, rules, supervisor and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mapf_play import leaves
from test_lorr import problem

from marl import api
from marl.coordination.safety import Safety
from marl.envs.batched import TimeStep
from marl.errors import UserError
from marl.testing import check_batched
from scenarios.lifelong_mapf.baselines import BASELINES
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.generators import RandomMap
from scenarios.lifelong_mapf.maps.headings import FORWARD, LEFT, RIGHT, TURNS, WAIT, actions_towards
from scenarios.lifelong_mapf.observation import N_STATE
from scenarios.lifelong_mapf.pibt.preferences import NO_WAY, add_turns
from scenarios.lifelong_mapf.plans.recorder import PlanRecorder
from scenarios.lifelong_mapf.plans.text_files import read_plan
from scenarios.lifelong_mapf.render import MapfRecorder
from scenarios.lifelong_mapf.world import LifelongMapf

EAST, SOUTH, WEST, NORTH = range(4)
TURNING = MapfConfig(
    generator=RandomMap(size=10, density=0.15), map_pool=4, agents=10, horizon=40, motion="turning", radius=3
)


def hall(folder: Path, starts: list[int], goals: list[int], **options: Any) -> LifelongMapf:
    """Robots on the map of ``test_lorr``, one copy."""
    path = problem(folder, starts, goals)
    return LifelongMapf(MapfConfig(**{"tasks": str(path), "motion": "turning", "horizon": 30} | options), 1)


def act(world: LifelongMapf, *joint: int) -> TimeStep:
    return world.step(torch.tensor([joint]))


def random_actions(world: LifelongMapf, seed: int) -> torch.Tensor:
    return torch.randint(0, 4, world.position.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("compiled", [True, False])
def test_a_robot_turns_and_drives_ahead(tmp_path: Path, compiled: bool) -> None:
    path = problem(tmp_path, [1], [3, 13])
    world = LifelongMapf(MapfConfig(tasks=str(path), motion="turning", horizon=30), 1, compiled=compiled)
    world.reset(0)
    assert world.heading.tolist() == [[EAST]]
    # (action, cell and heading after it); cell 6 is a wall, row 0 the border in the north.
    for action, cell, heading in [
        (FORWARD, 2, EAST),
        (LEFT, 2, NORTH),
        (FORWARD, 2, NORTH),
        (RIGHT, 2, EAST),
        (RIGHT, 2, SOUTH),
        (WAIT, 2, SOUTH),
        (FORWARD, 7, SOUTH),
        (RIGHT, 7, WEST),
        (FORWARD, 7, WEST),
        (LEFT, 7, SOUTH),
        (FORWARD, 12, SOUTH),
        (LEFT, 12, EAST),
    ]:
        act(world, action)
        assert (int(world.position), int(world.heading)) == (cell, heading)


def test_conflicts_are_those_of_moves_and_turns_are_always_made(tmp_path: Path) -> None:
    world = hall(tmp_path, [0, 2, 4], [10])
    world.reset(0)
    act(world, WAIT, RIGHT, RIGHT)
    act(world, WAIT, RIGHT, WAIT)
    assert world.heading.tolist() == [[EAST, WEST, SOUTH]]
    timestep = act(world, FORWARD, FORWARD, LEFT)  # 0 and 1 want cell 1: the lower number goes first
    assert world.position.tolist() == [[1, 2, 4]] and world.heading.tolist() == [[EAST, WEST, EAST]]
    assert world.refused.tolist() == [[False, True, False]]
    act(world, FORWARD, FORWARD, WAIT)  # they would exchange their places
    assert world.position.tolist() == [[1, 2, 4]] and int(timestep.metrics["collisions"]) == 0


def test_views_show_the_heading(tmp_path: Path) -> None:
    world = hall(tmp_path, [0, 2], [10])
    assert world.spec.action_space["agents"].n == 4
    timestep = world.reset(0)
    assert timestep.observation["heading"].tolist() == [[[1, 0, 0, 0]] * 2]
    timestep = act(world, RIGHT, LEFT)
    assert timestep.observation["heading"].tolist() == [[[0, 1, 0, 0], [0, 0, 0, 1]]]
    assert timestep.state.shape[-1] == N_STATE + 4
    assert torch.equal(timestep.state[..., N_STATE:], timestep.observation["heading"])


def test_the_end_of_an_episode_shows_its_last_heading_and_the_next_begins_in_the_east() -> None:
    world = LifelongMapf(TURNING.model_copy(update={"horizon": 3}), 2)
    world.reset(0)
    for _ in range(3):
        timestep = world.step(torch.full((2, 10), RIGHT))
    assert timestep.done.all() and (world.heading == EAST).all() and (world.final_heading == NORTH).all()
    assert (timestep.final.observation["heading"].argmax(-1) == NORTH).all()
    assert (timestep.observation["heading"].argmax(-1) == EAST).all()


def test_it_passes_the_conformance_kit() -> None:
    config = TURNING.model_copy(update={"agents": 4, "horizon": 12})
    report = check_batched(lambda copies: LifelongMapf(config, copies), steps=30, batches=(1, 3))
    assert report.ok, report


def test_without_turns_it_is_the_world_of_moves() -> None:
    """Each robot turns as long as it takes; the moves are then those of the other world, and so is all it shows."""
    plain = LifelongMapf(TURNING.model_copy(update={"motion": "moves", "horizon": 1000}), 3)
    world = LifelongMapf(TURNING.model_copy(update={"horizon": 1000}), 3)
    plain.reset(7)
    world.reset(7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        moves = torch.randint(0, 5, world.position.shape, generator=generator)
        for _ in range(2):
            turns = actions_towards(world.heading, moves)
            world.step(torch.where(turns == FORWARD, WAIT, turns))
        assert ((moves == 0) | (actions_towards(world.heading, moves) == FORWARD)).all()
        after = world.step(actions_towards(world.heading, moves))
        there = plain.step(moves)
        assert torch.equal(world.position, plain.position)
        assert torch.equal(after.observation["window"], there.observation["window"])


def test_both_engines_agree_and_snapshots_go_on() -> None:
    worlds = [LifelongMapf(TURNING, 3, compiled=compiled) for compiled in (True, False)]
    for world in worlds:
        world.enable_plan()
        world.reset(1)
    for step in range(50):
        one, other = (world.step(random_actions(world, step)) for world in worlds)
        for name, tensor in leaves(one).items():
            assert torch.equal(tensor, leaves(other)[name]), (step, name)
    saved = worlds[0].snapshot()
    first = [worlds[0].step(random_actions(worlds[0], step)) for step in range(20)]
    worlds[0].restore(saved)
    for step, before in enumerate(first):
        again = worlds[0].step(random_actions(worlds[0], step))
        assert torch.equal(before.observation["heading"], again.observation["heading"]), step


def test_an_action_that_there_is_not_is_named() -> None:
    world = LifelongMapf(TURNING, 2)
    world.reset(0)
    actions = torch.full((2, 10), WAIT)
    actions[1, 3] = 4
    with pytest.raises(ValueError, match="action of agent 3 in copy 1 is 4, expected 0 to 3"):
        world.step(actions)


def test_turns_are_counted_the_shorter_way() -> None:
    # Rows: east, south, west, north; columns: stay, up, down, left, right.
    assert TURNS.tolist() == [[0, 1, 1, 2, 0], [0, 2, 0, 1, 1], [0, 1, 1, 0, 2], [0, 0, 2, 1, 1]]
    scores = np.array([[10, 9, NO_WAY, 11, 11]], np.int32)
    add_turns(np.array([SOUTH], np.int8), np.array([True]), 4, scores)
    assert scores.tolist() == [[14, 13, NO_WAY, 13, 13]]  # half a step for each quarter, staying as much as half a turn
    for heading in range(4):
        for move in range(1, 5):
            now, count = torch.tensor([[heading]], dtype=torch.int8), 0
            while int(action := actions_towards(now, torch.tensor([[move]]))) != FORWARD:
                now, count = (now + (1 if int(action) == RIGHT else 3)) % 4, count + 1
            assert count == TURNS[heading, move]


@pytest.mark.parametrize("policy", ["pibt", "guided_pibt", "follow_path", "random"])
def test_rules_play_and_rules_of_priority_reach_goals(policy: str) -> None:
    found = api.evaluate(
        "lifelong_mapf", [policy], preset="random", motion="turning", agents=24, horizon=120, seeds=[0, 1]
    )
    figures = {row.metric: row.mean for row in found.rows}
    assert figures["collisions"] == 0
    assert figures["throughput"] > {"pibt": 0.6, "guided_pibt": 0.8, "follow_path": 0.01, "random": -1}[policy]


@pytest.mark.parametrize("policy", ["windowed", "guided_search"])
def test_policies_that_cannot_turn_are_refused_by_name(policy: str) -> None:
    with pytest.raises(UserError, match=f"policy '{policy}' plans for robots that do not turn"):
        api.evaluate("lifelong_mapf", [policy], motion="turning", seeds=[0], horizon=4)


def test_learned_policies_and_features_of_five_moves_are_refused() -> None:
    for policy in ("lifelong_mapf/follower", "lifelong_mapf/scorer"):
        with pytest.raises(UserError, match=r"guidance\.(egocentric|choices) is about five moves"):
            api.evaluate("lifelong_mapf", [policy], motion="turning", seeds=[0], horizon=4)


@pytest.mark.parametrize("collision", ["soft", "priority", "block_both"])
def test_the_supervisor_leaves_no_refused_move(collision: str) -> None:
    world = LifelongMapf(TURNING.model_copy(update={"collision": collision, "agents": 30, "horizon": 100}), 2)
    safety = Safety(world)
    timestep, moved = world.reset(0), 0
    for step in range(60):
        proposed = random_actions(world, step)
        proposed = torch.where(proposed == WAIT, FORWARD, proposed)
        before, heading = world.position.clone(), world.heading.clone()
        executed = safety.correct(timestep, proposed).executed
        turns = (proposed == RIGHT) | (proposed == LEFT)
        assert ((executed == proposed) | (executed == FORWARD))[turns].all()
        timestep = world.step(executed)
        assert not world.refused.any()
        moved += int((world.position != before).sum())
        assert torch.equal(heading != world.heading, (executed == RIGHT) | (executed == LEFT))
    assert moved > 300


def test_saved_plans_have_headings_and_the_player_too(tmp_path: Path) -> None:
    world = hall(tmp_path, [0, 14, 4], [3, 10, 1, 12, 4, 0])
    policy, plans, shown = BASELINES["pibt"](world), PlanRecorder(world), MapfRecorder(world, world.heading)
    timestep = world.reset(0)
    for recorder in (plans, shown):
        recorder.add(timestep, None)
    headings = [world.heading[0].tolist()]
    while not timestep.done[0]:
        actions = policy.act(timestep)
        timestep = world.step(actions)
        headings.append((world.final_heading if timestep.done[0] else world.heading)[0].tolist())
        for recorder in (plans, shown):
            recorder.add(timestep, actions)
    path = tmp_path / "plan.json"
    plans.write(path)
    again = read_plan(path)
    assert again.headings is not None and again.headings.tolist() == headings
    assert again.cells.tolist() == plans.plan().cells.tolist()
    found = api.replay("lifelong_mapf", path, problem=str(tmp_path / "p.json"))
    assert not found.faults and found.figures["tasks_finished"] == json.loads(path.read_text())["numTaskFinished"] > 3
    data = shown._data()
    assert data["headings"] == "".join(str(h) for row in headings[:-1] for h in row)
    assert next(iter(shown.frames())).shape[2] == 3


def test_it_trains_with_guidance_and_intents(tmp_path: Path) -> None:
    api.train(
        "lifelong_mapf",
        preset="small",
        motion="turning",
        agents=6,
        horizon=16,
        overrides=[
            "total_steps=1",
            "copies=2",
            "algorithm.rollout=4",
            "world.map_pool=1",
            "evaluation.every_iterations=0",
            "coordination.intent.enabled=true",
            "coordination.safety.enabled=true",
        ],
        out=tmp_path / "run",
    )
    figures = api.evaluate(
        "lifelong_mapf", [str(tmp_path / "run")], preset="small", motion="turning", seeds=[0], horizon=8
    )
    assert figures.rows
