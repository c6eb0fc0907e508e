"""Tools of MCP servers as tools of roles: ``SERVER/TOOL``, or ``SERVER/*`` for all that a server offers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from marl.errors import UserError, nearest
from marl.plugins import check_program, check_server
from marl.rollout.mcp_client import McpServer, McpTool
from scenarios.agent_hierarchy.config import McpConfig
from scenarios.agent_hierarchy.tools import Tool, tool_of_schema

#: Calls of the world, and of the forms in which it is handed to other trainers.
RESERVED = frozenset({"ask", "answer", "reset", "step", "state", "close", "get_reward"})
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class ToolServers:
    """The servers of a graph, each connected to when the first role asks for one of its tools."""

    def __init__(self, servers: Mapping[str, McpConfig], seconds: float):
        self._options, self._seconds = servers, seconds
        self._servers: dict[str, McpServer] = {}

    def means(self, reference: str) -> bool:
        """Whether a tool's name means one of a server."""
        return "/" in reference

    def tools(self, reference: str) -> Sequence[Tool]:
        """The tools that a name means. Raises ``UserError``."""
        name, _, wanted = reference.partition("/")
        if name not in self._options:
            raise UserError(f"tool '{reference}' names no server of the graph{nearest(name, [*self._options])}")
        if name not in self._servers:
            self._servers[name] = self._connected(name)
        server = self._servers[name]
        offered = {tool.name: tool for tool in server.tools}
        if wanted == "*":
            return [_tool(server, tool) for tool in offered.values()]
        if wanted not in offered:
            raise UserError(f"MCP server '{name}' offers no tool '{wanted}'{nearest(wanted, [*offered])}")
        return [_tool(server, offered[wanted])]

    def _connected(self, name: str) -> McpServer:
        options, place = self._options[name], f"MCP server '{name}' of the graph"
        if options.command:
            check_program(options.command[0], place)
        else:
            check_server(options.url, place)
        return McpServer(name, options.command, options.url, self._seconds)


def _tool(server: McpServer, tool: McpTool) -> Tool:
    """A server's tool, with all that its JSON schema allows; what is left out keeps the server's defaults."""
    place = f"tool '{tool.name:.60}' of MCP server '{server.name}'"
    if tool.name in RESERVED or not _NAME.fullmatch(tool.name):
        raise UserError(f"{place} cannot be used: its name is taken or odd")
    try:
        return tool_of_schema(tool.name, tool.description, tool.schema, _caller(server, tool.name))
    except ValueError as fault:
        raise UserError(f"{place} has a broken schema: {fault}") from None


def _caller(server: McpServer, tool: str) -> Callable[..., str]:
    def call(**arguments: Any) -> str:
        return server.call(tool, arguments)

    return call
