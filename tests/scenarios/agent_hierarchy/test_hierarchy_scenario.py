"""The scenario as the platform sees it: policies of both kinds in one evaluation, plans, coordination, own tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from marl import api
from marl.errors import UserError
from marl.training.run import train
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.graph import GRAPHS, graph_names, load_graph
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.scenario import SCENARIO
from scenarios.agent_hierarchy.world import HierarchyEnv

SMALL = [
    "copies=16",
    "total_steps=200",
    "algorithm.group=4",
    "algorithm.warm_start.steps=2",
    "algorithm.policy.transformer={width: 16, heads: 2, kv_heads: 1, hidden: 32}",
    "evaluation.every_iterations=0",
]


def env_of(**options: object) -> HierarchyEnv:
    return HierarchyEnv(Hierarchy(HierarchyConfig.model_validate(options)))


def test_speakers_and_scripts_are_evaluated_on_the_same_episodes(tmp_path: Path) -> None:
    run = train(api.configure("agent_hierarchy", overrides=SMALL), tmp_path / "run", live=False)
    results = api.evaluate("agent_hierarchy", ["expert", "flawless", str(run)], seeds=range(6))
    rows = {(row.policy, row.metric): row for row in results.rows}
    assert rows["flawless", "success"].mean == 1.0
    assert rows["flawless", "cost"].mean == rows["expert", "optimal_cost"].mean
    assert rows[str(run), "success"].n == 6


def test_plan_of_a_run() -> None:
    plan = api.plan(api.configure("agent_hierarchy"))
    assert plan.agents == 3 and plan.iterations > 20
    assert set(plan.parameters) == {"level_0", "level_1"}
    assert 300_000 < plan.parameters["level_0"] < 600_000


@pytest.mark.parametrize("preset", SCENARIO.preset_names())
def test_presets_resolve(preset: str) -> None:
    assert api.configure("agent_hierarchy", preset=preset).preset == preset


@pytest.mark.parametrize("name", graph_names())
def test_graphs_come_from_files_too(name: str) -> None:
    assert load_graph(str(GRAPHS / f"{name}.yaml")) == load_graph(name)


def test_own_tasks_and_knowledge(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    data = {
        "knowledge": [["Bern", "capital_of", "Switzerland"], ["Switzerland", "currency", "franc"]],
        "tasks": [
            {"question": "Bern capital_of currency", "answer": "franc", "plan": ["Bern", "capital_of", "currency"]}
        ],
    }
    path.write_text(json.dumps(data))
    graph = {"entry": "p", "roles": {"p": {"calls": ["w"]}, "w": {"tools": ["fresh"]}}}
    env = env_of(graph=graph, tasks={"file": str(path)}, grammar="json", context=4000)
    env.reset(seed=0)
    expert = Expert(env.hierarchy, flawless=True)
    while (turn := env.turn()) is not None:
        env.step(expert(turn, 0))
    assert env.outcome().success
    path.write_text('{"tasks": [{"question": 3}]}')
    with pytest.raises(UserError, match="question and an answer"):
        env_of(tasks={"file": str(path)})
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        env_of(tasks={"file": str(path)})


def test_intent_and_guidance_are_seen_and_can_be_switched_off() -> None:
    plain, both = env_of(tasks={"hops": [2]}), env_of(tasks={"hops": [2]}, announce=True, plan=True)
    seen = []
    for env in (plain, both):
        env.reset(seed=4)
        start, steps = env.task.start, env.task.steps
        env.step(f"ask {start} {steps[0].name} north")
        seen.append((env.observe("planner")[1]["content"], env.observe("north")[1]["content"]))
    assert seen[0] == (f"{start} {steps[0].name} {steps[1].name}", f"{start} {steps[0].name}")
    planner, north = seen[1]
    assert planner.endswith(f"plan {steps[0].name} {steps[1].name}")
    assert f"above ask {start} {steps[0].name} north" in north and north.split(" plan ")[1].split()[0] == steps[0].name


def test_the_guard_replaces_an_invalid_call_by_the_nearest_legal_one() -> None:
    env = env_of(guard=True)
    env.reset(seed=0)
    env.step("ask e1 r0 nort")
    assert env.agent_selection == "north" and env.rewards["planner"] == 0.0
    said, executed = env.observe("planner")[2:4]
    assert said["content"] == "ask e1 r0 nort" and executed["content"] == "executed ask e1 r0 north"
    env.step("cashe r0 e1 e2")
    assert env.observe("north")[-2]["content"] == "executed r0 cache e1"
    env.step("gibberish")  # nothing is near: it hands back nothing
    assert env.agent_selection == "planner"
    assert env.observe("planner")[-1]["content"] == "none"
    while (turn := env.turn()) is not None:
        env.step("gibberish")
        assert turn.agent == "planner"
    assert env.outcome().metrics["corrections"] == 4 and env.outcome().metrics["invalid_actions"] == 0
