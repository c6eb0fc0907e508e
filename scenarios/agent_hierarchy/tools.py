"""Tools: typed Python functions that agents may call, described to them as JSON schema.

A tool never evaluates text. What the package's own tools do is bounded by construction; a user's function runs in a
thread that is given up when its time is over, and its result is cut to a bounded length.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from marl.errors import UserError, nearest
from marl.plugins import is_reference, load_reference
from marl.rollout.mcp_client import McpError
from scenarios.agent_hierarchy.tasks import NOTHING, Knowledge

MAX_RESULT = 500

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_SECTION = re.compile(r"\n\s*Args:\s*\n(?P<body>(?:\s*\n|\s+.*\n?)*)")
_PARAMETER = re.compile(r"^\s*(?P<name>\w+)\s*(?:\([^)]*\))?:\s*(?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Tool:
    """A call that an agent may make.

    parameters: name -> JSON schema, in order. function: what runs, or None for calls that the world itself handles.
    knows: the function's first argument is the episode's knowledge. own: a user's, not to be trusted with time.
    """

    name: str
    description: str
    parameters: Mapping[str, Mapping[str, Any]]
    function: Callable[..., Any] | None = None
    knows: bool = False
    own: bool = False

    def schema(self) -> dict[str, Any]:
        """The form that chat templates and OpenAI-compatible servers take."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": {name: dict(schema) for name, schema in self.parameters.items()},
                    "required": list(self.parameters),
                },
            },
        }


def tool_from(function: Callable[..., Any], own: bool = True) -> Tool:
    """A tool from a function with type hints and a Google-style docstring.

    A first parameter annotated ``Knowledge`` is filled in by the world. Raises ``UserError`` for what has no schema.
    """
    name = getattr(function, "__name__", "tool")
    text = inspect.getdoc(function) or ""
    if not text:
        raise UserError(f"tool '{name}' has no docstring: say in one line what it does")
    described = _described(text)
    hints = get_type_hints(function)
    parameters: dict[str, dict[str, Any]] = {}
    knows = False
    for place, parameter in enumerate(inspect.signature(function).parameters.values()):
        hint = hints.get(parameter.name)
        if place == 0 and hint is Knowledge:
            knows = True
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UserError(f"parameter '{parameter.name}' of tool '{name}' must be an ordinary one")
        parameters[parameter.name] = {
            **_schema_of(hint, name, parameter.name),
            "description": described.get(parameter.name, parameter.name),
        }
    return Tool(name, text.split("\n\n")[0].replace("\n", " "), parameters, function, knows, own)


def _described(docstring: str) -> dict[str, str]:
    section = _SECTION.search(docstring + "\n")
    return {} if section is None else {m["name"]: m["text"].strip() for m in _PARAMETER.finditer(section["body"])}


def _schema_of(hint: Any, tool: str, parameter: str) -> dict[str, Any]:
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    if get_origin(hint) is Literal and all(isinstance(value, str) for value in get_args(hint)):
        return {"type": "string", "enum": list(get_args(hint))}
    raise UserError(f"parameter '{parameter}' of tool '{tool}' must be a str, int, float, bool or a Literal of texts")


def cache(knowledge: Knowledge, relation: str, entity: str) -> str:
    """Look a relation of an entity up in the cache: free, but out of date for some relations.

    Args:
        relation: name of the relation
        entity: what to look up
    """
    return knowledge.cached(relation, entity)


def fresh(knowledge: Knowledge, relation: str, entity: str) -> str:
    """Look a relation of an entity up at its source: always right, and it costs.

    Args:
        relation: name of the relation
        entity: what to look up
    """
    return knowledge.lookup(relation, entity)


def compute(knowledge: Knowledge, operation: Literal["add", "sub", "mul"], operand: int, value: int) -> str:
    """Apply an operation to a value, with numbers that wrap around.

    Args:
        operation: what to do
        operand: the number to add, subtract or multiply by
        value: the number to start from
    """
    return knowledge.arithmetic(operation, operand, value)


def check(claim: str) -> str:
    """Check that a text is well-formed; says nothing about whether it is true.

    Args:
        claim: the text
    """
    return "ok" if claim else NOTHING


BUILT_IN: dict[str, Tool] = {
    function.__name__: tool_from(function, own=False) for function in (cache, fresh, compute, check)
}

ANSWER = Tool("answer", "End the conversation with an answer.", {"text": {"type": "string", "description": "answer"}})


def load_tool(name: str) -> Tool:
    """A tool of this package, or the function that ``module:function`` names. Raises ``UserError``."""
    if is_reference(name):
        function: Any = load_reference(name, object)
        if not callable(function):
            raise UserError(f"tool '{name}' is not a function")
        return tool_from(function)
    if name not in BUILT_IN:
        raise UserError(f"tool '{name}' does not exist{nearest(name, sorted(BUILT_IN))}")
    return BUILT_IN[name]


def delegation(callees: tuple[str, ...]) -> Tool:
    """The call that hands a task to another role."""
    parameters: dict[str, dict[str, Any]] = {
        "task": {"type": "string", "description": "what to find out: a value and what to do with it"},
        "agent": {"type": "string", "enum": list(callees), "description": "who is asked"},
    }
    return Tool("ask", "Hand a task to a sub-agent and get its answer.", parameters)


def run(tool: Tool, arguments: Mapping[str, Any], knowledge: Knowledge, seconds: float) -> tuple[str, bool]:
    """The result of a tool as text, and whether it failed: raised, hung, or said nothing that is text."""
    function = tool.function
    assert function is not None
    positional = (knowledge,) if tool.knows else ()
    if not tool.own:
        return str(function(*positional, **arguments)), False
    result: list[str] = []
    failure: list[str] = []

    def work() -> None:
        try:
            result.append(str(function(*positional, **arguments))[:MAX_RESULT])
        except McpError as error:
            failure.append(f"error: tool {tool.name}: {error}"[:MAX_RESULT])
        except Exception as error:
            failure.append(f"error: tool {tool.name} raised {type(error).__name__}")

    # A daemon: a function that never returns must not keep the process from ending either.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if result:
        return result[0], False
    return (failure or [f"error: tool {tool.name} took longer than {seconds:g} s"])[0], True
