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

from marl.errors import UserError
from marl.policies.language import openai
from marl.policies.language.openai import OpenAIPolicy, spelt
from marl.rollout.language.turns import TurnPlayer
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv

Answer = Callable[[dict[str, Any]], Any]


class Server:
    """An OpenAI-compatible server. answer: request body -> reply, bytes as they are, or a status code."""

    def __init__(self) -> None:
        self.answer: Answer = lambda body: say("w1")
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                reply = outer.answer(body)
                status = reply if isinstance(reply, int) else 200
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                try:
                    self.send_response(status)
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
    monkeypatch.setattr(openai, "_FIRST_WAIT_SECONDS", 0.01)
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
    assert policy.complete([request("w2", 7)]) == ['{"name":"ask","arguments":{"task":"r1 e2","agent":"north"}}']


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
    with pytest.raises(UserError, match="must begin with http"):
        OpenAIPolicy("localhost:8000", "m")


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
