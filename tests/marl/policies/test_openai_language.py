"""A policy behind a server, with a server in this process that answers, fails, is slow or talks nonsense."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from test_tiny_language import request

from marl import api
from marl.cli_words import policy_words
from marl.errors import UserError
from marl.policies.language import endpoint
from marl.policies.language.openai import OpenAIPolicy, spelt
from marl.rollout.language.turns import TurnPlayer
from marl.scenario import load_scenario
from marl.training.language_policy import ServedSpeakers
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv

Answer = Callable[[dict[str, Any]], Any]


class Server:
    """An OpenAI-compatible server.

    answer: request body -> reply, bytes as they are, a status code, or status, reply and headers.
    """

    def __init__(self) -> None:
        self.answer: Answer = lambda body: say("w1")
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                reply = outer.answer(body)
                status, reply, headers = reply if isinstance(reply, tuple) else (200, reply, {})
                status = reply if isinstance(reply, int) else status
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client did not wait

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def say(text: str, **extra: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, **extra}]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "_FIRST_WAIT_SECONDS", 0.01)
    one = Server()
    yield one
    one.close()


def test_text_tools_and_parameters(server: Server) -> None:
    policy = OpenAIPolicy(server.url, "m", max_tokens=9, temperature=0.5)
    assert policy.complete([request("w2", 7)]) == ["w1"]
    body = server.bodies[0]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("m", 9, 0.5, 7)
    assert body["messages"] == [{"role": "system", "content": "w1"}, {"role": "user", "content": "w2"}]
    function = {"name": "ask", "arguments": '{"task": "r1 e2", "agent": "north"}'}
    server.answer = lambda body: {"choices": [{"message": {"tool_calls": [{"function": function}]}}]}
    said = '<tool_call>{"name": "ask", "arguments": {"task": "r1 e2", "agent": "north"}}</tool_call>'
    assert policy.complete([request("w2", 7)]) == [said]
    message = {"tool_calls": [{"function": function}] * 2, "reasoning_content": "hm"}
    server.answer = lambda body: {"choices": [{"message": message}]}
    assert policy.complete([request("w2", 7)]) == [f"<think>hm</think>{said}\n{said}"]
    server.answer = lambda body: {"choices": [{"message": {"tool_calls": [{"function": {"name": "ask"}}, 3]}}]}
    (text,) = policy.complete([request("w2", 7)])
    assert text is not None and text.count("<tool_call>") == 2  # that is the agent's mistake, not the end of a run


def test_executed_calls_become_tool_calls_with_matching_ids() -> None:
    function = {"name": "cache", "arguments": {"relation": "r1", "entity": "e2"}}
    call = {"id": "3", "type": "function", "function": function}
    sent = spelt({"role": "assistant", "content": "cache r1 e2", "tool_calls": [call]})
    assert sent["content"] is None
    assert json.loads(sent["tool_calls"][0]["function"]["arguments"]) == function["arguments"]
    back = spelt({"role": "tool", "content": "e9", "tool_call_id": "3", "name": "cache"})
    assert back["tool_call_id"] == sent["tool_calls"][0]["id"]
    assert spelt({"role": "tool", "content": "invalid"}) == {"role": "user", "content": "invalid"}


def test_token_ids_are_kept_where_they_extend_the_transcript(server: Server) -> None:
    log_probs = {"content": [{"logprob": -0.5}, {"logprob": -1.0}]}
    reply = say("w1", token_ids=[5, 2], logprobs=log_probs) | {"prompt_token_ids": [1, 2, 3]}
    server.answer = lambda body: reply
    one = request("w2", 0)
    policy = OpenAIPolicy(server.url, "m", require_ids=True)
    policy.complete([one])
    assert one.transcript.ids == [1, 2, 3, 5, 2] and one.transcript.log_probs == [0.0, 0.0, 0.0, -0.5, -1.0]
    server.answer = lambda body: say("w1")
    with pytest.raises(UserError, match="no token ids"):
        policy.complete([request("w2", 0)])


@pytest.mark.parametrize("fault", [503, b"{broken", b"[]", b'{"choices": []}'])
def test_faults_that_may_pass_are_retried(server: Server, fault: Any) -> None:
    replies = [fault, fault, say("w3")]
    server.answer = lambda body: replies.pop(0)
    policy = OpenAIPolicy(server.url, "m", retries=2)
    assert policy.complete([request("w2", 0)]) == ["w3"]
    assert sum(policy.failures.values()) == 2


def test_slow_and_absent_servers_are_given_up(server: Server) -> None:
    server.answer = lambda body: time.sleep(0.2) or say("late")
    policy = OpenAIPolicy(server.url, "m", retries=1, timeout_seconds=0.05)
    assert policy.complete([request("w2", 0)]) == [None]
    assert policy.failures == {"timeout": 2}
    away = OpenAIPolicy("http://127.0.0.1:9/v1", "m", retries=0)
    assert away.complete([request("w2", 0)]) == [None]
    assert away.failures == {"no connection": 1}


def test_refusals_are_named(server: Server) -> None:
    server.answer = lambda body: 404
    with pytest.raises(UserError, match=r"refuses the request \(404\)"):
        OpenAIPolicy(server.url, "nothing").complete([request("w2", 0)])
    server.answer = lambda body: 401
    with pytest.raises(UserError, match=r"refuses the request \(401\)"):
        OpenAIPolicy(server.url, "m").complete([request("w2", 0)])
    with pytest.raises(UserError, match="must begin with http"):
        OpenAIPolicy("localhost:8000", "m")


def picky(*fields: str, code: int = 422) -> Answer:
    """A server that names the first of these fields that it is sent."""

    def answer(body: dict[str, Any]) -> Any:
        found = next((name for name in fields if name in body), None)
        detail = {"detail": f"Unexpected keys in the request: {{'{found}'}}"}
        return say("w1") if found is None else (code, detail, {})

    return answer


def test_fields_that_a_server_does_not_take_are_left_out_from_then_on(server: Server) -> None:
    heard: list[str] = []
    policy = OpenAIPolicy(server.url, "m", extra_body={"top_p": 0.5}, retries=0)
    policy.echo = heard.append
    server.answer = picky("return_token_ids", "logprobs", "seed")
    assert policy.complete([request("w2", 0)]) == ["w1"] and policy.failures == {}
    server.bodies.clear()
    assert policy.complete([request("w2", n) for n in range(8)]) == ["w1"] * 8 and len(server.bodies) == 8
    assert all({"return_token_ids", "logprobs", "seed"}.isdisjoint(b) and b["top_p"] == 0.5 for b in server.bodies)
    assert len([line for line in heard if "takes no" in line]) == 3
    assert "no token ids and no log-probabilities: its turns are played, not learned from" in heard[-1]


def test_names_of_fields_and_tools_that_a_server_does_not_know_find_another_way(server: Server) -> None:
    def answer(body: dict[str, Any]) -> Any:
        if "max_tokens" in body:
            return 400, {"error": {"message": "Unsupported parameter: use 'max_completion_tokens' instead."}}, {}
        if "tools" in body:
            return 500, {"error": "tools param requires --jinja flag"}, {}
        return say("w1")

    server.answer = answer
    policy = OpenAIPolicy(server.url, "m", max_tokens=9, retries=0)
    asked = request("w2", 0)
    function = {"name": "ask", "description": "d", "parameters": {}}
    call = {"id": "1", "type": "function", "function": {"name": "ask", "arguments": {}}}
    asked.turn.messages.extend(
        [
            {"role": "assistant", "content": "said", "tool_calls": [call]},
            {"role": "tool", "content": "heard", "tool_call_id": "1", "name": "ask"},
            {"role": "tool", "content": "more"},
        ]
    )
    asked = asked._replace(turn=asked.turn._replace(tools=({"type": "function", "function": function},)))
    assert policy.complete([asked]) == ["w1"]
    body = server.bodies[-1]
    assert body["max_completion_tokens"] == 9
    assert [(m["role"], m["content"]) for m in body["messages"][1:]] == [
        ("user", "w2"),
        ("assistant", "said"),
        ("user", "Result of ask: heard\nmore"),
    ]
    assert '"name": "ask"' in body["messages"][0]["content"]


def test_a_server_is_left_alone_for_as_long_as_it_asks(server: Server) -> None:
    replies: list[Any] = [(429, b"", {"Retry-After": "0.3"}), say("w1"), say("w1")]
    times: list[float] = []

    def answer(body: dict[str, Any]) -> Any:
        times.append(time.monotonic())
        return replies.pop(0)

    server.answer = answer
    policy = OpenAIPolicy(server.url, "m", retries=1)
    assert policy.complete([request("w2", 0)]) == ["w1"] and policy.failures == {"status 429": 1}
    assert times[1] - times[0] >= 0.3
    assert endpoint._asked_for("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0 == endpoint._asked_for("soon")
    assert endpoint._asked_for("9999") == 300.0


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((400, {"error": {"code": "context_length_exceeded", "message": "max_tokens"}}, {}), "too long"),
        ((400, {"error": {"message": "the request exceeds the available context size"}}, {}), "too long"),
        ((400, {"error": "invalid prompt"}, {}), "status 400"),
        ({"choices": [{"message": {"content": None, "refusal": "I will not."}}]}, "refusal"),
        ({"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}, "refusal"),
    ],
)
def test_a_conversation_that_gets_no_answer_is_given_up_at_once_and_counted(
    server: Server, reply: Any, why: str
) -> None:
    heard: list[str] = []
    server.answer = lambda body: reply if body["messages"][1]["content"] == "w9" else say("w1")
    policy = OpenAIPolicy(server.url, "m", retries=3)
    policy.echo = heard.append
    assert policy.complete([request("w9", 0), request("w2", 0), request("w9", 0)]) == [None, "w1", None]
    assert policy.failures == {why: 2} and len(server.bodies) == 3
    assert sum(f"no answer to a conversation ({why}" in line for line in heard) == 1


def test_a_served_model_is_judged_alone(server: Server) -> None:
    heard: list[str] = []

    def answer(body: dict[str, Any]) -> Any:
        if body["messages"][1]["content"].startswith("e1 "):
            return 400, {"error": {"code": "context_length_exceeded"}}, {}
        assert body["messages"][0]["content"].startswith("You are") and body["tools"]  # in the grammar of real models
        function = {"name": "answer", "arguments": '{"text": "e1"}'}
        return {"choices": [{"message": {"content": None, "tool_calls": [{"function": function}]}}]}

    server.answer = answer
    name = f"openai:{server.url},m"
    results = api.evaluate("agent_hierarchy", [name, "expert"], seeds=range(24))
    rows = {(row.policy, row.metric): row for row in results.rows}
    assert rows[name, "invalid_actions"].mean < 1.0 and 0.0 < rows[name, "lost"].mean < 0.4
    assert policy_words(f"random,{name},expert") == ["random", name, "expert"]
    with pytest.raises(UserError, match="names no model: openai:URL,MODEL"):
        api.evaluate("agent_hierarchy", [f"openai:{server.url},"], seeds=range(2))
    with pytest.raises(UserError, match=r"max_tokens: .* greater than or equal to 1"):
        api.policy_builder(load_scenario("agent_hierarchy"), f"{name}:max_tokens=0")
    assert ServedSpeakers("openai:http://x/v1,qwen:7b:max_tokens=9", heard.append)._policy._max_tokens == 9
    with pytest.raises(UserError, match="takes no texts"):
        api.evaluate("lifelong_mapf", [name], seeds=range(2))


def test_episodes_without_answer_are_dropped_and_the_others_go_on(server: Server) -> None:
    hierarchy = Hierarchy(HierarchyConfig(grammar="json", context=4000))
    expert = Expert(hierarchy, flawless=True)
    lost = threading.Event()

    def answer(body: dict[str, Any]) -> Any:
        if len(body["messages"]) > 2 and not lost.is_set():
            lost.set()
            return b"garbage"
        return say("answer e1")

    server.answer = answer
    policy = OpenAIPolicy(server.url, "m", retries=0)
    from marl.policies.language.scripted import ScriptedPolicy

    policies = dict.fromkeys(hierarchy.roles, ScriptedPolicy(expert)) | {"planner": policy}
    server.answer = lambda body: say("ask r3 e1 north") if len(body["messages"]) == 2 else answer(body)
    episodes = TurnPlayer(lambda: HierarchyEnv(hierarchy), policies).play(range(4), 0)
    assert [episode.outcome is None for episode in episodes].count(True) == 1
