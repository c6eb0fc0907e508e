"""Which kind of environment somebody's object is, and its form as a ``ParallelEnv``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any, TypeAlias

import gymnasium
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel

from marl.envs.adapters.common_reward import CommonReward, Share
from marl.envs.adapters.frames import shown_mode
from marl.envs.adapters.gymnasium_agents import GymnasiumAgents
from marl.envs.adapters.marlenv_agents import MarlenvAgents
from marl.envs.adapters.plain_spaces import plain_spaces
from marl.envs.adapters.turns import TurnsAsSteps
from marl.envs.factories import import_environment
from marl.errors import UserError

Parallel: TypeAlias = ParallelEnv[Any, Any, Any]


def as_parallel(made: Any) -> Parallel:
    """Somebody's environment as a ``ParallelEnv``; one that is a ``ParallelEnv`` already is returned as it is.

    An ``AECEnv`` whose agents may as well act at once (``is_parallelizable``) does so; any other has one turn a step.
    A Gymnasium environment has several agents if its spaces are tuples, or if it observes a list; else one.

    Args:
        made: the environment, or something with a method ``build()`` that makes it.

    Raises:
        UserError: it is of no known kind.
    """
    if not _is_environment(made) and callable(getattr(made, "build", None)):
        made = made.build()
    if isinstance(made, ParallelEnv):
        return made
    if isinstance(made, AECEnv):
        return aec_to_parallel(made) if made.metadata.get("is_parallelizable") else TurnsAsSteps(made)
    if isinstance(made, gymnasium.Env):
        return GymnasiumAgents(made)
    if MarlenvAgents.takes(made):
        return MarlenvAgents(made)
    if all(hasattr(made, name) for name in ("possible_agents", "observation_space", "action_space", "step", "reset")):
        return made  # a ParallelEnv in all but its base class
    kind = type(made)
    why = "several environments at once" if isinstance(made, gymnasium.vector.VectorEnv) else "none of the known kinds"
    raise UserError(
        f"a {kind.__module__}.{kind.__name__} is {why}: a factory makes one PettingZoo environment (ParallelEnv or "
        "AECEnv), Gymnasium environment or marlenv MARLEnv"
    )


def _is_environment(made: Any) -> bool:
    return callable(getattr(made, "step", None)) and callable(getattr(made, "reset", None))


@dataclass(frozen=True)
class EnvironmentFactory:
    """Makes one environment, by name. It can be sent to other processes and machines.

    env: MODULE:FACTORY, or MODULE:ID of what the module registers with Gymnasium. arguments: what the factory takes.
    common_reward: every agent gets the sum or the mean of all rewards (``CommonReward``). image_size: pixels of the
    longer side to which larger images are scaled down; None: they are not. render: make it so that it can be shown.
    """

    env: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    common_reward: Share = "none"
    image_size: int | None = None
    render: bool = False

    def __call__(self) -> Parallel:
        env = plain_spaces(as_parallel(self._make()), self.image_size)
        return env if self.common_reward == "none" else CommonReward(env, self.common_reward)

    def _make(self) -> Any:
        factory = import_environment(self.env)
        arguments = dict(self.arguments)
        if self.render and "render_mode" not in arguments:
            made = self._shown(factory, arguments)
            if made is not None:
                return made
        return self._called(factory, arguments)

    def _shown(self, factory: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """The environment with its best way to show itself; None if it has no ``render_mode``."""
        if not _takes(factory, "render_mode"):
            return None
        probe = self._called(factory, arguments)
        mode = shown_mode(probe)
        if mode is None:
            return probe
        probe.close()
        return self._called(factory, arguments | {"render_mode": mode})

    def _called(self, factory: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        try:
            return factory(**arguments)
        except UserError:
            raise
        except TypeError as error:
            given = ", ".join(arguments) or "no arguments"
            raise UserError(
                f"{self.env} cannot be called with {given}: {' '.join(str(error).split())[:200]}"
            ) from error
        except (Exception, SystemExit) as error:
            words = " ".join(str(error).split())[:300]
            raise UserError(f"{self.env} makes no environment: {type(error).__name__}: {words}") from error


def _takes(factory: Callable[..., Any], name: str) -> bool:
    try:
        parameters = signature(factory).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters or any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
