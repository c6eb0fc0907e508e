"""Guidance, intent and safety where agents talk, switched as in every other world; budgets and figures of roles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from marl.api import configure
from marl.errors import UserError
from marl.policies.language.scripted import ScriptedPolicy
from marl.rollout.language.turns import TurnPlayer
from marl.training.language_trainer import role_means
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv

#: A worker with two callers, one of them two levels deep.
DEEP = {
    "entry": "boss",
    "roles": {
        "boss": {"calls": ["chief", "worker"]},
        "chief": {"calls": ["worker"]},
        "worker": {"tools": ["fresh"], "budget": 2},
    },
}


def world(*overrides: str) -> HierarchyEnv:
    config = configure("agent_hierarchy", overrides=[f"world.graph={json.dumps(DEEP)}", *overrides])
    return HierarchyEnv(Hierarchy(config.world.model_copy(update={"max_turns": 40, "context": 400})))


def heard(env: HierarchyEnv, agent: str) -> str:
    return str(env.observe(agent)[1]["content"])


def deep_call(env: HierarchyEnv) -> tuple[str, str, str]:
    """The boss asks the chief for two steps of three, the chief the worker for the first; what each of them read."""
    env.reset(seed=2)
    env.step("ask e1 r1 r2 chief")
    env.step("ask e1 r1 worker")
    return heard(env, "boss"), heard(env, "chief"), heard(env, "worker")


def test_intent_shows_everybody_above_and_what_they_will_do_next() -> None:
    three = "world.tasks.hops=[3]"
    assert deep_call(world(three))[2] == "e1 r1"
    env = world(three, "coordination.intent.enabled=true")
    boss, chief, worker = deep_call(env)
    third = env.task.steps[2].words
    assert boss == env.task.question
    assert chief == f"e1 r1 r2 above ask e1 r1 r2 chief above {third}"
    assert worker == f"e1 r1 above ask e1 r1 r2 chief above {third} above ask e1 r1 worker above r2"
    assert deep_call(world(three, "coordination.intent.enabled=false"))[2] == "e1 r1"


def test_announcements_may_be_late_lost_or_garbled() -> None:
    on = ("world.tasks.hops=[3]", "coordination.intent.enabled=true")
    late = world(*on, "coordination.intent.delay=1")
    assert deep_call(late)[2] == "e1 r1"  # nobody above has called before
    late.step("answer e3")
    late.step("ask e3 r2 worker")
    assert heard(late, "worker") == "e3 r2 above ask e1 r1 worker above r2"  # the chief's call before this one
    assert deep_call(world(*on, "coordination.intent.loss=1.0"))[2] == "e1 r1"
    clear = deep_call(world(*on))[2].split()
    garbled = [deep_call(world(*on, "coordination.intent.noise=0.5"))[2].split() for _ in range(2)]
    assert garbled[0] == garbled[1] != clear and len(garbled[0]) == len(clear)
    assert garbled[0][:2] == clear[:2]  # its own task is not a message
    with pytest.raises(UserError, match="chance of a wrong word"):
        world("coordination.intent.noise=2.0")
    with pytest.raises(UserError, match="no margin"):
        world("coordination.safety.early_margin=1.0")


def test_guidance_is_switched_off_like_anywhere() -> None:
    env = world("world.plan=true")
    assert " plan " in deep_call(env)[0]
    off = world("world.plan=true", "coordination.guidance.enabled=false")
    assert deep_call(off) == deep_call(world())


def test_safety_corrects_for_a_price_and_only_where_it_is_on() -> None:
    env = world("coordination.safety={enabled: true, penalty: 0.25}")
    env.reset(seed=2)
    env.step("ask e1 r1 wurker")
    assert env.agent_selection == "worker" and env.rewards["boss"] == -0.25
    said, executed = env.observe("boss")[2:4]
    assert (said["role"], said["content"]) == ("assistant", "ask e1 r1 wurker")  # its own tokens stay
    assert (executed["role"], executed["content"]) == ("tool", "executed ask e1 r1 worker")
    off = world()
    off.reset(seed=2)
    off.step("ask e1 r1 wurker")
    assert off.agent_selection == "boss" and off.observe("boss")[-1]["content"] == "invalid"


@pytest.mark.parametrize("option", ["announce", "guard"])
def test_two_switches_that_disagree_are_refused(option: str) -> None:
    with pytest.raises(UserError, match=f"world.{option}=true: a run switches it by coordination"):
        configure("agent_hierarchy", overrides=[f"world.{option}=true"])


def test_a_role_s_budget_holds_for_all_its_conversations() -> None:
    env = world()
    env.reset(seed=2)
    for _ in range(2):
        env.step("ask e1 r1 worker")
        env.step("fresh r1 e1")
        env.step("answer e1")
    env.step("ask e1 r1 chief")
    env.step("ask e1 r1 worker")
    env.step("fresh r1 e1")
    assert env.observe("worker")[-1]["content"] == "over"
    env.step("answer none")
    assert env.observe("chief")[-1]["content"] == "none"


def test_figures_of_a_worker_by_caller() -> None:
    hierarchy = Hierarchy(HierarchyConfig.model_validate({"graph": DEEP, "tasks": {"hops": [1]}, "context": 400}))
    texts = {
        0: ["ask {0} {1} chief", "ask {0} {1} worker", "nonsense", "fresh {1} {0}", "answer wrong", "answer e1"],
        1: ["ask {0} {1} worker", "fresh {1} {0}", "answer {2}"],
    }
    episodes = []
    for seed, script in texts.items():
        env = HierarchyEnv(hierarchy)
        env.reset(seed=seed)
        words = (env.task.start, env.task.steps[0].name, env.task.answer)
        left = [text.format(*words) for text in [*script, "answer e1"]]
        policy = ScriptedPolicy(lambda turn, key, left=left: left.pop(0))  # type: ignore[misc]
        policies = dict.fromkeys(hierarchy.roles, policy)
        episodes += TurnPlayer(lambda: HierarchyEnv(hierarchy), policies).play([seed], 0)
    found = role_means(episodes)
    assert found["worker_by_chief/conversations"] == 0.5 and found["worker_by_boss/conversations"] == 0.5
    assert (found["worker_by_chief/invalid"], found["worker_by_boss/invalid"]) == (1.0, 0.0)
    assert (found["worker_by_chief/correct"], found["worker_by_boss/correct"]) == (0.0, 1.0)
    assert found["worker_by_chief/turns"] == 3.0 and found["boss_by_user/conversations"] == 1.0


def test_tasks_of_a_file_may_be_held_out(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    tasks = [{"question": f"q{n}", "answer": "a", "held_out": n == 0} for n in range(3)]
    for marked in (True, False):
        shown = tasks if marked else [{**task, "held_out": False} for task in tasks]
        path.write_text(json.dumps({"tasks": shown}))
        seen = []
        for held_out in (False, True):
            env = HierarchyEnv(
                Hierarchy(HierarchyConfig.model_validate({"tasks": {"file": str(path)}, "held_out": held_out}))
            )
            questions = set()
            for seed in range(40):
                env.reset(seed=seed)
                questions.add(env.task.question)
            seen.append(questions)
        every = {"q0", "q1", "q2"}
        assert seen == ([{"q1", "q2"}, {"q0"}] if marked else [every, every])


def test_the_expert_finds_its_way_at_any_depth() -> None:
    hierarchy = Hierarchy(HierarchyConfig.model_validate({"graph": DEEP, "tasks": {"hops": [1, 2]}, "context": 400}))
    env, expert = HierarchyEnv(hierarchy), Expert(hierarchy, flawless=True)
    env.reset(seed=0)
    while (turn := env.turn()) is not None:
        env.step(expert(turn, len(turn.messages)))
    assert env.outcome().success
