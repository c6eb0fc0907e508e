"""Servers of tools that are named wrongly or that nobody trusts; those that run are in ``test_mcp.py``."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from marl.errors import UserError
from marl.plugins import trust
from marl.rollout.mcp_client import _checked
from scenarios.agent_hierarchy.config import HierarchyConfig, McpConfig
from scenarios.agent_hierarchy.hierarchy import Hierarchy


def build(server: dict[str, Any]) -> Hierarchy:
    graph = {"entry": "a", "roles": {"a": {"tools": ["box/add"]}}, "servers": {"box": server}}
    return Hierarchy(HierarchyConfig.model_validate({"graph": graph}))


def test_programs_and_servers_that_nobody_named_are_refused() -> None:
    with pytest.raises(UserError, match="starts the program 'unheard-of': to let it, add --trust 'unheard-of'"):
        build({"command": ["unheard-of", "--root"]})
    with pytest.raises(UserError, match=r"names the server 'http://elsewhere\.test/mcp'"):
        build({"url": "http://elsewhere.test/mcp"})


@pytest.mark.skipif(importlib.util.find_spec("mcp") is not None, reason="mcp is installed")
def test_without_the_extra_it_is_named() -> None:
    trust("heard-of")
    with pytest.raises(UserError, match="need the extra 'mcp'"):
        build({"command": ["heard-of"]})


@pytest.mark.parametrize("server", [{}, {"command": ["x"], "url": "http://localhost/mcp"}])
def test_a_server_has_one_way_to_be_reached(server: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="either a command or a url"):
        McpConfig.model_validate(server)


@pytest.mark.parametrize(
    "schema", [{"properties": 3}, {"required": ["x"]}, {"properties": {"x": 1}, "required": ["x"]}]
)
def test_broken_schemas_are_named(schema: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="tool 't' of MCP server 'box' has a broken schema"):
        _checked(SimpleNamespace(name="t", input_schema=schema, description=None), "box")
