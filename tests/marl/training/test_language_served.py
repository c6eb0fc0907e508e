"""A model behind a server learns from the token ids that it returns; without them training is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from test_language_hf import folder  # noqa: F401
from test_language_trainer import final_state

from marl import api
from marl.errors import UserError
from marl.policies.language.hf import HfPolicy
from marl.training.run import train
from marl.training.run_folder import METRICS
from marl.training.tracking import read_metrics

pytest.importorskip("peft")


class Server:
    """Completes token ids by the model in a folder, with the adapters that it was asked to load."""

    def __init__(self, weights: Path):
        self.local = HfPolicy(weights, ["planner", "north", "south"], lora_rank=2, max_tokens=3)
        self.bodies: list[dict[str, Any]] = []
        self.loads: list[dict[str, Any]] = []
        self.ids = True
        self.broken: set[int] = set()  # numbers of the replies that are no JSON
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    reply = outer.load(body) if self.path == "/load" else outer.complete(body)
                    broken = len(outer.bodies) in outer.broken
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{broken" if broken else json.dumps(reply).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def load(self, body: dict[str, Any]) -> dict[str, Any]:
        self.loads.append(body)
        role = body["lora_name"].removeprefix("m-")
        state = safetensors.torch.load_file(Path(body["lora_path"]) / "adapter_model.safetensors")
        self.local.load_state_of(role, state)
        return {}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        role, greedy = body["model"].removeprefix("m-"), body["temperature"] == 0.0
        asked = [body["prompt"]], [body["seed"]], body["max_tokens"], greedy, self.local._ends
        ((ids, log_probs),) = self.local.sample_as(role, *asked)
        choice: dict[str, Any] = {"text": self.local.text(ids), "logprobs": {"token_logprobs": log_probs}}
        return {"choices": [choice | ({"token_ids": ids} if self.ids else {})]}

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:  # noqa: F811
    one = Server(folder)
    yield one
    one.close()


def config(server: Server, weights: Path, publish: Path, *more: str) -> Any:
    policy = f"kind: openai, base_url: {server.url}/v1, model: m, weights: {weights}, publish: {publish}"
    return api.configure(
        "agent_hierarchy",
        overrides=[
            "copies=4",
            "total_steps=24",
            "algorithm.group=4",
            "algorithm.rate=0.01",
            "algorithm.warm_start.steps=0",
            f"algorithm.policy={{{policy}, reload_url: {server.url}/load, lora_rank: 2, max_tokens: 3}}",
            "world.max_turns=2",
            "evaluation.every_iterations=0",
            *more,
        ],
    )


def test_rollouts_come_from_the_server_and_weights_go_back(server: Server, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    run = train(config(server, folder, tmp_path / "served"), tmp_path / "run", live=False)
    rows = read_metrics(run / METRICS)
    updates = [row["learn/grad_norm_planner"] for row in rows if "learn/grad_norm_planner" in row]
    assert rows[-1]["agent_steps"] >= 24 and max(updates) > 0.0
    second = next(b["prompt"] for b in server.bodies if len(b["prompt"]) > len(server.bodies[0]["prompt"]))
    assert any(second[: len(b["prompt"])] == b["prompt"] for b in server.bodies)  # ids only ever grow
    assert {load["lora_name"] for load in server.loads} == {"m-planner", "m-north", "m-south"}
    assert len(server.loads) >= 3 * (len(rows) + 1)
    state = final_state(run)["algorithm"]["policy"]["planner"]
    theirs = server.local.state_of("planner")
    assert all(torch.allclose(value, theirs[name]) for name, value in state.items())  # it serves what was learned
    assert any(float(value.abs().max()) > 0 for name, value in state.items() if "lora_B" in name)


def test_what_the_server_speaks_by_is_warm_started(server: Server, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    warm = "algorithm.warm_start={steps: 2, batch: 2, warmup: 0, pretrained_rate: 0.01}"
    config_ = config(server, folder, tmp_path / "served", warm, "total_steps=60", "algorithm.rate=1e-9")
    rows = read_metrics(train(config_, tmp_path / "run", live=False) / METRICS)
    ratios = [row["learn/log_ratio_max_planner"] for row in rows if "learn/log_ratio_max_planner" in row]
    assert rows[0]["learn/imitation_loss_planner"] > 0.0 and ratios and max(ratios) < 1e-4
    theirs = server.local.state_of("planner")
    assert any(float(value.abs().max()) > 1e-3 for name, value in theirs.items() if "lora_B" in name)


def test_broken_replies_cost_their_episodes_alone(server: Server, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    server.broken = {2, 7}
    run = train(config(server, folder, tmp_path / "served", "algorithm.policy.retries=0"), tmp_path / "run", live=False)
    last = read_metrics(run / METRICS)[-1]
    assert last["dropped_episodes"] == 2.0 and last["agent_steps"] >= 24
    assert last["episodes"] + 2 == 4 * last["iteration"]


def test_without_ids_or_without_weights_training_is_refused(server: Server, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    server.ids = False
    with pytest.raises(UserError, match="returns no token ids"):
        train(config(server, folder, tmp_path / "served"), tmp_path / "run", live=False)
    plain = ["algorithm.policy.weights=null", "algorithm.policy.publish=null"]
    with pytest.raises(UserError, match="servers only with the weights that they serve"):
        train(config(server, folder, tmp_path / "served", *plain), tmp_path / "other", live=False)
    with pytest.raises(UserError, match="weights and publish belong together"):
        config(server, folder, tmp_path, plain[1])
