"""A language world for TRL's ``GRPOTrainer(environment_factory=...)``: one role's calls as the methods of a class.

TRL makes an environment per rollout, calls ``reset(**row)`` with the row of its data set, and offers the public methods
to the model as tools. The role that answers the user is trained; the others are played by policies.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from marl.envs.chat import LanguageEnv
from marl.policies.language.base import LanguagePolicy
from marl.rollout.one_speaker import OneSpeaker, StepResult

_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}
_OVER = "the episode is over"


def environment_factory(make: Callable[[], LanguageEnv], others: Mapping[str, LanguagePolicy]) -> type[LanguageTools]:
    """The class to give to TRL.

    Args:
        make: the world; its first role is the one that is trained.
        others: role -> who speaks for it.

    Rows of the data set may have a column ``seed`` that chooses the task.
    """
    env = make()
    env.reset(seed=0)
    turn = env.turn()
    assert turn is not None
    body: dict[str, Any] = {"_make": staticmethod(make), "_others": dict(others)}
    body |= {schema["function"]["name"]: _method(schema["function"]) for schema in turn.tools}
    env.close()
    return type("WorldTools", (LanguageTools,), body)


class LanguageTools:
    """One episode; the public methods of subclasses are the calls that the first role may make."""

    _make: Callable[[], LanguageEnv]
    _others: Mapping[str, LanguagePolicy]

    def __init__(self) -> None:
        env = self._make()
        self._speaker = OneSpeaker(env, env.possible_agents[0], self._others)
        self._done, self._return = True, 0.0

    def reset(self, seed: int = 0, **columns: Any) -> str:
        """Begin the episode of a seed; returns the question."""
        result = self._speaker.reset(int(seed))
        self._done, self._return = result.done, 0.0
        return _told(result)

    def get_reward(self) -> float:
        """Everything earned so far; an episode that was never answered earned nothing."""
        return self._return

    def _call(self, name: str, arguments: dict[str, Any]) -> str:
        if self._done:
            return _OVER
        result = self._speaker.step(json.dumps({"name": name, "arguments": arguments}))
        self._return += result.reward
        self._done = result.done
        return _OVER if result.done else _told(result)


def _told(result: StepResult) -> str:
    return "\n".join(message["content"] for message in result.observation if message["role"] != "system")


def _method(function: Mapping[str, Any]) -> Callable[..., str]:
    """A method with the signature, the hints and the docstring that ``transformers`` makes a JSON schema of."""
    name, properties = function["name"], function["parameters"]["properties"]
    hints = {key: _hint(schema) for key, schema in properties.items()}

    def call(self: LanguageTools, *positional: Any, **named: Any) -> str:
        given = signature.bind(self, *positional, **named).arguments
        return self._call(name, {key: given[key] for key in properties if given.get(key) is not None})

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    own = inspect.Parameter("self", kind)
    required = function["parameters"].get("required", [])
    rest = [
        inspect.Parameter(key, kind, annotation=hint, default=inspect.Parameter.empty if key in required else None)
        for key, hint in sorted(hints.items(), key=lambda item: item[0] not in required)
    ]
    signature = inspect.Signature([own, *rest], return_annotation=str)
    call.__name__ = call.__qualname__ = name
    call.__doc__ = _docstring(function["description"], properties)
    call.__annotations__ = {**hints, "return": str}
    call.__signature__ = signature  # type: ignore[attr-defined]  # PEP 362 allows it
    return call


def _hint(schema: Mapping[str, Any]) -> Any:
    """The nearest hint: TRL's schema is for the model's eyes, the world checks every argument by its own."""
    if "enum" in schema and all(isinstance(value, str) for value in schema["enum"]):
        return Literal[tuple(schema["enum"])]
    kind = schema.get("type")
    return _TYPES.get(kind, str) if isinstance(kind, str) else str


def _docstring(summary: str, properties: Mapping[str, Mapping[str, Any]]) -> str:
    lines: Sequence[str] = [f"    {key}: {schema.get('description', key)}" for key, schema in properties.items()]
    return "\n".join([summary, "", "Args:", *lines, "", "Returns:", "    what came back"])
