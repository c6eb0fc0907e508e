"""The real OpenEnv serves a language world: its server, its client, our roles."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("openenv")

import uvicorn
from openenv.core.env_server import create_fastapi_app
from openenv.core.generic_client import GenericEnvClient

from marl.errors import UserError
from marl.policies.language.scripted import ScriptedPolicy
from marl.rollout.openenv_env import action_class, observation_class, openenv_environment
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv

pytestmark = pytest.mark.anchors

HIERARCHY = Hierarchy(HierarchyConfig.model_validate({"tasks": {"hops": [1], "stale": []}}))
OTHERS = dict.fromkeys(("north", "south"), ScriptedPolicy(Expert(HIERARCHY, flawless=True)))


def make() -> HierarchyEnv:
    return HierarchyEnv(HIERARCHY)


@pytest.fixture
def address() -> Iterator[str]:
    app = create_fastapi_app(
        openenv_environment(make, "planner", OTHERS), action_class(), observation_class(), max_concurrent_envs=4
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True


def test_an_episode_over_the_wire(address: str) -> None:
    with GenericEnvClient(base_url=address).sync() as client:
        begun = client.reset(seed=3)
        start, relation = begun.observation["messages"][-1]["content"].split()
        assert {tool["function"]["name"] for tool in begun.observation["tools"]} == {"ask", "check", "answer"}
        refused = client.step({"text": "nonsense"})
        assert refused.reward == pytest.approx(-0.01) and refused.observation["messages"][0]["content"] == "invalid"
        agent = "north" if int(relation[1:]) < 5 else "south"
        answered = client.step({"text": f"ask {start} {relation} {agent}"})
        ended = client.step({"text": "answer " + answered.observation["messages"][0]["content"]})
        assert ended.done and ended.reward == pytest.approx(0.97)
        assert client.state()["step_count"] == 3


def test_roles_that_nobody_speaks_for_are_named() -> None:
    with pytest.raises(UserError, match="speaks for role 'south'"):
        openenv_environment(make, "planner", {"north": OTHERS["north"]})
