"""What the guard of calls promises, against agents that say anything at all."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.agent_hierarchy.calls import Call, parse
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.guard import guarded
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.tools import ANSWER, BUILT_IN, delegation, tool_from
from scenarios.agent_hierarchy.world import HierarchyEnv

HIERARCHIES = {
    grammar: Hierarchy(HierarchyConfig(guard=True, grammar=grammar, max_calls=5, max_turns=14))
    for grammar in ("compact", "json")
}
WORDS = (
    "ask",
    "asks",
    "cache",
    "fresh",
    "check",
    "answer",
    "e5",
    "r1",
    "r9",
    "north",
    "nroth",
    "south",
    "{",
    '"',
    "-1",
)
LEGAL = ("ask e5 r1 north", "ask e2 r5 south", "fresh r1 e5", "cache r5 e2", "check e5")
TEXTS = st.one_of(
    st.sampled_from(LEGAL),
    st.sampled_from(LEGAL),
    st.none(),
    st.text(max_size=30),
    st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join),
    st.lists(st.sampled_from(WORDS), min_size=3, max_size=3).map(
        lambda words: json.dumps({"name": words[0], "arguments": {"task": words[1], "agent": words[2]}})
    ),
)


TYPES = {"string": str, "integer": int, "number": float, "boolean": bool}


class Watched(HierarchyEnv):
    """Notes every call that is executed, and the role that makes it."""

    def reset(self, seed=None, options=None):
        self.executed = []
        super().reset(seed, options)

    def _execute(self, top, call):
        self.executed.append((top.role, call))
        super()._execute(top, call)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(grammar=st.sampled_from(sorted(HIERARCHIES)), seed=st.integers(0, 1000), texts=st.lists(TEXTS, min_size=14))
def test_no_call_outside_schema_or_budget(grammar, seed, texts):
    hierarchy = HIERARCHIES[grammar]
    env = Watched(hierarchy)
    env.reset(seed=seed)
    turns: Counter[int] = Counter()
    for text in texts:
        turn = env.turn()
        if turn is None:
            break
        turns[turn.conversation] += 1
        assert turns[turn.conversation] <= hierarchy.roles[turn.agent].options.turns
        env.step(text)
    for role, call in env.executed:
        schema = role.tools[call.name].parameters
        assert set(call.arguments) == set(schema)
        for name, value in call.arguments.items():
            assert type(value) is TYPES[schema[name]["type"]]
            assert value in schema[name].get("enum", [value])
    while (turn := env.turn()) is not None:
        env.step("")
    outcome = env.outcome()
    assert outcome.calls <= hierarchy.config.max_calls
    assert outcome.metrics["turns"] <= hierarchy.config.max_turns


def echo(message: str) -> str:
    """Say it again.

    Args:
        message: what to say
    """
    return message


def shout(message: str) -> str:
    """Say it aloud.

    Args:
        message: what to say
    """
    return message.upper()


TOOLS = {function.__name__: tool_from(function) for function in (echo, shout)} | {
    "fresh": BUILT_IN["fresh"],
    "ask": delegation(("north", "south")),
    "answer": ANSWER,
}
HI = '{"name":"echo","arguments":{"message":"hi"}}'
#: Forms in which models write the call of HI, and some in which they only mention it.
READ = (
    f"<think>I could shout. Or ask north?</think>{HI}",
    f"I could shout.</think>\n{HI}",
    f"```json\n{HI}\n```",
    f"Let me echo that: {HI}",
    f"{HI}\nThat is my call.",
    f"<tool_call>\n{HI}\n</tool_call> Done.",
    f"First some words. <tool_call>{HI}</tool_call>",
    f"[{HI}]",
    HI[:-2],
    '{"name":"ehco","arguments":{"mesage":"hi"}}',
    "ecko hi",
    "echo: hi",
)
REFUSED = (
    f"<tool_call>{HI[:-2]}</tool_call>",
    f"<tool_call>{HI}</tool_call> [TOOL_CALLS][{HI}]",
    "<tool_call>ehco\n<arg_key>message</arg_key>\n<arg_value>hi</arg_value>\n</tool_call>",
    "<tool_call>echo\n<arg_key>message</arg_key>hi</tool_call>",
    "<tool_call><function=echo><parameter=message>hi</function></tool_call>",
    '<|tool_call_start|>[echo("hi")]<|tool_call_end|>',
    '<|tool_call_start|>[echo(message=f"hi")]<|tool_call_end|>',
    f"<think>{HI}",
    f"I answer: no shout, {HI}",
    f'[{HI},{{"name":"shout","arguments":{{"message":"hi"}}}}]',
    "Action: echo\nAction Input: hi",
    "I should answer the user by calling echo with hi",
    "The answer may be found: shout hi",
    HI[:-4],
    f'{{"name":"shoot","arguments":{{"message":"hi"}}}} {HI}',
    "echo " + "hi " * 2000,
)


def executed(text: str) -> Call | None:
    read = parse(text, TOOLS)
    found = read if isinstance(read, Call) else guarded(text, TOOLS, Call("answer", {"text": "none"}))
    return found if isinstance(found, Call) else None


@pytest.mark.parametrize("text", READ)
def test_a_call_in_a_wrapping_is_read_as_what_it_is(text: str) -> None:
    assert executed(text) == Call("echo", {"message": "hi"})


@pytest.mark.parametrize("text", REFUSED)
def test_what_may_hold_a_call_in_an_unknown_form_is_not_executed_as_another(text: str) -> None:
    assert executed(text) is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    before=st.text(alphabet=" .,<>[]{}`=|:abc\n", max_size=12),
    after=st.text(alphabet=" .,<>[]{}`=|:abc\n", max_size=12),
    call=st.sampled_from([HI, '{"name":"fresh","arguments":{"relation":"r1","entity":"e5"}}']),
)
def test_no_wrapping_makes_another_call_of_it(before: str, after: str, call: str) -> None:
    meant = parse(call, TOOLS)
    assert executed(before + call + after) in (meant, None)


def test_a_refusal_of_the_guard_is_an_invalid_turn_at_the_price_of_one() -> None:
    config = HierarchyConfig(guard=True, guard_price=0.25, grammar="json", context=600)
    env = HierarchyEnv(Hierarchy(config))
    env.reset(seed=0)
    env.step("<tool_call>ask <arg_key>agent</arg_key><arg_value>north</arg_value></tool_call>")
    assert env.agent_selection == "planner" and env.rewards["planner"] == -config.costs.invalid
    assert env.observe("planner")[-1]["content"] == "error: missing argument 'task' of ask"
    while env.turn() is not None:
        env.step("answer e1")
    assert (env.outcome().metrics["invalid_actions"], env.outcome().metrics["corrections"]) == (1.0, 0.0)
