"""One role's view of a language world, as libraries for single agents take it: reset and step, or methods as tools.

The other roles are played by given policies; the caller plays the first one. ``SoloEnv`` has the reset/step form of
OpenEnv and verifiers, ``tool_environment`` makes the class that TRL's ``environment_factory`` wants, whose public
methods are the tools.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from marl.envs.chat import LanguageEnv, Message, Turn
from marl.errors import UserError
from marl.policies.language.base import LanguagePolicy, Request, Transcript
from marl.seeding import fold_int

_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool}


class StepResult(NamedTuple):
    """observation: the messages that came since the last turn. reward: earned by the step; the outcome's at the end."""

    observation: list[Message]
    reward: float
    done: bool
    metadata: dict[str, Any]


class SoloEnv:
    """The first role of a language world, with the others played by ``policies`` (role -> policy).

    Raises ``UserError`` if a role has no policy, or a policy gives no answer.
    """

    def __init__(self, make: Callable[[], LanguageEnv], policies: Mapping[str, LanguagePolicy], seed: int = 0):
        self._env, self._policies, self._seed = make(), policies, seed
        self._turn: Turn | None = None
        self._read = 0

    def reset(self, seed: int) -> StepResult:
        """Begin the episode of a seed; the observation is what the first role is asked."""
        self._env.reset(seed=seed)
        self._transcripts: dict[int, Transcript] = {}
        self._count = 0
        self._turn = self._env.turn()
        assert self._turn is not None
        self._role = self._turn.agent
        self._read = len(self._turn.messages)
        return StepResult(list(self._turn.messages), 0.0, False, {"tools": list(self._turn.tools)})

    def step(self, text: str) -> StepResult:
        """Say ``text`` as the first role, and play the others until it is its turn again or the episode is over."""
        if self._turn is None:
            raise UserError("the episode is over: reset first")
        conversation = self._turn.messages
        self._env.step(text)
        reward = float(self._env.rewards[self._role])
        while (turn := self._env.turn()) is not None and turn.level > 0:
            self._env.step(self._other(turn))
            reward += float(self._env.rewards[self._role])
        self._turn = turn
        new, self._read = conversation[self._read + 1 :], len(conversation)
        if turn is not None:
            return StepResult(new, reward, False, {"tools": list(turn.tools)})
        outcome = self._env.outcome()
        figures = {"success": outcome.success, "cost": outcome.cost, "calls": outcome.calls, **outcome.metrics}
        return StepResult(new, reward, True, figures)

    def _other(self, turn: Turn) -> str:
        if turn.agent not in self._policies:
            raise UserError(f"role '{turn.agent}' has no policy: name one for every role but the first")
        self._count += 1
        transcript = self._transcripts.setdefault(turn.conversation, Transcript())
        (text,) = self._policies[turn.agent].complete([Request(turn, transcript, fold_int(self._seed, self._count))])
        if text is None:
            raise UserError(f"the policy of role '{turn.agent}' gave no answer")
        return text

    def close(self) -> None:
        self._env.close()


def tool_environment(
    make: Callable[[], LanguageEnv], policies: Mapping[str, LanguagePolicy], first_seed: int = 0
) -> type[Any]:
    """A class for TRL's ``environment_factory``: ``reset()`` returns the question, each of the first role's calls is a
    public method with types and a docstring, ``get_reward()`` is what the episode earned.

    Each instance plays the episodes of the seeds from ``first_seed`` on.
    """
    probe = SoloEnv(make, policies)
    schemas = probe.reset(first_seed).metadata["tools"]
    probe.close()

    def initialise(self: Any) -> None:
        self._solo, self._next, self._reward, self._done = SoloEnv(make, policies), first_seed, 0.0, False

    def reset(self: Any, **_: Any) -> str:
        begun = self._solo.reset(self._next)
        self._next += 1
        self._reward, self._done = 0.0, False
        return str(begun.observation[-1]["content"])

    def get_reward(self: Any) -> float:
        return float(self._reward)

    members = {"__init__": initialise, "reset": reset, "get_reward": get_reward}
    members |= {schema["function"]["name"]: _method(schema["function"]) for schema in schemas}
    return type("HierarchyEnvironment", (), members)


def _method(function: Mapping[str, Any]) -> Callable[..., str]:
    """A method that makes one call; its signature and docstring are those of the schema."""
    name, properties = function["name"], function["parameters"]["properties"]

    def method(self: Any, **arguments: Any) -> str:
        if self._done:
            return "the episode is over"
        result = self._solo.step(json.dumps({"name": name, "arguments": arguments}))
        self._reward, self._done = self._reward + result.reward, result.done
        return str(result.observation[-1]["content"]) if result.observation else ""

    hints = {key: _hint(schema) for key, schema in properties.items()}
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(key, kind, annotation=hint) for key, hint in hints.items()]
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = inspect.Signature([first, *parameters], return_annotation=str)  # type: ignore[attr-defined]
    method.__annotations__ = {**hints, "return": str}
    lines = [f"    {key}: {schema.get('description', key)}" for key, schema in properties.items()]
    method.__name__, method.__qualname__ = name, name
    method.__doc__ = "\n".join([function["description"], "", "Args:", *lines])
    return method


def _hint(schema: Mapping[str, Any]) -> Any:
    return Literal[tuple(schema["enum"])] if "enum" in schema else _TYPES[schema["type"]]
