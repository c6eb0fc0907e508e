"""Tools of a server that speaks the Model Context Protocol, over standard streams or streamable HTTP.

The official package ``mcp`` (an extra) does the talking, in a thread of its own; here are plain ``tools`` and a
``call()`` with time limits. A server is not trusted: what it says about its tools is checked, and one that dies or
hangs fails the call at hand and is started or connected to anew at the next one.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from marl.errors import UserError

_APART = "install it in an environment of its own and name the program there"
#: Tools of one server, pages that it may take to list them, and characters of a description.
MAX_TOOLS, MAX_PAGES, MAX_TEXT = 256, 32, 2000


class McpTool(NamedTuple):
    """A tool as its server describes it. schema: JSON schema of its arguments."""

    name: str
    description: str
    schema: dict[str, Any]


class McpError(Exception):
    """A call that brought no result, in a few words that an agent gets to read."""


class McpServer:
    """A connection to one server: by ``command`` (started as a child process) or by ``url``.

    tools: what it offered at first. seconds: for each call. patience: for connecting, in seconds. Raises ``UserError``
    if it cannot be reached, or if what it says about its tools is unsound.
    """

    def __init__(
        self, name: str, command: Sequence[str] = (), url: str = "", seconds: float = 30.0, patience: float = 30.0
    ):
        try:
            self._mcp = importlib.import_module("mcp")
        except ImportError:
            raise UserError("tools of MCP servers need the extra 'mcp': pip install 'marl-platform[mcp]'") from None
        stdio = self._mcp.StdioServerParameters
        self._target = stdio(command=command[0], args=list(command[1:])) if command else url
        self.name, self._seconds, self._patience = name, seconds, patience
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._client: Any = None
        self._open: tuple[asyncio.Event, Future[None]] | None = None
        atexit.register(self.close)
        try:
            self._connect()
            self.tools = self._listed()
        except McpError as failure:
            self.close()
            ended = command and "closed" in str(failure).lower()
            # Its own last words went to the standard error stream, which is the user's.
            mend = f": it ended by itself, see above; if it was made for mcp 1, {_APART}" if ended else ""
            raise UserError(f"MCP server '{name}' cannot be used: {failure}{mend}") from None

    def call(self, tool: str, arguments: dict[str, Any]) -> str:
        """The text that a tool returns. Raises ``McpError``."""
        with self._lock:
            if self._client is None:
                self._connect()
            result = self._wait(self._client.call_tool(tool, arguments), self._seconds)
        text = "\n".join(str(getattr(block, "text", f"[{block.type}]")) for block in result.content)
        if result.is_error:
            raise McpError(text[:MAX_TEXT] or "it failed")
        return text

    def close(self) -> None:
        """End the connection, and the child process with it."""
        opened, self._client, self._open = self._open, None, None
        if opened is not None:
            stop, ended = opened
            self._loop.call_soon_threadsafe(stop.set)
            try:
                ended.result(self._patience)
            except Exception:
                ended.cancel()

    def _connect(self) -> None:
        ready, stop = Future[Any](), asyncio.Event()
        self._open = stop, asyncio.run_coroutine_threadsafe(self._serve(ready, stop), self._loop)
        self._client = self._result(ready, self._patience)

    async def _serve(self, ready: Future[Any], stop: asyncio.Event) -> None:
        """Holds the connection open: it has to be closed by the task that opened it."""
        try:
            async with self._mcp.Client(self._target, read_timeout_seconds=self._patience) as client:
                ready.set_result(client)
                await stop.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error if isinstance(error, Exception) else RuntimeError("connection broke"))
            raise

    def _wait(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """The result of work in the connection's thread."""
        return self._result(asyncio.run_coroutine_threadsafe(work, self._loop), seconds)

    def _result(self, future: Future[Any], seconds: float) -> Any:
        """What a future brings; after a failure that may be the connection's it is closed."""
        try:
            return future.result(seconds)
        except Exception as error:
            future.cancel()
            # -32099 to -32000 are faults of transport or server; others say that the call itself was wrong.
            code = getattr(error, "code", -32000)
            if not isinstance(code, int) or -32099 <= code <= -32000:
                self.close()
            raise McpError(_said(error, seconds)) from None

    def _listed(self) -> list[McpTool]:
        found: list[McpTool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = self._wait(self._client.list_tools(cursor=cursor), self._patience)
            found += [_checked(tool, self.name) for tool in page.tools]
            cursor = page.next_cursor
            if not cursor:
                break
        if cursor or len(found) > MAX_TOOLS:
            raise UserError(f"MCP server '{self.name}' lists more than {MAX_TOOLS} tools")
        return found


def _checked(tool: Any, server: str) -> McpTool:
    schema, name = tool.input_schema, str(tool.name)
    properties, required = schema.get("properties", {}), schema.get("required", [])
    sound = isinstance(properties, dict) and isinstance(required, list)
    if not sound or not all(isinstance(properties.get(key), dict | bool) for key in required):
        raise UserError(f"tool '{name:.60}' of MCP server '{server}' has a broken schema")
    return McpTool(name, str(tool.description or name)[:MAX_TEXT], schema)


def _said(error: BaseException, seconds: float) -> str:
    """What went wrong, in one line; of several errors the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return f"no answer in {seconds:g} s"
    return " ".join(str(error).split())[:200] or type(error).__name__
