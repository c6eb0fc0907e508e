"""The first role's view for single-agent libraries."""

from __future__ import annotations

import inspect
from typing import Literal, get_type_hints

import pytest

from marl.errors import UserError
from marl.policies.language.scripted import ScriptedPolicy
from marl.rollout.solo import SoloEnv, tool_environment
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv

HIERARCHY = Hierarchy(HierarchyConfig.model_validate({"tasks": {"hops": [1], "stale": []}}))
OTHERS = dict.fromkeys(("north", "south"), ScriptedPolicy(Expert(HIERARCHY, flawless=True)))


def make() -> HierarchyEnv:
    return HierarchyEnv(HIERARCHY)


def test_reset_and_step() -> None:
    solo = SoloEnv(make, OTHERS)
    begun = solo.reset(3)
    start, relation = begun.observation[1]["content"].split()
    knower = "north" if int(relation[1:]) < 5 else "south"
    answered = solo.step(f"ask {start} {relation} {knower}")
    assert not answered.done and [m["role"] for m in answered.observation] == ["tool"]
    ended = solo.step(f"answer {answered.observation[0]['content']}")
    assert ended.done and ended.metadata["success"] and ended.reward == pytest.approx(0.97)
    with pytest.raises(UserError, match="reset first"):
        solo.step("answer e1")


def test_roles_without_policy_are_named() -> None:
    solo = SoloEnv(make, {})
    solo.reset(0)
    with pytest.raises(UserError, match="role 'north' has no policy"):
        solo.step("ask e1 r0 north")


def test_calls_are_methods_with_types_and_docstrings() -> None:
    kind = tool_environment(make, OTHERS)
    public = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
    assert public == {"reset", "get_reward", "ask", "answer", "check"}
    assert get_type_hints(kind.ask)["agent"] == Literal["north", "south"]
    assert "task: what to find out" in (kind.ask.__doc__ or "")
    env = kind()
    start, relation = env.reset().split()
    knower = "north" if int(relation[1:]) < 5 else "south"
    found = env.ask(task=f"{start} {relation}", agent=knower)
    env.answer(text=found)
    assert env.get_reward() == pytest.approx(0.97)
    assert env.answer(text=found) == "the episode is over"
