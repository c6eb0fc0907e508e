"""Tools: typed Python functions that agents may call, described to them as JSON schema.

A tool never evaluates text. What the package's own tools do is bounded by construction; a user's function runs in a
thread that is given up when its time is over, and what is cut of its result is marked.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_type_hints

import jsonschema
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError

from marl.errors import UserError, nearest
from marl.plugins import is_reference, load_reference
from marl.rollout.mcp_client import McpError
from scenarios.agent_hierarchy.tasks import NOTHING, Knowledge

#: Characters of a result that an agent reads, unless ``world.tool_characters`` says otherwise.
MAX_RESULT = 500

_SECTION = re.compile(r"\n\s*Args:\s*\n(?P<body>(?:\s*\n|\s+.*\n?)*)")
_PARAMETER = re.compile(r"^\s*(?P<name>\w+)\s*(?:\([^)]*\))?:\s*(?P<text>.+)$", re.MULTILINE)
#: The place of each parameter in the model of a function's arguments, whose names may be those of pydantic's methods.
_FIELD = "argument_{}"


@dataclass(frozen=True)
class Tool:
    """A call that an agent may make.

    parameters: name -> JSON schema, in order. function: what runs, or None for calls that the world itself handles.
    knows: the function's first argument is the episode's knowledge. own: a user's, not to be trusted with time.
    required: parameters that have to be given; None: all. whole: the JSON schema of all arguments together, for tools
    whose parameters may be more than a text, a number or a truth value.
    """

    name: str
    description: str
    parameters: Mapping[str, Mapping[str, Any]]
    function: Callable[..., Any] | None = None
    knows: bool = False
    own: bool = False
    required: frozenset[str] | None = None
    whole: Mapping[str, Any] | None = None

    @property
    def needed(self) -> frozenset[str]:
        """Parameters that have to be given."""
        return frozenset(self.parameters) if self.required is None else self.required

    @property
    def open(self) -> bool:
        """Whether the schema says that further arguments may be given."""
        more = {} if self.whole is None else self.whole
        return more.get("additionalProperties", False) not in (False, None) or "patternProperties" in more

    @cached_property
    def validator(self) -> Any:
        """Of ``whole``."""
        return jsonschema.validators.validator_for(self.whole, jsonschema.Draft202012Validator)(self.whole)

    def schema(self) -> dict[str, Any]:
        """The form that chat templates and OpenAI-compatible servers take."""
        parameters = {
            "type": "object",
            "properties": {name: dict(schema) for name, schema in self.parameters.items()},
            "required": [name for name in self.parameters if name in self.needed],
        }
        if self.whole is not None:
            parameters = {"type": "object", "properties": {}, **self.whole}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def tool_of_schema(
    name: str, description: str, whole: Mapping[str, Any], function: Callable[..., Any], knows: bool = False
) -> Tool:
    """A user's tool whose arguments a JSON schema describes.

    Args:
        name: of the tool.
        description: for the agent.
        whole: JSON schema of an object.
        function: what runs, by keywords.
        knows: its first argument is the episode's knowledge.

    Raises:
        ValueError: the schema is none of an object's, or no valid JSON schema.
    """
    properties, required = whole.get("properties", {}), whole.get("required", [])
    if not isinstance(properties, Mapping) or not isinstance(required, list) or not set(required) <= set(properties):
        raise ValueError("its parameters are not those of an object")
    try:
        jsonschema.validators.validator_for(whole, jsonschema.Draft202012Validator).check_schema(whole)
    except jsonschema.SchemaError as error:
        raise ValueError(error.message.splitlines()[0][:100]) from None
    parameters = {key: schema if isinstance(schema, Mapping) else {} for key, schema in properties.items()}
    return Tool(name, description, parameters, function, knows, True, frozenset(required), whole)


def tool_from(function: Callable[..., Any], own: bool = True) -> Tool:
    """A tool from a function with type hints and a Google-style docstring; it may be a coroutine function.

    Hints may be whatever ``pydantic`` has a JSON schema for; parameters with defaults may be left out. A first
    parameter annotated ``Knowledge`` is filled in by the world. Raises ``UserError`` for what has no schema.
    """
    name = getattr(function, "__name__", "tool")
    text = inspect.getdoc(function) or ""
    if not text:
        raise UserError(f"tool '{name}' has no docstring: say in one line what it does")
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise UserError(f"the type hints of tool '{name}' cannot be read: {error}") from None
    described = _described(text)
    names: list[str] = []
    fields: dict[str, Any] = {}
    knows = False
    for place, parameter in enumerate(inspect.signature(function).parameters.values()):
        if place == 0 and hints.get(parameter.name) is Knowledge:
            knows = True
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UserError(f"parameter '{parameter.name}' of tool '{name}' must be an ordinary one")
        if parameter.name not in hints:
            raise UserError(f"parameter '{parameter.name}' of tool '{name}' has no type hint")
        default = ... if parameter.default is parameter.empty else parameter.default
        about = Field(default, alias=parameter.name, description=described.get(parameter.name, parameter.name))
        fields[_FIELD.format(len(names))] = (hints[parameter.name], about)
        names.append(parameter.name)
    summary = text.split("\n\n")[0].replace("\n", " ")
    model, whole = _model(name, fields)
    if own:
        return tool_of_schema(name, summary, whole, _checked(function, model, names), knows)
    return Tool(name, summary, whole["properties"], function, knows)


def _model(tool: str, fields: dict[str, Any]) -> tuple[type[BaseModel], dict[str, Any]]:
    """A model of a function's arguments, and its JSON schema."""
    try:
        model: type[BaseModel] = create_model(tool, __config__=ConfigDict(extra="forbid"), **fields)
        whole: dict[str, Any] = _untitled(model.model_json_schema())
    except (PydanticUserError, TypeError) as error:
        raise UserError(f"a parameter of tool '{tool}' has no JSON schema: {str(error).splitlines()[0]}") from None
    whole.setdefault("properties", {})
    return model, whole


def _untitled(schema: Any) -> Any:
    """A schema without the titles that pydantic gives everything."""
    if isinstance(schema, dict):
        return {key: _untitled(value) for key, value in schema.items() if key != "title" or isinstance(value, dict)}
    return [_untitled(value) for value in schema] if isinstance(schema, list) else schema


def _checked(function: Callable[..., Any], model: type[BaseModel], names: list[str]) -> Callable[..., Any]:
    """The function called with values of the types that its hints ask for; defaults stay its own."""

    def call(*knowledge: Any, **arguments: Any) -> Any:
        values = model.model_validate(arguments)
        given = {name: getattr(values, _FIELD.format(n)) for n, name in enumerate(names) if name in arguments}
        return function(*knowledge, **given)

    return call


def _described(docstring: str) -> dict[str, str]:
    section = _SECTION.search(docstring + "\n")
    return {} if section is None else {m["name"]: m["text"].strip() for m in _PARAMETER.finditer(section["body"])}


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


def run(
    tool: Tool, arguments: Mapping[str, Any], knowledge: Knowledge, seconds: float, characters: int = MAX_RESULT
) -> tuple[str, bool]:
    """The result of a tool as text, and whether it failed: raised, or hung.

    Args:
        tool: that is called, with legal ``arguments``.
        arguments: by name.
        knowledge: of the episode.
        seconds: after which a user's tool is given up.
        characters: of a user's result that are kept.
    """
    function = tool.function
    assert function is not None
    positional = (knowledge,) if tool.knows else ()
    if not tool.own:
        return str(function(*positional, **arguments)), False
    result: list[str] = []
    failure: list[str] = []

    def work() -> None:
        try:
            result.append(_cut(_told(function(*positional, **arguments)), characters))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            failure.append(_cut(f"error: tool {tool.name}: {place}: {first['msg']}", characters))
        except McpError as error:
            failure.append(_cut(f"error: tool {tool.name}: {error}", characters))
        except Exception as error:
            failure.append(f"error: tool {tool.name} raised {type(error).__name__}")

    # A daemon: a function that never returns must not keep the process from ending either.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if result:
        return result[0], False
    return (failure or [f"error: tool {tool.name} took longer than {seconds:g} s"])[0], True


def _told(result: Any) -> str:
    """A result as text: of coroutines what they return, of models, lists and dictionaries their JSON."""
    if inspect.isawaitable(result):
        result = asyncio.run(_awaited(result))
    if isinstance(result, BaseModel):
        return result.model_dump_json()
    return json.dumps(result, default=str, ensure_ascii=False) if isinstance(result, list | dict) else str(result)


async def _awaited(result: Any) -> Any:
    return await result


def _cut(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    return f"{text[:characters]} [cut: {characters:,} of {len(text):,} characters]"
