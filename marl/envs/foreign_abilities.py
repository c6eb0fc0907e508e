"""What somebody's PettingZoo environment may tell the coordination modules, read in its worker. Free of torch.

An environment has an ability if it has the methods (agents are named as PettingZoo names them):

guidance: ``plan_space``, the Box of what one agent is told; ``plan() -> {agent: array}``; and, if sub-goals are
    rewarded, ``reached() -> {agent: bool}``: in the last step it came to the sub-goal set before it.
intent: ``intent_scale``, a number for each of D coordinates; ``coordinates() -> {agent: [D]}``, where agents are; and
    ``predict(actions, horizon) -> {agent: [H, D]}``, where ``actions`` (``{agent: action}``, None: carry on) lead.
safety: ``priority() -> {agent: number}``, the largest decides first; ``margin(agent, action, committed) -> number``,
    the room that an action leaves, negative for a conflict, given what those before it do (``{agent: action}``); and,
    if not all (unmasked) actions are to be considered, ``candidates(agent) -> actions``.

Discrete actions; agents that are left out of an answer count as absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from marl.envs.workers import Array, Block
from marl.errors import UserError

#: The longest horizon of intents (``marl.config.IntentConfig``).
MAX_HORIZON = 64

#: Stands for an agent that carries on, or that has not been decided upon.
NO_ACTION = -1


@dataclass(frozen=True)
class AbilitySpec:
    """plan: the space of what one agent is told. scale: of the coordinates. supervised: it has margins. None: no."""

    plan: spaces.Box | None = None
    scale: tuple[float, ...] | None = None
    supervised: bool = False


class Abilities:
    """The answers of one environment as arrays over its slots. keys: its agents, in the order of the slots."""

    def __init__(self, env: Any, keys: Sequence[Any], action_spaces: Sequence[spaces.Space[Any]]):
        self._owner = next((o for o in (env, getattr(env, "unwrapped", env)) if _names(o)), env)
        self._keys, self._slot = list(keys), {key: slot for slot, key in enumerate(keys)}
        self._discrete = [space for space in action_spaces if isinstance(space, spaces.Discrete)]
        names = _names(self._owner)
        owner = self._owner
        if {"predict", "margin"} & names and len(self._discrete) < len(keys):
            raise UserError(f"{env} has margins or predictions, which need discrete actions of all agents")
        plan = owner.plan_space if {"plan", "plan_space"} <= names else None
        scale = None
        if {"predict", "coordinates", "intent_scale"} <= names:
            scale = tuple(float(number) for number in owner.intent_scale)
        self.spec = AbilitySpec(plan, scale, {"priority", "margin"} <= names)
        self._names = names
        self._horizon = 0
        self._final: dict[str, Array] = {}

    def inputs(self) -> dict[str, Block]:
        """What questions come with: drafts and committed actions of all agents, a horizon, the agent in question."""
        n = (len(self._keys),)
        asked = {}
        if self.spec.scale is not None:
            asked = {"drafts": Block(n, "int64"), "horizon": Block((), "int64")}
        if self.spec.supervised:
            asked |= {"committed": Block(n, "int64"), "agent": Block((), "int64")}
        return asked

    def outputs(self) -> dict[str, Block]:
        """What is told without being asked (plans), and answers."""
        n = len(self._keys)
        told: dict[str, Block] = {}
        if self.spec.plan is not None:
            block = Block((n, *self.spec.plan.shape), "float32")
            told |= {"plan": block, "final_plan": block, "reached": Block((n,), "bool")}
        if self.spec.scale is not None:
            width = len(self.spec.scale)
            for prefix in ("", "final_"):
                told[prefix + "trajectory"] = Block((n, MAX_HORIZON, width), "float64")
                told[prefix + "origin"] = Block((n, width), "float64")
        if self.spec.supervised:
            actions = max(int(space.n) for space in self._discrete)
            told |= {"priority": Block((n,), "float64"), "candidates": Block((n, actions), "bool")}
            told["margin"] = Block((actions,), "float64")
        return told

    def write(self, outputs: Mapping[str, Array]) -> None:
        """Write what is told without being asked."""
        if self.spec.plan is not None:
            outputs["plan"][:] = self._plan()
            outputs["reached"][:] = False
            if "reached" in self._names:
                for key, value in self._owner.reached().items():
                    outputs["reached"][self._slot[key]] = value
        for name, value in self._final.items():
            outputs["final_" + name][:] = value

    def end(self) -> None:
        """Keep the last view of an episode that has just ended for some agent."""
        if self.spec.plan is not None:
            self._final["plan"] = self._plan()
        if self.spec.scale is not None and self._horizon:
            trajectory, origin = self._predict(None)
            self._final |= {"trajectory": trajectory, "origin": origin}

    def forget(self) -> None:
        """A step begins."""
        self._final = {}

    def answer(self, question: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array], masks: Array) -> None:
        """Answer ``predict``, ``priority`` or ``margin``. masks: bool ``[N, A]``, the legal actions."""
        if question == "predict":
            self._horizon = int(inputs["horizon"])
            drafts = inputs["drafts"]
            trajectory, origin = self._predict(None if (drafts == NO_ACTION).all() else self._named(drafts))
            outputs["trajectory"][:], outputs["origin"][:] = trajectory, origin
        elif question == "priority":
            outputs["priority"][:], outputs["candidates"][:] = 0.0, masks
            for key, value in self._owner.priority().items():
                outputs["priority"][self._slot[key]] = value
            if "candidates" in self._names:
                for key in self._owner.agents:
                    slot = self._slot[key]
                    legal = np.array(self._owner.candidates(key), int) - int(self._discrete[slot].start)
                    outputs["candidates"][slot] = np.isin(np.arange(masks.shape[1]), legal)
        else:
            slot = int(inputs["agent"])
            outputs["margin"][:] = -np.inf
            key = self._keys[slot]
            if key in self._owner.agents:
                committed = self._named(inputs["committed"])
                for action in np.flatnonzero(outputs["candidates"][slot]).tolist():
                    outputs["margin"][action] = self._owner.margin(key, self._action(slot, action), committed)

    def _plan(self) -> Array:
        assert self.spec.plan is not None
        told = np.zeros((len(self._keys), *self.spec.plan.shape), np.float32)
        for key, value in self._owner.plan().items():
            told[self._slot[key]] = value
        return told

    def _predict(self, actions: Mapping[Any, Any] | None) -> tuple[Array, Array]:
        assert self.spec.scale is not None
        shape = (len(self._keys), MAX_HORIZON, len(self.spec.scale))
        trajectory, origin = np.zeros(shape), np.full((shape[0], shape[2]), np.nan)
        for key, path in self._owner.predict(actions, self._horizon).items():
            trajectory[self._slot[key], : self._horizon] = path
        for key, place in self._owner.coordinates().items():
            origin[self._slot[key]] = place
        return trajectory, origin

    def _named(self, actions: Array) -> dict[Any, Any]:
        """Actions by the environment's names; those who carry on or are undecided are left out."""
        chosen = np.flatnonzero(actions != NO_ACTION).tolist()
        return {
            self._keys[slot]: self._action(slot, int(actions[slot]))
            for slot in chosen
            if self._keys[slot] in self._owner.agents
        }

    def _action(self, slot: int, action: int) -> Any:
        space = self._discrete[slot]
        return space.dtype.type(action + int(space.start))


_KNOWN = ("plan_space", "plan", "reached", "intent_scale", "coordinates", "predict", "priority", "margin", "candidates")


def _names(owner: Any) -> set[str]:
    return {name for name in _KNOWN if getattr(owner, name, None) is not None}
