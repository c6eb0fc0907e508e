"""PettingZoo in both directions: a batched world's ``ParallelEnv`` face, and foreign environments as batched worlds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from pettingzoo import ParallelEnv
from torch import Tensor

from marl.envs.batched import BatchedEnv, Snapshots, TimeStep, Tree
from marl.envs.foreign import ForeignEnv, from_parallel
from marl.envs.native import MASK, from_native, native_mask
from marl.envs.spaces import BitWindow
from marl.seeding import fold_int

__all__ = ["ForeignEnv", "ParallelFace", "from_parallel"]

Observation = Any


class ParallelFace(ParallelEnv[str, Observation, Any]):  # type: ignore[misc]  # pettingzoo has no types
    """One copy of a batched world as a PettingZoo ``ParallelEnv``, equal to it step by step.

    env: a world with ``copies=1``. augment: adds to a time step what coordination modules know (``Pipeline.view``);
    called once after each ``reset`` and ``step``. observation_spaces: per group, what ``augment`` makes of the
    observation. render: draws the world as it stands; ``render_mode`` is the name of what it returns.
    pipeline: what ``augment`` is of, if a coordination pipeline; trained policies ask it to correct what they decide.
    newcomers: slots are filled again after their agents left. Such an agent is called ``slot#agent_id``, and
    ``possible_agents`` is not defined, as PettingZoo has it for worlds that generate agents.
    rebuild: makes the same face anew, which is how it is pickled and copied; a world with snapshots then continues
    where it was, another one has to be reset.

    Binary planes (``BitWindow``) are shown unpacked, uint8 [C, height, width]. ``infos[agent]`` holds ``key``, what a
    policy of this platform draws its random numbers from; ``action_mask`` (int8, as ``action_space.sample`` takes it)
    where the world has masks; and, in the last step of an episode, ``metrics``.
    ``state()`` is the central critic's view; per agent, it is stacked [N, *].
    ``reset()`` without a seed goes on to the next episode of the last seed (of 0 if there was none), like the batched
    world does by itself; in the middle of an episode it draws a new seed from the last one.
    """

    def __init__(
        self,
        env: BatchedEnv,
        augment: Callable[[TimeStep], TimeStep] | None = None,
        observation_spaces: Mapping[str, spaces.Space[Any]] | None = None,
        *,
        pipeline: Any = None,
        render: Callable[[BatchedEnv], Any] | None = None,
        render_mode: str | None = None,
        newcomers: bool = False,
        rebuild: Callable[[], ParallelFace] | None = None,
        name: str = "marl",
    ):
        if env.copies != 1:
            raise ValueError(f"the PettingZoo face shows a world of one copy, not of {env.copies}")
        self.env, self.render_mode, self.pipeline = env, render_mode, pipeline
        #: Episodes begun so far.
        self.episodes = 0
        self._augment, self._render, self._newcomers, self._rebuild = augment, render, newcomers, rebuild
        self.metadata = {
            "name": name,
            "render_modes": [render_mode] if render_mode else [],
            "is_parallelizable": True,
        }
        spec = env.spec
        self.max_cycles = spec.horizon
        if not newcomers:
            self.possible_agents = list(spec.agents)
        self.agents: list[str] = []
        self._slots = {name: slot for slot, name in enumerate(spec.agents)}
        self._place = {slot: (group, row) for group, slots in spec.groups.items() for row, slot in enumerate(slots)}
        self._native = dict(observation_spaces or spec.observation_space)
        shown = {group: _unpacked(space) for group, space in self._native.items()}
        # Each agent has a space of its own, so that seeding one does not touch another's.
        self._seen = {agent: copy.deepcopy(shown[self._place[slot][0]]) for agent, slot in self._slots.items()}
        self._acts = {
            agent: copy.deepcopy(spec.action_space[self._place[slot][0]]) for agent, slot in self._slots.items()
        }
        if isinstance(spec.state_space, spaces.Box):
            per_agent = spec.state_per_agent
            self.state_space = batch_space(spec.state_space, spec.n_agents) if per_agent else spec.state_space
        self._seed: int | None = None
        self._resets = 0
        self._present: TimeStep | None = None
        self._names: dict[str, int] = {}
        self._taken: dict[int, int] = {}
        self._last_state: np.ndarray[Any, Any] | None = None

    # Spaces

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._seen[agent.split("#")[0]]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self._acts[agent.split("#")[0]]

    # Episodes

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        if seed is not None:
            self._seed, self._resets = seed, 0
            self._present = self._view(self.env.reset(seed))
        elif self._present is None or self._names:
            # Nothing has run yet, or an episode is given up in its middle.
            self._resets += 1
            self._seed = 0 if self._seed is None else fold_int(self._seed, self._resets) & 0x7FFFFFFF
            self._present = self._view(self.env.reset(self._seed))
        return self._enter(self._present)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        if not self._names or self._present is None:
            raise ValueError("no agent is alive: call reset() first")
        acting = dict(self._names)
        step = self._view(self.env.step(self._encode(actions)))
        last = self._present = self._played_out(step)
        terminated = {name: bool(step.terminated[0, slot]) for name, slot in acting.items()}
        truncated = {name: bool(step.truncated[0, slot]) for name, slot in acting.items()}
        rewards = {name: float(step.reward[0, slot]) for name, slot in acting.items()}
        observations: dict[str, Observation] = {}
        infos: dict[str, dict[str, Any]] = {name: {} for name in acting}
        done = bool(last.done[0])
        if done:
            self._names, self.agents = {}, []
            final = last.final or step.final  # an end that nobody sees has no last view
            assert final is not None
            self._last_state = _array(final.state)
        else:
            self._names = self._living(last)
            self.agents = list(self._names)
            self._last_state = _array(last.state)
        for name, slot in acting.items():
            if name in self._names:
                continue
            if step.final is not None:
                observations[name] = self._show(step.final.observation, slot)
            if done:
                infos[name]["metrics"] = {metric: float(value[0]) for metric, value in last.metrics.items()}
        for name, slot in self._names.items():
            observations[name] = self._show(last.observation, slot)
            infos[name] = self._info(last, slot)
            rewards.setdefault(name, 0.0)
            terminated.setdefault(name, False)
            truncated.setdefault(name, False)
        return observations, rewards, terminated, truncated, infos

    def state(self) -> np.ndarray[Any, Any]:
        if self._last_state is None:
            raise NotImplementedError("this world has no central state, or has not been reset")
        return self._last_state.copy()

    def render(self) -> Any:
        if self._render is None:
            raise NotImplementedError(f"{type(self.env).__name__} cannot draw itself")
        return self._render(self.env)

    def close(self) -> None:
        self.env.close()

    @property
    def present(self) -> TimeStep:
        """The moment that was shown last, with what ``augment`` adds. Raises ``ValueError`` before the first reset."""
        if self._present is None:
            raise ValueError("nothing has been shown yet: call reset() first")
        return self._present

    @property
    def slots(self) -> dict[str, int]:
        """The slot of every living agent, by its name."""
        return dict(self._names)

    # Copies

    def __reduce__(self) -> tuple[Any, ...]:
        if self._rebuild is None:
            raise TypeError("this environment cannot be copied or pickled: it was made without rebuild=")
        kept = {name: getattr(self, name) for name in _KEPT}
        kept["snapshot"] = self.env.snapshot() if isinstance(self.env, Snapshots) and self._present else None
        return _restored, (self._rebuild, kept)

    # Helpers

    def _view(self, timestep: TimeStep) -> TimeStep:
        return self._augment(timestep) if self._augment else timestep

    def _played_out(self, step: TimeStep) -> TimeStep:
        """The end of an episode that nobody acts in any more, so that its figures are not lost; else the step itself.

        Users stop when ``agents`` is empty, and the world may go on without them, such as a road of humans.
        """
        while not self._newcomers and not bool(step.done[0]) and not bool(step.alive[0].any()):
            self._names = {}
            step = self._view(self.env.step(self._encode({})))
        return step

    def _enter(self, timestep: TimeStep) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        self._taken = {}
        self.episodes += 1
        self._names = self._living(timestep)
        self.agents = list(self._names)
        self._last_state = _array(timestep.state)
        observations = {name: self._show(timestep.observation, slot) for name, slot in self._names.items()}
        return observations, {name: self._info(timestep, slot) for name, slot in self._names.items()}

    def _living(self, timestep: TimeStep) -> dict[str, int]:
        """The names of those alive, in the order of the slots; a slot's first agent has the slot's name."""
        names = {}
        for slot in torch.nonzero(timestep.alive[0]).flatten().tolist():
            who = int(timestep.agent_id[0, slot])
            first = self._taken.setdefault(slot, who)
            if who != first and not self._newcomers:
                raise ValueError(
                    f"slot {self.env.spec.agents[slot]} was filled again: make the face with newcomers=True"
                )
            names[self.env.spec.agents[slot] + ("" if who == first else f"#{who}")] = slot
        return names

    def _info(self, timestep: TimeStep, slot: int) -> dict[str, Any]:
        group, row = self._place[slot]
        mask = timestep.action_mask
        if isinstance(mask, dict):
            mask = mask.get(group)
        info: dict[str, Any] = {"key": int(timestep.key[0])}
        if mask is not None:
            assert isinstance(mask, Tensor)
            info[MASK] = native_mask(mask[0, row].cpu().numpy(), self.env.spec.action_space[group])
        return info

    def _show(self, observation: Tree, slot: int) -> Observation:
        group, row = self._place[slot]
        if len(self._native) > 1:
            assert isinstance(observation, dict)
            observation = observation[group]
        return _shown(observation, self._native[group], row)

    def _encode(self, actions: dict[str, Any]) -> Tree:
        missing = [name for name in self._names if name not in actions]
        unknown = [name for name in actions if name not in self._names]
        if missing or unknown:
            raise ValueError(
                f"no action for the living agent {missing[0]}" if missing else f"{unknown[0]} is not alive"
            )
        spec = self.env.spec
        out: dict[str, Tree] = {}
        for group, slots in spec.groups.items():
            space = spec.action_space[group]
            width = () if isinstance(space, spaces.Discrete) else (int(np.prod(space.shape or (), dtype=int)),)
            rows = np.zeros((1, len(slots), *width), space.dtype)
            for name, action in actions.items():
                where, row = self._place[self._names[name]]
                if where == group:
                    if not space.contains(action):
                        raise ValueError(f"the action of {name}, {action!r}, is not in {space}")
                    rows[0, row] = from_native(action, space)
            tensor = torch.from_numpy(rows).to(self.env.device)
            out[group] = tensor.to(torch.int64) if not tensor.is_floating_point() else tensor
        return out if len(out) > 1 else next(iter(out.values()))


#: What a copy keeps beside the world itself.
_KEPT = ("agents", "_seed", "_resets", "_present", "_names", "_taken", "_last_state")


def _restored(rebuild: Callable[[], ParallelFace], kept: dict[str, Any]) -> ParallelFace:
    face = rebuild()
    snapshot = kept.pop("snapshot")
    if snapshot is not None:
        assert isinstance(face.env, Snapshots)
        face.env.restore(snapshot)
        for name, value in kept.items():
            setattr(face, name, value)
    return face


def _unpacked(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, BitWindow):
        return space.unpacked()
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _unpacked(inner) for key, inner in space.spaces.items()})
    return space


def _shown(value: Tree, space: spaces.Space[Any], row: int) -> Observation:
    """One agent's observation as numpy arrays."""
    if isinstance(space, spaces.Dict):
        assert isinstance(value, dict)
        return {key: _shown(value[key], inner, row) for key, inner in space.spaces.items()}
    assert isinstance(value, Tensor)
    own = value[0, row]
    if isinstance(space, BitWindow):
        own = space.unpack(own)
    array = own.cpu().numpy()
    return array.astype(space.dtype)[()] if isinstance(space, spaces.Discrete) else array.copy()


def _array(state: Tree | None) -> np.ndarray[Any, Any] | None:
    return state[0].cpu().numpy().copy() if isinstance(state, Tensor) else None
