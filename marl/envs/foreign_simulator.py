"""One copy of somebody's PettingZoo environment in a worker. Free of torch, so that workers start quickly."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

from marl.envs.adapters.frames import fitted, frame_of
from marl.envs.adapters.joint_view import JointView
from marl.envs.adapters.kinds import as_parallel
from marl.envs.adapters.plain_spaces import plain_spaces
from marl.envs.factories import import_environment
from marl.envs.foreign_abilities import Abilities, AbilitySpec
from marl.envs.foreign_ends import Ends, declared_limit
from marl.envs.native import MASK, choices, legal_mask, mask_in, to_native, without_mask
from marl.envs.own_randomness import OwnRandomness
from marl.envs.workers import Array, Block, Layout
from marl.errors import UserError

#: Observation space, action space and slots of each group.
Members: TypeAlias = list[tuple[spaces.Space[Any], spaces.Space[Any], list[int]]]


@dataclass(frozen=True)
class ForeignSpec:
    """What the batched face has to know of a foreign environment.

    groups: name -> slots of the agents with equal spaces. observation_space (without masks), action_space: per group.
    masked: the groups with action masks. horizon: the time limit in steps. abilities: for coordination.
    """

    name: str
    agents: tuple[str, ...]
    groups: Mapping[str, tuple[int, ...]]
    observation_space: Mapping[str, spaces.Space[Any]]
    action_space: Mapping[str, spaces.Space[Any]]
    state_space: spaces.Box | None
    masked: frozenset[str]
    horizon: int
    abilities: AbilitySpec


class ForeignSimulator:
    """Writes what an environment returns into named arrays; an episode that ends is followed by the next at once.

    Any kind of environment that ``as_parallel`` knows, with any spaces that ``plain_spaces`` takes.

    Actions: float64 [N, A] with A the largest flat size of an agent's action; exact for every integer below 2**53.
    Continuous actions are clipped to their bounds. An agent that disappears without a flag counts as terminated;
    one that is flagged twice as terminated, unless a wrapper did it and the environment inside knows better (``Ends``).
    Agents alive at the horizon are truncated. An agent whose mask is empty, because it is not its turn, has its first
    action alone.
    metrics: figures of an episode that the environment gives with its end, in ``info["metrics"]`` of any agent.
    state: take the environment's ``state()``, if it has one; several groups without one get a ``JointView``. Where it
        raises in a step that terminates all agents, the state before it stands in: nobody looks at the state after
        such an end. truncate_at_horizon: see ``Ends``.
    by_name: agents of unlike names are in groups of their own, although their spaces are equal.
    render: pictures of every step, ``frame``, and of the end of an episode, ``final_frame``.
    Global random numbers are each simulator's own and seeded with every episode (``OwnRandomness``).
    """

    def __init__(
        self,
        factory: Callable[[], Any] | str,
        horizon: int | None,
        metrics: tuple[str, ...] = (),
        state: bool = True,
        truncate_at_horizon: bool = False,
        by_name: bool = False,
        render: bool = False,
    ):
        self._metrics, self._wants_state, self._by_name, self._shows = metrics, state, by_name, render
        self._randomness = OwnRandomness()
        with self._randomness:
            made = (import_environment(factory) if isinstance(factory, str) else factory)()
            self._env = plain_spaces(as_parallel(made))
            self._ends = Ends(self._env, truncate_at_horizon)
            self._look_around(horizon)

    def _look_around(self, horizon: int | None) -> None:
        """Find out what the environment has to offer."""
        agents = getattr(self._env, "possible_agents", None)
        if not agents:
            raise UserError(f"{self._env} names no possible_agents: a batched world needs to know its slots beforehand")
        self._agents = [str(agent) for agent in agents]
        self._keys = list(agents)
        self._final: dict[int, Any] = {}
        self._final_state: Array | None = None
        self._frame = self._final_frame = np.zeros((0, 0, 3), np.uint8)
        self._last_state: Array | None = None
        self._joint: JointView | None = None
        self._observations, infos = self._env.reset(seed=0)
        self._abilities = Abilities(self._env, self._keys, [self._env.action_space(key) for key in self._keys])
        self.spec = self._describe(infos, horizon)
        self._group_of = {slot: group for group, slots in self.spec.groups.items() for slot in slots}
        self._paths = {group: list(leaves(space)) for group, space in self.spec.observation_space.items()}
        self._infos: Mapping[Any, Any] = infos
        if self._shows:
            self._frame = frame_of(self._env)
        self._begin()

    @property
    def layout(self) -> Layout:
        n, outputs = len(self._agents), {}
        for group, slots in self.spec.groups.items():
            for path, leaf in leaves(self.spec.observation_space[group]).items():
                block = leaf_block(leaf)
                outputs[f"observation/{group}{path}"] = Block((len(slots), *block.shape), block.dtype)
                outputs[f"final/{group}{path}"] = Block((len(slots), *block.shape), block.dtype)
            if group in self.spec.masked:
                width = sum(choices(self.spec.action_space[group]))
                outputs[f"mask/{group}"] = Block((len(slots), width), "bool")
        if self.spec.state_space is not None:
            block = leaf_block(self.spec.state_space)
            outputs |= {"state": block, "final_state": block}
        for name in ("terminated", "truncated", "alive"):
            outputs[name] = Block((n,), "bool")
        outputs |= {"reward": Block((n,), "float32"), "agent_id": Block((n,), "int64"), "done": Block((), "bool")}
        if self._metrics:
            outputs["metrics"] = Block((len(self._metrics),), "float32")
        if self._shows:
            outputs |= dict.fromkeys(("frame", "final_frame"), Block(self._frame.shape, "uint8"))
        outputs |= self._abilities.outputs()
        return Layout(Block((n, action_width(self.spec)), "float64"), outputs, self.spec, self._abilities.inputs())

    def reset(self, seed: int) -> None:
        with self._randomness:
            self._reset_env(seed)
        self._begin()

    def _reset_env(self, seed: int) -> None:
        """Also an environment that draws from global generators starts a function of ``seed``."""
        self._randomness.seed(seed)
        self._ends.begin()
        self._observations, self._infos = self._env.reset(seed=seed)

    def step(self, actions: Array, next_seed: int) -> None:
        with self._randomness:
            self._step(actions, next_seed)

    def _step(self, actions: Array, next_seed: int) -> None:
        acting = [slot for slot in range(len(self._keys)) if self._alive[slot]]
        # In the environment's own order: it may draw random numbers on its way through them.
        slots = {self._keys[slot]: slot for slot in acting}
        chosen = {key: self._decode(slots[key], actions[slots[key]]) for key in self._env.agents}
        self._observations, rewards, terminations, truncations, self._infos = self._env.step(chosen)
        self._time += 1
        self._clear_flags()
        at_limit = self._time >= self.spec.horizon
        ends, present = self._ends.read(list(slots), terminations, truncations, at_limit)
        for key, slot in slots.items():
            self._reward[slot] = rewards.get(key, 0.0)
            self._terminated[slot], self._truncated[slot] = ends[key]
        ended = self._terminated | self._truncated
        for slot, key in enumerate(self._keys):
            living = key in present and not ended[slot]
            if living and not self._alive[slot]:
                self._births[slot] += 1
            self._alive[slot] = living
        if ended.any():
            self._final = {slot: self._observations.get(self._keys[slot]) for slot in acting if ended[slot]}
            self._final_state = self._state(needed=not self._terminated[acting].all())
            self._abilities.end()
        if not self._alive.any():
            self._done = True
            if self._shows:
                self._final_frame = frame_of(self._env)
            self._figures = self._read_metrics()
            self._reset_env(next_seed)
            self._start_agents()

    def write(self, outputs: Mapping[str, Array]) -> None:
        for name in ("reward", "terminated", "truncated", "alive"):
            outputs[name][:] = getattr(self, "_" + name)
        outputs["agent_id"][:] = np.arange(len(self._keys)) + len(self._keys) * self._births
        outputs["done"][()] = self._done
        if self._metrics:
            outputs["metrics"][:] = self._figures
        for group, slots in self.spec.groups.items():
            for row, slot in enumerate(slots):
                seen = self._observations.get(self._keys[slot]) if self._alive[slot] else None
                for path in self._paths[group]:
                    outputs[f"observation/{group}{path}"][row] = 0 if seen is None else _at(seen, path)
                    if self._final.get(slot) is not None:
                        outputs[f"final/{group}{path}"][row] = _at(self._final[slot], path)
                if group in self.spec.masked:
                    mask = self._mask(slot)
                    outputs[f"mask/{group}"][row] = True if mask is None else mask
        if self._shows:
            for name, frame in (("frame", frame_of(self._env)), ("final_frame", self._final_frame)):
                outputs[name][...] = fitted(frame, outputs[name].shape)
        if self.spec.state_space is not None:
            outputs["state"][...] = self._last_state = self._state()
            if self._final_state is not None:
                outputs["final_state"][...] = self._final_state
        self._abilities.write(outputs)

    def answer(self, question: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        masks = np.ones(outputs["candidates"].shape, bool) if question == "priority" else np.zeros((0, 0), bool)
        for slot in range(len(masks)):
            legal = self._mask(slot)
            masks[slot] = True if legal is None else legal
        with self._randomness:
            self._abilities.answer(question, inputs, outputs, masks)

    def close(self) -> None:
        with self._randomness:
            self._env.close()

    # Episode

    def _begin(self) -> None:
        self._clear_flags()
        self._start_agents()

    def _clear_flags(self) -> None:
        n = len(self._keys)
        self._reward = np.zeros(n, np.float32)
        self._terminated, self._truncated = np.zeros(n, bool), np.zeros(n, bool)
        self._done = False
        self._figures = [0.0] * len(self._metrics)
        self._final, self._final_state = {}, None
        self._abilities.forget()

    def _start_agents(self) -> None:
        present = set(self._env.agents)
        self._time = 0
        self._alive = np.array([key in present for key in self._keys])
        self._births = np.zeros(len(self._keys), np.int64)

    def _decode(self, slot: int, row: Array) -> Any:
        space = self.spec.action_space[self._group_of[slot]]
        if isinstance(space, spaces.Discrete):
            return space.dtype.type(to_native(row[0], space))  # what its ``sample`` gives
        assert space.shape is not None
        return to_native(row[: int(np.prod(space.shape, dtype=int))], space)

    def _mask(self, slot: int) -> Array | None:
        """The legal actions of an agent; where it is not its turn, so that nothing is legal, the first one."""
        key = self._keys[slot]
        mask = mask_in(self._observations.get(key), self._infos.get(key)) if self._alive[slot] else None
        return None if mask is None else legal_mask(mask, self.spec.action_space[self._group_of[slot]])

    def _read_metrics(self) -> list[float]:
        ends: list[Mapping[str, Any]] = [info["metrics"] for info in self._infos.values() if "metrics" in info]
        given = ends[0] if ends else {}
        missing = [name for name in self._metrics if name not in given]
        if missing:
            raise UserError(f"{self._env} ends an episode without info['metrics'] of {', '.join(missing)}")
        return [float(given[name]) for name in self._metrics]

    def _state_space(self, members: Members) -> spaces.Box | None:
        """Of the environment's own state; with several groups and no such state, all observations are the state."""
        own = _state_space(self._env) if self._wants_state else None
        if own is not None or len(members) == 1:
            return own
        # In the order of the groups, as critics of one group see it too.
        self._joint = JointView({self._keys[slot]: without_mask(seen) for seen, _, slots in members for slot in slots})
        return self._joint.space

    def _state(self, needed: bool = True) -> Array | None:
        if self.spec.state_space is None:
            return None
        if self._joint is not None:
            return self._joint(self._observations)
        try:
            return np.asarray(self._env.state())
        except Exception as error:
            if not needed:
                return self._last_state
            raise UserError(
                f"state() of {self._env} worked at first and now raises {type(error).__name__}: {str(error)[:200]}; "
                "make the world without it: from_parallel(..., state=False)"
            ) from error

    # Description

    def _describe(self, infos: Mapping[Any, Any], horizon: int | None) -> ForeignSpec:
        members: Members = []
        for slot, key in enumerate(self._keys):
            seen, acts = self._env.observation_space(key), self._env.action_space(key)
            for other_seen, other_acts, slots in members:
                like = not self._by_name or _stem(self._agents[slots[0]]) == _stem(self._agents[slot])
                if seen == other_seen and acts == other_acts and like:
                    slots.append(slot)
                    break
            else:
                members.append((seen, acts, [slot]))
        names = _group_names([[self._agents[slot] for slot in slots] for _, _, slots in members])
        masked = frozenset(
            name
            for name, (_, _, slots) in zip(names, members, strict=True)
            if any(
                mask_in(self._observations.get(self._keys[slot]), infos.get(self._keys[slot])) is not None
                for slot in slots
            )
        )
        for _, acts, _ in members:
            leaf_block(acts)
        return ForeignSpec(
            name=str(self._env),
            agents=tuple(self._agents),
            groups={name: tuple(slots) for name, (_, _, slots) in zip(names, members, strict=True)},
            observation_space={name: without_mask(seen) for name, (seen, _, _) in zip(names, members, strict=True)},
            action_space={name: acts for name, (_, acts, _) in zip(names, members, strict=True)},
            state_space=self._state_space(members),
            masked=masked,
            horizon=horizon or declared_limit(self._env) or _no_limit(self._env),
            abilities=self._abilities.spec,
        )


def _no_limit(env: Any) -> int:
    raise UserError(f"{env} does not say how long an episode lasts: give horizon=STEPS")


def leaves(space: spaces.Space[Any], path: str = "") -> dict[str, spaces.Space[Any]]:
    """The arrays of an observation: path ('' or '/key/key') -> space; ``UserError`` for what has no fixed shape."""
    if isinstance(space, spaces.Dict):
        out: dict[str, spaces.Space[Any]] = {}
        for key, inner in space.spaces.items():
            out |= leaves(inner, f"{path}/{key}")
        return out
    leaf_block(space)
    return {path: space}


def leaf_block(space: spaces.Space[Any]) -> Block:
    """The array of one value of a space."""
    if isinstance(space, spaces.Discrete):
        return Block((), "int64")
    if isinstance(space, spaces.MultiDiscrete):
        return Block(space.shape, "int64")
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        assert space.dtype is not None
        return Block(space.shape, np.dtype(space.dtype).name)
    raise UserError(f"a batched world needs arrays of fixed shape, not the space {space}")


def action_width(spec: ForeignSpec) -> int:
    """The largest flat size of an agent's action."""
    return max(int(np.prod(leaf_block(space).shape, dtype=int)) for space in spec.action_space.values())


def _at(value: Any, path: str) -> Any:
    """The leaf of an observation; ``path`` as ``leaves`` names it for the observation without its mask."""
    if isinstance(value, Mapping) and MASK in value and path == "":
        return value["observation"]
    for key in path.split("/")[1:]:
        value = value[key]
    return value


def _state_space(env: Any) -> spaces.Box | None:
    try:
        state = env.state()
    except (NotImplementedError, AttributeError, TypeError):  # TypeError: some keep an attribute of that name.
        return None
    declared = getattr(env, "state_space", None)
    if isinstance(declared, spaces.Box):
        return declared
    return spaces.Box(-np.inf, np.inf, state.shape, state.dtype.type) if isinstance(state, np.ndarray) else None


def _group_names(groups: list[list[str]]) -> list[str]:
    """The agents' common name without its number ('adversary' of adversary_0, adversary_1) if that is unique."""
    names = []
    for index, agents in enumerate(groups):
        stems = {_stem(agent) for agent in agents}
        names.append(stems.pop() if len(stems) == 1 else f"group_{index}")
    if len(set(names)) == len(names) and all(names):
        return names
    return [f"group_{index}" for index in range(len(groups))]


def _stem(agent: str) -> str:
    """An agent's name without the number at its end."""
    return re.sub(r"[_-]?\d+$", "", agent)
