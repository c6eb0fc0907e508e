"""The real verifiers plays a language world: its OpenEnv environment, our served role, a model behind a server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("verifiers")
pytest.importorskip("openenv")

import verifiers.v1 as vf
from test_openenv import HIERARCHY, address, make  # noqa: F401
from verifiers.v1.tasksets.openenv import OpenEnvConfig, OpenEnvEnv, OpenEnvEnvConfig

pytestmark = pytest.mark.anchors


@pytest.fixture
def model() -> Iterator[str]:
    """A model that answers like the flawless planner of one-hop questions."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard = [json.loads(m["content"])["observation"] for m in body["messages"] if m["role"] == "user"]
            last = heard[-1]["messages"][-1]["content"]
            if len(heard) == 1:
                relation = last.split()[1]
                text = f"ask {last} {'north' if int(relation[1:]) < 5 else 'south'}"
            else:
                text = json.dumps({"name": "answer", "arguments": {"text": last}})
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for delta, reason in (({"role": "assistant", "content": text}, None), ({}, "stop")):
                choice = {"index": 0, "delta": delta, "finish_reason": reason}
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2} if reason else None
                chunk = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
                self.wfile.write(f"data: {json.dumps(chunk | {'usage': usage})}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_an_episode_of_verifiers(address: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("MODEL_KEY", "none")
    taskset = OpenEnvConfig(id="openenv", base_url=address, resets=[{"seed": 3}])
    player = vf.AgentConfig.model_validate({"harness": {"id": "null"}, "runtime": {"type": "subprocess"}})
    env = OpenEnvEnv(OpenEnvEnvConfig(id="openenv", taskset=taskset, player=player))
    client = vf.EvalClientConfig(base_url=model, api_key_var="MODEL_KEY")

    async def play() -> vf.Episode:
        (task,) = list(env.taskset)
        async with env.serving():
            return await env.run_slot(env.slots(task)[0], vf.ModelContext("m", client))

    episode = asyncio.run(play())
    assert not episode.errors, episode.errors
    (trace,) = episode.traces
    assert trace.rewards["openenv_reward"].score == pytest.approx(0.97)
