"""The call stack, its budgets and costs, and what happens to text that is no call."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pettingzoo.test import api_test

from marl.errors import UserError
from marl.plugins import trust
from marl.testing import check_aec
from scenarios.agent_hierarchy.config import ExpertConfig, GraphConfig, HierarchyConfig
from scenarios.agent_hierarchy.conversations import answered
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.graph import graph_names, load_graph
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv


def make(graph: str = "planner_searchers", **options: object) -> HierarchyEnv:
    return HierarchyEnv(Hierarchy(HierarchyConfig.model_validate({"graph": graph, **options})))


def play(env: HierarchyEnv, say: Callable[..., str], seed: int) -> None:
    env.reset(seed=seed)
    while (turn := env.turn()) is not None:
        env.step(say(turn, seed * 1000 + len(turn.messages)))


@pytest.mark.parametrize("graph", graph_names())
def test_pettingzoo_api(graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it did play: steps are counted."""
    steps, step = [], HierarchyEnv.step

    def counting(self: HierarchyEnv, action: str | None) -> None:
        steps.append(action)
        step(self, action)

    monkeypatch.setattr(HierarchyEnv, "step", counting)
    api_test(make(graph), num_cycles=60)
    assert len(steps) >= 2


@pytest.mark.parametrize("graph", graph_names())
def test_it_passes_the_conformance_kit(graph: str) -> None:
    report = check_aec(lambda: make(graph), steps=60)
    assert report.ok, str(report)


@pytest.mark.parametrize("graph", [name for name in graph_names() if name != "router"])
@pytest.mark.parametrize("grammar", ["compact", "json"])
def test_flawless_expert_succeeds_at_the_optimum(graph: str, grammar: str) -> None:
    tasks = {"hops": [0, 1, 2, 3], "arithmetic": 0.3} if graph in ("planner_workers", "planner_specialists") else {}
    env = make(graph, grammar=grammar, tasks=tasks, context=2000)
    expert = Expert(env.hierarchy, flawless=True)
    for seed in range(20):
        play(env, expert, seed)
        outcome = env.outcome()
        assert outcome.success
        assert outcome.cost == pytest.approx(outcome.metrics["optimal_cost"])
        assert outcome.calls == outcome.metrics["optimal_calls"]


def test_router_lets_the_writer_answer() -> None:
    env = make("router")
    play(env, Expert(env.hierarchy, flawless=True), 3)
    outcome = env.outcome()
    assert outcome.success and outcome.conversations[-1].agent == "writer"
    assert outcome.cost == outcome.metrics["optimal_cost"]


def test_call_stack_and_rewards_by_hand() -> None:
    env = make(tasks={"hops": [1], "stale": []})
    env.reset(seed=0)
    relation = env.task.steps[0].name
    knower = "north" if int(relation[1:]) < 5 else "south"
    assert env.observe("north") == ()
    assert env.agent_selection == "planner"
    env.step(f"ask {env.task.start} {relation} {knower}")
    assert env.agent_selection == knower
    assert env.observe(knower)[1]["content"] == f"{env.task.start} {relation}"
    env.step("nonsense")
    assert env.rewards[knower] == -0.01
    assert env.observe(knower)[-1]["content"] == "invalid"
    env.step(f"fresh {relation} {env.task.start}")
    assert env.observe(knower)[-1]["content"] == env.task.answer
    env.step(f"answer {env.task.answer}")
    assert env.agent_selection == "planner"
    assert env.observe("planner")[-1]["content"] == env.task.answer
    env.step(f"answer {env.task.answer}")
    assert all(env.terminations.values())
    assert env.rewards["south"] == pytest.approx(1 - 0.03 * 1.5)
    outcome = env.outcome()
    assert (outcome.success, outcome.cost, outcome.calls) == (True, 1.5, 2)
    assert [c.agent for c in outcome.conversations] == ["planner", knower]
    assert outcome.conversations[1].correct and outcome.conversations[1].invalid == 1


def test_expert_is_weak_but_not_hopeless() -> None:
    env = make()
    expert = Expert(env.hierarchy)
    wins = 0
    for seed in range(150):
        play(env, expert, seed)
        wins += env.outcome().success
    assert 0.1 < wins / 150 < 0.5


def test_turn_budget_truncates_and_calls_are_refused_when_over() -> None:
    env = make(max_turns=5, max_calls=2)
    env.reset(seed=1)
    for _ in range(3):
        env.step("check e1")
    assert env.observe("planner")[-1]["content"] == "over"
    for _ in range(2):
        env.step("check e1")
    assert all(env.truncations.values()) and not any(env.terminations.values())


def test_a_worker_out_of_turns_hands_back_nothing() -> None:
    env = make()
    env.reset(seed=1)
    env.step("ask e1 r0 north")
    for _ in range(4):
        env.step("garbage")
    assert env.agent_selection == "planner" and env.observe("planner")[-1]["content"] == "none"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=12), st.integers(0, 100))
def test_no_text_raises(texts: list[str], seed: int) -> None:
    for guard in (False, True):
        env = make(guard=guard)
        env.reset(seed=seed)
        said = 0
        for text in texts:
            if env.turn() is not None:
                env.step(text)
                said += 1
        turn = env.turn()
        assert said == len(texts) or turn is None
        assert turn is None or turn.agent == env.agent_selection


def test_same_seed_same_task_and_held_out_differs() -> None:
    env, other = make(), make(held_out=True)
    env.reset(seed=5)
    question = env.task.question, env.task.answer
    env.reset(seed=6)
    assert (env.task.question, env.task.answer) != question
    env.reset(seed=5)
    assert (env.task.question, env.task.answer) == question
    other.reset(seed=5)
    assert (other.task.question, other.task.answer) != question


def test_cycles_are_named_or_bounded() -> None:
    roles = {"a": {"calls": ["b"]}, "b": {"calls": ["a"], "tools": ["fresh"]}}
    with pytest.raises(UserError, match="circle"):
        load_graph(GraphConfig.model_validate({"entry": "a", "roles": roles}))
    graph = {"entry": "a", "roles": roles, "cycles": "max_rounds", "max_rounds": 2}
    env = HierarchyEnv(Hierarchy(HierarchyConfig.model_validate({"graph": graph})))
    env.reset(seed=0)
    for callee in ("b", "a", "b"):
        env.step(f"ask e1 r1 {callee}")
    env.step("ask e1 r1 a")
    assert env.observe("b")[-1]["content"] == "over"


@pytest.mark.parametrize(
    ("graph", "word"),
    [
        ({"entry": "x", "roles": {"a": {}}}, "entry 'x'"),
        ({"entry": "a", "roles": {"a": {"calls": ["b"]}}}, "calls 'b'"),
        ({"entry": "a", "roles": {"a": {}, "b": {}}}, "called by nobody"),
    ],
)
def test_graph_faults_are_named(graph: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word):
        load_graph(GraphConfig.model_validate(graph))


def raising_tool(x: str) -> str:
    """Always fails.

    Args:
        x: anything
    """
    raise ValueError(x)


def hanging_tool(x: str) -> str:
    """Never ends in time.

    Args:
        x: anything
    """
    time.sleep(0.5)
    return x


def test_tools_that_raise_or_hang_are_named() -> None:
    trust(__name__)
    tools = [f"{__name__}:raising_tool", f"{__name__}:hanging_tool"]
    graph = {"entry": "a", "roles": {"a": {"tools": tools}}}
    env = HierarchyEnv(Hierarchy(HierarchyConfig.model_validate({"graph": graph, "tool_seconds": 0.02})))
    env.reset(seed=0)
    env.step("raising_tool e1")
    assert env.observe("a")[-1]["content"] == "error: tool raising_tool raised ValueError"
    env.step("hanging_tool e1")
    assert "took longer than 0.02 s" in env.observe("a")[-1]["content"]
    env.step("answer e1")
    assert all(env.terminations.values())


def test_unhelpful_worker_fails_alike_for_every_policy() -> None:
    roles = {"p": {"calls": ["w"]}, "w": {"tools": ["fresh"], "failure": 0.5}}
    graph = {"entry": "p", "roles": roles}
    env = HierarchyEnv(Hierarchy(HierarchyConfig.model_validate({"graph": graph})))
    seen = []
    for seed in range(40):
        answers = []
        for _ in range(2):
            env.reset(seed=seed)
            env.step("ask e1 r1 w")
            env.step("fresh r1 e1")
            answers.append(env.observe("w")[-1]["content"])
        assert answers[0] == answers[1]
        seen.append(answers[0] == "none")
    assert 8 < sum(seen) < 32


def test_expert_options_are_used() -> None:
    perfect = ExpertConfig(prefers_first=0.0, prefers_cache=0.0, stops_early=0.0, useless_check=0.0)
    env = make(expert=perfect.model_dump(), tasks={"hops": [3]})
    play(env, Expert(env.hierarchy), 1)
    assert not any(call.name == "check" for c in env._conversations for call, _ in answered(c.messages))
