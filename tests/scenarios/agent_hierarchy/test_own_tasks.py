"""Questions, graphs and tools of one's own: taught by their plans, judged, refused where nothing could come of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from marl import api
from marl.cli import main
from marl.errors import UserError
from marl.plugins import trust
from marl.training.run import train
from scenarios.agent_hierarchy.answerable import hierarchy_of
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.scenario import SCENARIO
from scenarios.agent_hierarchy.tasks import Step, spelt, spoken_task
from scenarios.agent_hierarchy.world import HierarchyEnv

GRAPH: dict[str, Any] = {
    "entry": "lead",
    "roles": {"lead": {"calls": ["desk"], "turns": 8}, "desk": {"tools": ["fresh", "cache"], "turns": 4}},
}
KNOWLEDGE = [["Bern", "capital_of", "Switzerland"], ["Switzerland", "currency", "franc"]]
PLAN = ["Bern", "capital_of", "currency"]
QUESTION = {"question": "What does one pay with where Bern is the capital?", "answer": "franc", "plan": PLAN}
TINY = (
    "copies=8",
    "total_steps=60",
    "algorithm.group=4",
    "algorithm.warm_start={steps: 2, batch: 4}",
    "algorithm.policy.transformer={width: 16, heads: 2, kv_heads: 1, hidden: 32}",
    "evaluation={every_iterations: 1, seeds: 2}",
)


def weather(city: str, unit: str) -> str:
    """How warm it is.

    Args:
        city: where
        unit: c or f
    """
    return f"{len(city)}{unit}"


def clothes(warmth: str) -> str:
    """What to wear.

    Args:
        warmth: as weather tells it
    """
    return "coat" if warmth == "4c" else "shirt"


def write(folder: Path, *tasks: dict[str, Any], knowledge: Sequence[Sequence[str]] = KNOWLEDGE) -> Path:
    path = folder / "tasks.json"
    path.write_text(json.dumps({"knowledge": knowledge, "tasks": tasks}))
    return path


def hierarchy(path: Path, **options: Any) -> Hierarchy:
    given = {"graph": GRAPH, "tasks": {"file": str(path)}, **options}
    return hierarchy_of(HierarchyConfig.model_validate(given))


def play(found: Hierarchy, flawless: bool = False) -> tuple[bool, list[str]]:
    env, expert, said = HierarchyEnv(found), Expert(found, flawless), []
    env.reset(seed=0)
    while (turn := env.turn()) is not None:
        said.append(expert(turn, 3))
        env.step(said[-1])
    return env.outcome().success, said


def without_plan(task: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in task.items() if key != "plan"}


def test_a_plan_is_followed_for_a_question_in_plain_words(tmp_path: Path) -> None:
    success, said = play(hierarchy(write(tmp_path, QUESTION)))
    assert success
    assert said[:3] == ["ask Bern capital_of desk", "capital_of fresh Bern", "answer Switzerland"]
    # Weaknesses are there if they are asked for: with every chance of one it no longer answers.
    weak = hierarchy(write(tmp_path, QUESTION), expert={"mistake": 1.0})
    assert play(weak) == (False, ["answer none"]) and play(weak, flawless=True)[0]


def test_the_question_alone_is_what_a_learner_sees_unless_the_plan_is_shown(tmp_path: Path) -> None:
    for shown in (False, True):
        env = HierarchyEnv(hierarchy(write(tmp_path, QUESTION), plan=shown))
        env.reset(seed=0)
        turn = env.turn()
        assert turn is not None and turn.plan == "Bern capital_of currency"
        assert turn.messages[1]["content"] == QUESTION["question"] + " plan capital_of currency" * shown
        env.step("ask Bern capital_of desk")
        turn = env.turn()
        assert turn is not None and turn.plan == ""  # what the desk is asked says it by itself


def test_plans_call_tools_of_ones_own(tmp_path: Path) -> None:
    trust("test_own_tasks")
    desk = {"tools": ["test_own_tasks:weather", "test_own_tasks:clothes"]}
    graph = {"entry": "lead", "roles": {"lead": {"calls": ["desk"]}, "desk": desk}}
    task = {"question": "What to wear in Bern?", "answer": "coat", "plan": ["Bern", "weather", "unit=c", "clothes"]}
    success, said = play(hierarchy(write(tmp_path, task, knowledge=()), graph=graph, grammar="json", context=900))
    assert success and json.loads(said[1]) == {"name": "weather", "arguments": {"city": "Bern", "unit": "c"}}
    for plan, word in (
        (["Bern", "weather", "clothes"], "parameter 'unit' without a value"),
        (["Bern", "weather", "kind=c"], "parameter 'kind' that it does not know"),
        (["Bern", "forecast", "unit=c"], "no role has a tool 'forecast'"),
    ):
        with pytest.raises(UserError, match=f"the plan of task 1 .*{word}"):
            hierarchy(write(tmp_path, {**task, "plan": plan}, knowledge=()), graph=graph, grammar="json", context=900)


def test_words_with_spaces_stay_one(tmp_path: Path) -> None:
    steps = (Step("capital of"), Step("weather", '"unit=deg c" days=3'), Step("add", "3"))
    assert spoken_task(spelt("New York", steps)) == ("New York", steps)
    assert steps[1].given == {"unit": "deg c", "days": "3"}
    facts = [["New York", "state", "NY"]]
    task = {"question": "state?", "answer": "NY", "plan": ["New York", "state"]}
    assert play(hierarchy(write(tmp_path, task, knowledge=facts), grammar="json", context=900))[0]
    with pytest.raises(UserError, match=r"'New York', which is several words: choose world.grammar=json"):
        hierarchy(write(tmp_path, task, knowledge=facts))


@pytest.mark.parametrize(
    ("tasks", "word"),
    [
        ([], "holds no task"),
        ([{**QUESTION, "held_out": True}], "marks all of its tasks as held_out"),
        ([{**QUESTION, "question": "  "}], "task 1 of .* has an empty question"),
        ([QUESTION, {**QUESTION, "answer": ""}], "task 2 of .* has an empty answer"),
        ([{**QUESTION, "answer": "a" * 5000}], "5,000 characters"),
        ([{**QUESTION, "answer": "euro"}], "leads to 'franc', but its answer is 'euro'"),
        ([{**QUESTION, "plan": ["Bern"]}], "a start and no step"),
        ([{**QUESTION, "plan": ["Bern", 'x "y']}], "a word that a task cannot spell"),
        ([{**QUESTION, "plan": ["Bern", "above"]}], "a word that a task cannot spell"),
        ([{**QUESTION, "plan": "Bern capital_of"}], "must hold tasks"),
        ([{**QUESTION, "plan": ["Bern", "river"]}], "the knowledge has no 'river' of 'Bern'"),
        ([{**QUESTION, "plan": ["Bern", "add", "two"]}], "no role has the tool compute for 'add two'"),
        ([{**QUESTION, "question": "why " * 100}], "takes 100 of the 96 .* raise world.context"),
    ],
)
def test_files_that_lead_to_nothing_are_refused(tasks: list[dict[str, Any]], word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=word):
        hierarchy(write(tmp_path, *tasks))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"graph": {"entry": "a", "roles": {"a": {"tools": ["check"]}}}}, "no role has a tool .* covers 'r"),
        ({"graph": {"entry": "a", "roles": {"a": {"tools": ["cache"], "knows": [90]}}}}, "no role has a tool"),
        ({"graph": {"entry": "a", "roles": {"a": {"tools": ["cache"]}}}, "tasks": {"hops": [0]}}, "compute"),
        ({"max_calls": 1}, "the shortest takes 2 calls, world.max_calls=1"),
    ],
)
def test_graphs_that_can_answer_no_question_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=f"no question can be answered: .*{word}"):
        hierarchy_of(HierarchyConfig.model_validate(options))


def test_knowledge_that_no_role_covers_is_refused_and_names_of_relations_cover_it(tmp_path: Path) -> None:
    path = write(tmp_path, without_plan(QUESTION))
    for knows, refused in (([0, 1], True), (["capital_of", "currency"], False)):
        roles = {"lead": {"tools": ["fresh"], "knows": knows}}
        if refused:
            with pytest.raises(UserError, match=r"the knowledge of .* cannot be looked up"):
                hierarchy(path, graph={"entry": "lead", "roles": roles})
        else:
            assert hierarchy(path, graph={"entry": "lead", "roles": roles}).roles["lead"].covers("currency")


def test_the_compact_grammar_knows_the_words_of_a_file(tmp_path: Path) -> None:
    known = set(hierarchy(write(tmp_path, QUESTION)).vocabulary())
    assert {"franc", "pay", "capital_of", "Switzerland"} <= known


def overrides(path: Path) -> list[str]:
    return [f"world.graph={json.dumps(GRAPH)}", f"world.tasks.file={path}", "world.context=200", *TINY]


def test_a_run_on_own_tasks_is_taught_and_judged_without_saying_its_graph_again(tmp_path: Path) -> None:
    path = write(tmp_path, QUESTION, {**QUESTION, "held_out": True})
    heard: list[str] = []
    run = train(api.configure("agent_hierarchy", overrides=overrides(path)), tmp_path / "run", heard.append, live=False)
    assert (run / "report.html").exists() or not heard
    results = api.evaluate("agent_hierarchy", ["expert", "flawless", str(run)], seeds=range(3))
    rows = {(row.policy, row.metric): row for row in results.rows}
    assert rows["expert", "success"].mean == rows["flawless", "success"].mean == 1.0
    assert rows[str(run), "success"].n == 3
    assert rows["expert", "success"].instances == {"graph": "own", "tasks": "tasks.json", "preset": "quick"}
    # What is said wins: on the questions of the preset's graph this run has no speakers.
    with pytest.raises(UserError, match="has no role"):
        api.evaluate("agent_hierarchy", [str(run)], seeds=range(2), graph="planner_searchers", tasks=None)
    with pytest.raises(UserError, match=f"'{run}' was trained with another world.graph than 'agent_hierarchy/quick'"):
        api.evaluate("agent_hierarchy", ["agent_hierarchy/quick", str(run)], seeds=range(2))
    assert main(["watch", str(run)]) == 0 and (run / "watch.html").stat().st_size > 0


def test_the_prompts_of_a_run_come_from_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grammar and announcements are what a policy was trained to read: judged otherwise it would only look worse."""
    tiny = [*TINY, "world={grammar: json, context: 600}", "coordination.intent.enabled=true", "evaluation.seeds=1"]
    run = train(api.configure("agent_hierarchy", overrides=tiny), tmp_path / "run", live=False)
    seen: list[HierarchyConfig] = []
    monkeypatch.setattr(api, "evaluate_policies", lambda found, builders, worlds, *_, **__: seen.append(worlds[0][1]))
    for said in ({}, {"grammar": "compact"}):
        api.evaluate("agent_hierarchy", [str(run)], seeds=range(1), **said)
    assert [(one.grammar, one.context, one.announce) for one in seen] == [("json", 600, True), ("compact", 600, True)]


def test_without_plans_the_warm_start_is_refused_and_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, without_plan(QUESTION), {**QUESTION, "held_out": True})
    config = api.configure("agent_hierarchy", overrides=overrides(path))
    for begin in (api.plan, lambda config: train(config, tmp_path / "run", live=False)):
        with pytest.raises(UserError, match=r"training tasks of .* have no 'plan' .* set algorithm.warm_start.steps=0"):
            begin(config)
    assert not (tmp_path / "run").exists()
    replayed = [*overrides(path), "algorithm.warm_start={steps: 0, replay: 0.1}"]
    with pytest.raises(UserError, match=r"algorithm\.warm_start\.replay=0"):
        api.plan(api.configure("agent_hierarchy", overrides=replayed))
    alone = api.configure("agent_hierarchy", overrides=[*overrides(path), "algorithm.warm_start.steps=0"])
    first = train(alone, tmp_path / "alone", live=False)
    train(config, tmp_path / "on", live=False, init=first)  # its weights have learned to speak elsewhere
    assert api.plan(config, init=True).iterations > 0


def test_only_planned_questions_are_demonstrated(tmp_path: Path) -> None:
    path = write(tmp_path, without_plan({**QUESTION, "question": "unplanned?"}), QUESTION)
    assert SCENARIO.language is not None
    world = SCENARIO.language(HierarchyConfig.model_validate({"graph": GRAPH, "tasks": {"file": str(path)}}))
    assert world.untaught == "" and world.demonstrations is not None
    for make, questions in ((world.make, {"unplanned?", QUESTION["question"]}), (world.demonstrations, {"planned"})):
        env = make()
        asked = set()
        for seed in range(20):
            env.reset(seed=seed)
            asked.add(env.task.question)  # type: ignore[attr-defined]
        assert asked == (questions if "planned" not in questions else {QUESTION["question"]})


def test_rules_that_need_plans_are_refused_without_them(tmp_path: Path) -> None:
    path = write(tmp_path, QUESTION, without_plan(QUESTION))
    with pytest.raises(UserError, match=r"policy 'flawless' follows plans, and 1 of the 2 tasks .* have none"):
        api.evaluate("agent_hierarchy", ["flawless"], seeds=range(2), graph=GRAPH, tasks=str(path))


def test_numbers_cannot_act_where_questions_are_words(tmp_path: Path) -> None:
    path = write(tmp_path, QUESTION)
    word = "world.tasks.file holds questions in words: .* language systems"
    config = api.configure("agent_hierarchy", preset="discrete", options={"graph": GRAPH, "tasks": str(path)})
    with pytest.raises(UserError, match=word):
        train(config, tmp_path / "run", live=False)
    with pytest.raises(UserError, match=word):
        api.plan(config)
    env = SCENARIO.make(config.world, 2, torch.device("cpu"))
    env.reset(0)
    with pytest.raises(UserError, match=word):
        env.step(torch.zeros(2, 2, dtype=torch.int64))
