"""One role of a language world as an OpenEnv environment (package ``openenv-core``): served, or played in the process.

OpenEnv's agents send actions and get observations; here an action is a text and an observation the messages that are
new to the role, with the JSON schemas of the calls that it may make. The other roles are played by policies.
"""

from __future__ import annotations

import importlib
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import create_model, model_validator

from marl.envs.chat import LanguageEnv
from marl.errors import UserError
from marl.policies.language.base import LanguagePolicy
from marl.rollout.one_speaker import OneSpeaker, StepResult


def _core() -> Any:
    try:
        return importlib.import_module("openenv.core.env_server")
    except ImportError:
        raise UserError("an OpenEnv environment needs the package openenv-core: pip install openenv-core") from None


def action_class() -> type[Any]:
    """The actions: ``text`` is what the role says; the ``name`` and ``arguments`` of a call stand for its JSON."""
    validators: dict[str, Any] = {"spelt": model_validator(mode="before")(_spelt)}
    made: type[Any] = create_model("Say", __base__=_core().Action, __validators__=validators, text=(str, ...))
    return made


def _spelt(data: Any) -> Any:
    call = isinstance(data, dict) and "text" not in data and {"name", "arguments"} <= set(data)
    return {"text": json.dumps({key: data[key] for key in ("name", "arguments")})} if call else data


def observation_class() -> type[Any]:
    """The observations: ``messages`` that are new to the role, and ``tools``, the calls that it may make."""
    fields: dict[str, Any] = dict.fromkeys(("messages", "tools"), (list[dict[str, Any]], ...))
    made: type[Any] = create_model("Heard", __base__=_core().Observation, **fields)
    return made


def openenv_environment(
    make: Callable[[], LanguageEnv], role: str, others: Mapping[str, LanguagePolicy]
) -> Callable[[], Any]:
    """What OpenEnv's ``create_app(env, action_class(), observation_class())`` takes: makes an environment a session.

    Args:
        role: who is played from outside.
        others: role -> who speaks for it.

    Raises ``UserError`` as ``OneSpeaker`` does.
    """
    core, heard = _core(), observation_class()

    def observed(result: StepResult) -> Any:
        figures = {key: value for key, value in result.metadata.items() if key != "tools"}
        tools = list(result.metadata.get("tools", ()))
        messages = [{"role": m["role"], "content": m["content"]} for m in result.observation]
        return heard(messages=messages, tools=tools, done=result.done, reward=result.reward, metadata=figures)

    class LanguageEnvironment(core.Environment):  # type: ignore[misc, name-defined]  # openenv is an extra
        """Seeds choose the task; an episode that is over asks for a reset."""

        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            self._speaker = OneSpeaker(make(), role, others)
            self._state = core.State()

        def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Any:
            self._state = core.State(episode_id=episode_id or uuid.uuid4().hex, step_count=0)
            return observed(self._speaker.reset(seed or 0))

        def step(self, action: Any, timeout_s: float | None = None, **_: Any) -> Any:
            self._state.step_count += 1
            return observed(self._speaker.step(action.text))

        @property
        def state(self) -> Any:
            return self._state

        def close(self) -> None:
            self._speaker.env.close()

    LanguageEnvironment()  # roles that nobody speaks for are named now and not in a session
    return LanguageEnvironment
