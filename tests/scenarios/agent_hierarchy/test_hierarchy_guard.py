"""What the guard of calls promises, against agents that say anything at all."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.hierarchy import Hierarchy
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
