"""Tools of real MCP servers: a child process over standard streams, and one over HTTP; some die, hang or lie."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mcp")

from marl.errors import UserError
from marl.plugins import trust
from marl.rollout.mcp_client import McpError, McpServer
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv

pytestmark = pytest.mark.anchors

SERVER = '''
import os, sys, time
from mcp.server.mcpserver import MCPServer

server = MCPServer("test")

@server.tool()
def capital(country: str, style: str = "plain") -> str:
    """Name the capital of a country."""
    return {"France": "Paris"}.get(country, "none") + " " * 3

@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

@server.tool()
def slow(text: str) -> str:
    """Takes its time."""
    time.sleep(30)
    return text

@server.tool()
def die(text: str) -> str:
    """Ends the server."""
    os._exit(3)

@server.tool()
def raises(text: str) -> str:
    """Fails."""
    raise ValueError("no such thing")

@server.tool()
def flood(text: str) -> str:
    """Says too much."""
    return text * 100_000

@server.tool(name="add-many")
def total(numbers: list[int], more: dict[str, int] | None = None, start: int = 0) -> int:
    """Add many numbers."""
    return start + sum(numbers) + sum((more or {}).values())

if "reserved" in sys.argv:
    @server.tool()
    def reset(text: str) -> str:
        """A name that is taken."""
        return text

if "http" in sys.argv:
    server.run("streamable-http", port=int(sys.argv[-1]))
else:
    server.run("stdio")
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("server") / "server.py"
    path.write_text(SERVER, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def stdio(script: str) -> Iterator[McpServer]:
    server = McpServer("box", [sys.executable, script], seconds=5.0)
    yield server
    server.close()


def test_tools_are_listed_and_called(stdio: McpServer) -> None:
    tools = {tool.name: tool for tool in stdio.tools}
    assert set(tools) == {"capital", "add", "slow", "die", "raises", "flood", "add-many"}
    assert tools["capital"].description == "Name the capital of a country."
    assert tools["capital"].schema["required"] == ["country"] and "style" in tools["capital"].schema["properties"]
    assert stdio.call("capital", {"country": "France"}).strip() == "Paris"
    assert stdio.call("add", {"a": 2, "b": 40}) == "42"


def test_failures_are_named_and_the_server_comes_back(stdio: McpServer) -> None:
    with pytest.raises(McpError, match="Error executing tool raises"):
        stdio.call("raises", {"text": "x"})
    with pytest.raises(McpError):
        stdio.call("nothing", {})
    with pytest.raises(McpError):
        stdio.call("die", {"text": "x"})
    assert stdio.call("add", {"a": 1, "b": 1}) == "2"  # started anew
    stdio._seconds = 0.5
    begun = time.monotonic()
    with pytest.raises(McpError, match=r"no answer in 0\.5 s"):
        stdio.call("slow", {"text": "x"})
    assert time.monotonic() - begun < 25
    stdio._seconds = 20.0
    assert stdio.call("add", {"a": 1, "b": 2}) == "3"


def test_streamable_http(script: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = subprocess.Popen([sys.executable, script, "http", str(port)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        server = McpServer("web", url=f"http://127.0.0.1:{port}/mcp", seconds=20.0)
        assert server.call("add", {"a": 3, "b": 4}) == "7"
        child.kill()
        child.wait()
        server._patience = 3.0
        for _ in range(2):
            with pytest.raises(McpError):
                server.call("add", {"a": 3, "b": 4})
        server.close()
    finally:
        child.kill()


def graph(script: str, *tools: str, words: tuple[str, ...] = ()) -> dict[str, object]:
    servers = {"box": {"command": [sys.executable, script, *words]}}
    roles = {"p": {"calls": ["w"]}, "w": {"tools": list(tools), "turns": 8}}
    return {"graph": {"entry": "p", "roles": roles, "servers": servers}, "tool_seconds": 20.0, "context": 5000}


def test_roles_use_them_like_any_tool(script: str) -> None:
    trust(sys.executable)
    env = HierarchyEnv(Hierarchy(HierarchyConfig.model_validate(graph(script, "box/*", "cache"))))
    env.reset(seed=0)
    env.step("ask e1 w")
    env.step('{"name": "add", "arguments": {"a": 2, "b": 3}}')
    assert env.observe("w")[-1]["content"] == "5"
    env.step('{"name": "add", "arguments": {"a": "two", "b": 3}}')
    assert env.observe("w")[-1]["content"] == "invalid"
    env.step("flood xy")
    assert env.observe("w")[-1]["content"] == "xy" * 250 + " [cut: 500 of 200,000 characters]"
    env.step('{"name": "add-many", "arguments": {"numbers": [1, 2], "more": {"x": 4}}}')
    assert env.observe("w")[-1]["content"] == "7"
    env.step("raises x")
    assert "error: tool raises: " in env.observe("w")[-1]["content"] and env.infos["w"]["tool_error"]
    env.step("answer e1")
    assert env.agent_selection == "p"


@pytest.mark.parametrize(
    ("tools", "words", "sentence"),
    [
        (("box/nothing",), (), "offers no tool 'nothing'"),
        (("chest/add",), (), "names no server"),
        (("box/add", "box/*"), (), "two tools called 'add'"),
        (("box/*",), ("reserved",), "'reset' of MCP server 'box'"),
    ],
)
def test_what_cannot_be_used_is_named(
    script: str, tools: tuple[str, ...], words: tuple[str, ...], sentence: str
) -> None:
    trust(sys.executable)
    with pytest.raises(UserError, match=sentence):
        Hierarchy(HierarchyConfig.model_validate(graph(script, *tools, words=words)))


def test_servers_that_do_not_start_or_answer_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MCP server 'x' cannot be used"):
        McpServer("x", [str(tmp_path / "nowhere")])
    noise = tmp_path / "noise.py"
    noise.write_text("import time\nprint('hello, this is no protocol', flush=True)\ntime.sleep(60)")
    with pytest.raises(UserError, match="no answer in 2 s"):
        McpServer("x", [sys.executable, str(noise)], patience=2.0)
    with pytest.raises(UserError, match="cannot be used"):
        McpServer("x", url="http://127.0.0.1:9/mcp", patience=5.0)
