"""One role of a language world as an environment of its own, and its calls as TRL's tools."""

from __future__ import annotations

import inspect

import pytest

from marl.errors import UserError
from marl.policies.language.base import Request
from marl.policies.language.scripted import ScriptedPolicy
from marl.rollout.one_speaker import OneSpeaker
from marl.rollout.trl_tools import environment_factory
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv

HIERARCHY = Hierarchy(HierarchyConfig.model_validate({"tasks": {"hops": [2], "stale": []}, "costs": {"weight": 0.1}}))
EXPERT = ScriptedPolicy(Expert(HIERARCHY, flawless=True))
OTHERS = {"north": EXPERT, "south": EXPERT}


class Silent:
    """A policy that never answers."""

    trainable = False

    def complete(self, requests: list[Request], greedy: bool = False) -> list[str | None]:
        return [None for _ in requests]

    def forget(self) -> None:
        """Nothing is cached."""


def knower(relation: str) -> str:
    return "north" if int(relation[1:]) < 5 else "south"


def test_the_planner_by_hand() -> None:
    speaker = OneSpeaker(HierarchyEnv(HIERARCHY), "planner", OTHERS)
    first = speaker.reset(seed=4)
    value, *relations = first.observation[1]["content"].split()
    assert [message["role"] for message in first.observation] == ["system", "user"] and not first.done
    refused = speaker.step("nonsense")
    assert refused.reward == pytest.approx(-0.01) and refused.observation[0]["content"] == "invalid"
    for relation in relations:
        result = speaker.step(f"ask {value} {relation} {knower(relation)}")
        assert [message["role"] for message in result.observation] == ["tool"]
        value = result.observation[0]["content"]
    last = speaker.step(f"answer {value}")
    assert last.done and last.observation == [] and last.metadata["success"] and last.metadata["calls"] == 4
    assert last.reward == pytest.approx(1.0 - 0.1 * last.metadata["cost"])
    with pytest.raises(RuntimeError, match="over"):
        speaker.step("answer e1")


def test_a_searcher_is_asked_in_several_conversations() -> None:
    others = {"planner": EXPERT, "south": EXPERT}
    speaker = OneSpeaker(HierarchyEnv(HIERARCHY), "north", others)
    seen, result = [], speaker.reset(seed=3)
    for _ in range(20):
        if result.done:
            break
        seen.append(result.metadata["conversation"])
        last = result.observation[-1]
        entity, relation = [*last["content"].split(), ""][:2]
        result = speaker.step(f"cache {relation} {entity}" if last["role"] == "user" else f"answer {entity}")
    assert result.done and ("success" in result.metadata) and len(seen) == 2 * len(set(seen))


def test_faults_are_named() -> None:
    with pytest.raises(UserError, match="role 'nobody'"):
        OneSpeaker(HierarchyEnv(HIERARCHY), "nobody", OTHERS)
    with pytest.raises(UserError, match="speaks for role 'south'"):
        OneSpeaker(HierarchyEnv(HIERARCHY), "planner", {"north": EXPERT})
    silent = Silent()
    speaker = OneSpeaker(HierarchyEnv(HIERARCHY), "planner", {"north": silent, "south": silent})
    speaker.reset(seed=0)
    assert speaker.step("ask e1 r0 north").metadata == {"dropped": True}


def test_calls_become_methods() -> None:
    factory = environment_factory(lambda: HierarchyEnv(HIERARCHY), OTHERS)
    public = {name for name, _ in inspect.getmembers(factory, inspect.isfunction) if not name.startswith("_")}
    assert public == {"reset", "get_reward", "ask", "check", "answer"}
    env = factory()
    value, *relations = env.reset(seed=4, prompt="ignored").split()
    for relation in relations:
        value = env.ask(f"{value} {relation}", agent=knower(relation))  # type: ignore[attr-defined]
    assert "invalid" in env.ask("e1 r1", "nobody")  # type: ignore[attr-defined]
    assert env.answer(text=value) == "the episode is over"  # type: ignore[attr-defined]
    assert env.get_reward() == pytest.approx(1.0 - 0.1 * 2 - 0.01)
    assert env.answer("e1") == "the episode is over"  # type: ignore[attr-defined]
