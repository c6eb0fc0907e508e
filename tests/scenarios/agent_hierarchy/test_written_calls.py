"""Turns of real models in the world: several calls, thoughts, and arguments against the schemas of tools."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from marl.envs.chat import Message
from marl.errors import UserError
from marl.plugins import trust
from scenarios.agent_hierarchy.calls import Call, Fault, parse, typed
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.tasks import Knowledge
from scenarios.agent_hierarchy.tools import run, tool_from, tool_of_schema
from scenarios.agent_hierarchy.world import HierarchyEnv


def echo(message: str) -> str:
    """Say it again.

    Args:
        message: what to say
    """
    return message


GRAPH = {
    "entry": "lead",
    "roles": {"lead": {"calls": ["desk"], "tools": ["test_written_calls:echo"]}, "desk": {"tools": ["cache"]}},
}


def make(**options: Any) -> HierarchyEnv:
    trust("test_written_calls")
    given = {"graph": GRAPH, "grammar": "json", "context": 4000, "tasks": {"hops": [1]}, **options}
    env = HierarchyEnv(Hierarchy(HierarchyConfig.model_validate(given)))
    env.reset(seed=3)
    return env


def calls(*named: tuple[str, dict[str, Any]]) -> str:
    return "".join(f"<tool_call>{json.dumps({'name': n, 'arguments': a})}</tool_call>" for n, a in named)


def results(messages: tuple[Message, ...]) -> dict[str, str]:
    return {message["tool_call_id"]: message["content"] for message in messages if "tool_call_id" in message}


def test_several_calls_of_a_turn_are_all_made_in_their_order() -> None:
    env = make()
    ask = {"task": "e1 r1", "agent": "desk"}
    env.step(calls(("echo", {"message": "one"}), ("ask", ask), ("echo", {"message": "two"})))
    assert env.agent_selection == "desk" and results(env.observe("lead")) == {"1x0": "one"}
    env.step(calls(("answer", {"text": "e7"})))
    assert env.agent_selection == "lead"
    assert results(env.observe("lead")) == {"1x0": "one", "1x1": "e7", "1x2": "two"}
    said = env.observe("lead")[2]
    assert [call["id"] for call in said["tool_calls"]] == ["1x0", "1x1", "1x2"]
    assert [m["name"] for m in env.observe("lead")[3:]] == ["echo", "ask", "echo"]
    env.step(calls(("answer", {"text": "e7"})))
    assert (env.outcome().calls, env.outcome().metrics["turns"]) == (3, 3.0)


def test_an_answer_among_other_calls_is_refused_and_said_to_be() -> None:
    env = make()
    env.step(calls(("echo", {"message": "one"}), ("answer", {"text": "e1"})))
    heard = results(env.observe("lead"))
    assert heard == {"1x0": "one", "1x1": "error: answer alone, once you have read the results"}
    assert env.turn() is not None and env.turn_result().invalid


def test_one_broken_call_makes_none_of_them() -> None:
    env = make()
    env.step(calls(("echo", {"message": "one"}), ("echo", {"massage": "two"})))
    assert env.observe("lead")[-1]["content"] == "error: none of 2 calls made: missing argument 'message' of echo"
    assert results(env.observe("lead")) == {}


def test_calls_beyond_the_budget_are_refused_one_by_one() -> None:
    env = make(max_calls=2)
    env.step(calls(*[("echo", {"message": str(n)}) for n in range(4)]))
    assert list(results(env.observe("lead")).values()) == ["0", "1", "over", "over"]
    env.step(calls(*[("echo", {"message": "x"})] * 17))
    assert env.observe("lead")[-1]["content"] == "error: 17 calls at once: at most 16"


def test_thoughts_stay_with_the_one_who_thinks() -> None:
    env = make(graph={**GRAPH, "roles": {**GRAPH["roles"], "desk": {"tools": ["cache"], "reads": "caller"}}})
    thought = "<think>secret " + "hm " * 2000 + "</think>"
    env.step(thought + calls(("ask", {"task": "e1 r1", "agent": "desk"})))
    assert env.observe("lead")[2]["content"].startswith("<think>secret")
    assert "secret" not in json.dumps(env.observe("desk"))
    env.step("<think>secret</think>" + calls(("answer", {"text": "e7"})))
    assert results(env.observe("lead")) == {"1": "e7"}


def test_a_role_is_told_its_prompt_and_may_answer_in_plain_words() -> None:
    roles = {**GRAPH["roles"], "lead": {**GRAPH["roles"]["lead"], "prompt": "Be brief.", "turns": 12}}  # type: ignore[dict-item]
    graph = {**GRAPH, "roles": roles}
    env = make(graph=graph, plain_answers=True)
    told = env.observe("lead")[0]["content"]
    assert told == "You are lead. Call a tool (echo, ask, answer), or answer in plain words. Be brief."
    env.step(calls(("ask", {"task": "e1 r1", "agent": "desk"})))
    env.step("<think>secret</think>It is e7.")
    assert results(env.observe("lead")) == {"1": "It is e7."} and not env.turn_result().invalid
    for text in ("Action: echo\nAction Input: hi", "I shall echo it", '{"name": "echo"', "", "<tool_call>e7"):
        env.step(text)
        assert env.turn_result().invalid and env.agent_selection == "lead"
    env.step("e7")
    assert env.turn() is None and env.outcome().conversations[0].closed
    must = make(graph=graph)
    must.step("It is e7.")
    assert must.turn_result().invalid
    for options, word in (({"graph": graph}, "prompt of role 'lead'"), ({"plain_answers": True}, "plain_answers")):
        with pytest.raises(UserError, match=f"{word}.*choose world.grammar=json"):
            make(grammar="compact", **options)


class Place(BaseModel):
    city: str
    country: str | None = None


async def forecast(
    place: Place, days: int = 3, units: list[Literal["c", "f"]] | None = None, detail: dict[str, float] | None = None
) -> dict[str, Any]:
    """Tell the weather.

    Args:
        place: where
        days: how many
    """
    return {"city": place.city, "days": days, "units": units, "detail": detail}


def knowing(knowledge: Knowledge, entity: str, schema: str = "x") -> str:
    """Look it up."""
    return f"{knowledge.entities} {entity} {schema}"


KNOWLEDGE = Knowledge(0, 2, 10, frozenset())


def made(function: Any, arguments: dict[str, Any], **options: Any) -> str:
    tool = tool_from(function)
    call = typed(tool, arguments)
    return call.reason if isinstance(call, Fault) else run(tool, call.arguments, KNOWLEDGE, 5.0, **options)[0]


def test_functions_may_be_coroutines_with_models_lists_and_defaults() -> None:
    assert json.loads(made(forecast, {"place": {"city": "Bern"}})) == {
        "city": "Bern",
        "days": 3,
        "units": None,
        "detail": None,
    }
    given = {"place": {"city": "Bern", "country": None}, "days": "5", "units": ["c"], "detail": {"wind": 1.5}}
    assert json.loads(made(forecast, given))["days"] == 5
    assert made(knowing, {"entity": "e1"}) == "2 e1 x" and made(knowing, {"entity": "", "schema": "y"}) == "2  y"
    schema = tool_from(forecast).schema()["function"]["parameters"]
    assert schema["required"] == ["place"] and schema["properties"]["days"]["default"] == 3
    assert schema["properties"]["place"]["description"] == "where" and "title" not in json.dumps(schema)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({}, "missing argument 'place' of forecast"),
        ({"place": {"city": "a"}, "when": 1}, "surplus argument 'when': forecast takes place, days, units, detail"),
        ({"place": {"country": "a"}}, "wrong argument 'place' of forecast: 'city' is a required property"),
        (
            {"place": {"city": "a"}, "days": "many"},
            "'days' of forecast: 'many' is not of type 'integer'",
        ),
        ({"place": {"city": "a"}, "units": ["k"]}, "wrong argument 'units"),
        ({"place": {"city": "a"}, "days": True}, "True is not of type 'integer'"),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict[str, Any], word: str) -> None:
    assert word in made(forecast, arguments)


def untyped(message) -> str:  # type: ignore[no-untyped-def]  # that is what is tested
    """Say it."""
    return message


def many(*messages: str) -> str:
    """Say them."""
    return ""


def unknown(message: Nobody) -> str:  # type: ignore[name-defined]  # noqa: F821 - that is what is tested
    """Say it."""
    return ""


class Opaque:
    pass


def opaque(message: Opaque) -> str:
    """Say it."""
    return ""


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (untyped, "parameter 'message' of tool 'untyped' has no type hint"),
        (many, "must be an ordinary one"),
        (unknown, "type hints of tool 'unknown' cannot be read: .*Nobody"),
        (opaque, "a parameter of tool 'opaque' has no JSON schema"),
    ],
)
def test_functions_without_a_schema_are_refused(function: Any, word: str) -> None:
    with pytest.raises(UserError, match=word):
        tool_from(function)


def test_schemas_of_others_with_choices_references_and_open_ends() -> None:
    whole = {
        "type": "object",
        "$defs": {"level": {"enum": ["low", "high"]}},
        "properties": {
            "entities": {
                "type": "array",
                "items": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            },
            "level": {"$ref": "#/$defs/level"},
            "size": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
            "text": {"type": "string"},
        },
        "required": ["entities"],
    }
    tools = {"make-all": tool_of_schema("make-all", "Make.", whole, lambda **given: given)}
    fine = {"entities": [{"name": "a"}], "level": "low", "size": None, "text": ""}
    assert parse(json.dumps({"name": "make-all", "arguments": fine}), tools) == Call("make-all", fine)
    tagged = '<tool_call>make-all<arg_key>entities</arg_key><arg_value>[{"name":"a"}]</arg_value></tool_call>'
    assert parse(tagged, tools) == Call("make-all", {"entities": [{"name": "a"}]})
    number = parse('{"name":"make-all","arguments":{"entities":[],"text":7}}', tools)
    assert number == Call("make-all", {"entities": [], "text": "7"})
    for arguments, word in (
        ({"entities": [{}]}, "wrong argument 'entities.0' of make-all: 'name' is a required property"),
        ({"entities": [], "level": "mid"}, "'mid' is not one of ['low', 'high']"),
        ({"entities": [], "size": 0}, "wrong argument 'size' of make-all"),
        ({"level": "low"}, "missing argument 'entities'"),
    ):
        found = parse(json.dumps({"name": "make-all", "arguments": arguments}), tools)
        assert isinstance(found, Fault) and word in found.reason
    more = tool_of_schema("more", "", {"type": "object", "additionalProperties": True}, lambda **given: given)
    assert typed(more, {"x": 1}) == Call("more", {"x": 1})
    for broken in ({"properties": 3}, {"required": ["x"]}, {"properties": {"x": {"type": "texts"}}}):
        with pytest.raises(ValueError, match=r".+"):
            tool_of_schema("t", "", broken, lambda: None)


def test_what_is_cut_of_a_result_is_said() -> None:
    assert made(echo, {"message": "a" * 30}, characters=10) == "a" * 10 + " [cut: 10 of 30 characters]"
    assert made(echo, {"message": "a" * 10}, characters=10) == "a" * 10
