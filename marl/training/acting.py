"""Single decisions of a learned policy, from observations and to actions in the form of PettingZoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.coordination.pipeline import Memory, Pipeline
from marl.envs.batched import Tree
from marl.envs.native import MASK, legal_mask, mask_in, to_native
from marl.envs.pettingzoo import ParallelFace
from marl.envs.spaces import BitWindow
from marl.errors import UserError
from marl.policies.joint import JointPolicy, Unit, noise, of_group
from marl.seeding import Stream, fold, fold_int

Spaces = Mapping[str, spaces.Space[Any]]


class ByName:
    """Decisions for agents by name, outside any world.

    space: per group, what one agent sees. masked: the groups whose actions the world masks. greedy: the likeliest
    actions, else sampled ones.
    """

    def __init__(self, policy: JointPolicy, space: Spaces, masked: frozenset[str], greedy: bool):
        self._policy, self._space, self._masked, self._greedy = policy, space, masked, greedy
        self._unit_of = {policy.spec.agents[agent]: unit for unit in policy.units for agent in unit.index}
        self._slot_of = {agent: slot for slot, agent in enumerate(policy.spec.agents)}
        self.reset()

    def reset(self) -> None:
        """Forget recurrent state and the number of calls."""
        self._calls = 0
        self._hidden: dict[str, Tensor] = {}

    @torch.no_grad()
    def act(self, observations: Any, infos: Any, seed: int) -> Any:
        """As ``LearnedPolicy.act``."""
        many = self._is_by_agent(observations)
        seen: Mapping[str, Any] = observations if many else {"": observations}
        told: Mapping[str, Any] = (infos or {}) if many else {"": infos or {}}
        if not isinstance(told, Mapping) or not all(isinstance(told.get(agent, {}), Mapping) for agent in seen):
            raise UserError("infos are a dict for each agent, as reset and step return them")
        by_unit: dict[str, list[str]] = {}
        for agent in seen:
            by_unit.setdefault(self._unit(agent).name, []).append(agent)
        own_key = fold_int(fold_int(seed, Stream.POLICY), self._calls)
        actions: dict[str, Any] = {}
        for unit in self._policy.units:
            if unit.name in by_unit:
                actions |= self._decide(unit, by_unit[unit.name], seen, told, own_key)
        self._calls += 1
        return {agent: actions[agent] for agent in seen} if many else actions[""]

    def _is_by_agent(self, observations: Any) -> bool:
        if not isinstance(observations, Mapping):
            return False
        names = set(observations) - {MASK}
        for one in self._space.values():
            if isinstance(one, spaces.Dict) and names == set(one.spaces) - {MASK}:
                return False
            if not isinstance(one, spaces.Dict) and MASK in observations and names == {"observation"}:
                return False
        return True

    def _unit(self, agent: str) -> Unit:
        name = _slot_name(agent)
        if name in self._unit_of:
            return self._unit_of[name]
        if len(self._policy.units) == 1:  # shared by all: a world of another size has agents that training had not
            return self._policy.units[0]
        raise UserError(f"agent '{agent}' is not one of the policy's agents: {', '.join(self._unit_of)}")

    def _decide(
        self, unit: Unit, agents: list[str], seen: Mapping[str, Any], infos: Mapping[str, Any], own_key: int
    ) -> dict[str, Any]:
        space, acts = self._space[unit.group], self._policy.spec.action_space[unit.group]
        bare = [_bare(seen[agent], space) for agent in agents]
        masks = self._masks(unit.group, agents, seen, infos)
        names = [_slot_name(agent) for agent in agents]
        head, hidden = self._policy.decide(
            unit, stacked(bare, space, agents[0]), self._stacked_hidden(unit, agents), names, masks
        )
        if self._greedy:
            action = head.mode()
        else:
            bases = [infos.get(agent, {}).get("key") for agent in agents]
            keys = torch.tensor([own_key if key is None else fold_int(int(key), Stream.POLICY) for key in bases])
            places = [self._slot_of.get(name, _number(name, i)) for i, name in enumerate(names)]
            action = head.sample(noise(fold(keys, torch.tensor(places)), head.noise_shape))
        if hidden is not None:
            self._hidden |= dict(zip(agents, hidden, strict=True))
        return {agent: to_native(a, acts) for agent, a in zip(agents, action.numpy(), strict=True)}

    def _masks(self, group: str, agents: list[str], seen: Mapping[str, Any], infos: Mapping[str, Any]) -> Tensor | None:
        """bool ``[n, A]``; None where the world has no masks."""
        if group not in self._masked:
            return None
        space = self._policy.spec.action_space[group]
        rows = []
        for agent in agents:
            mask = mask_in(seen[agent], infos.get(agent, {}))
            if mask is None:
                who = f" of agent '{agent}'" if agent else ""
                raise UserError(
                    f"the action mask{who} is missing, without which the policy may choose what is not allowed: call "
                    f"act(observations, infos) with what reset or step returned for living agents, or put "
                    f"'{MASK}' into the observation"
                )
            rows.append(legal_mask(mask, space))
        return torch.from_numpy(np.stack(rows))

    def _stacked_hidden(self, unit: Unit, agents: list[str]) -> Tensor | None:
        size = self._policy.hidden_size(unit)
        if size == 0:
            return None
        return torch.stack([self._hidden.get(agent, torch.zeros(size)) for agent in agents])


class OnFace:
    """Decisions for all living agents of a ``coordinated_face``, corrected by its modules."""

    def __init__(self, network: Callable[[Pipeline], JointPolicy], face: ParallelFace, greedy: bool):
        self._face, self._greedy = face, greedy
        self._pipeline: Pipeline = face.pipeline
        self._policy = network(self._pipeline)
        self._memory: Memory | None = None
        self._episode = 0

    def act(self, observations: Any) -> dict[str, Any]:
        """As ``LearnedPolicy.act``, of the living agents."""
        face, spec = self._face, self._policy.spec
        slots = face.slots
        missing = [name for name in slots if not isinstance(observations, Mapping) or name not in observations]
        if missing:
            raise UserError(
                f"the observation of '{missing[0]}' is missing: where modules coordinate agents, all of them decide at "
                f"once"
            )
        seen = face.present._replace(observation=self._shown(observations, slots))
        if self._memory is None or self._episode != face.episodes:
            self._memory, self._episode = self._pipeline.begin(self._policy, seen), face.episodes
        decision = self._pipeline.act(self._policy, seen, self._memory, self._greedy)
        self._memory = decision.memory
        actions: dict[str, Any] = {}
        for group, members in spec.groups.items():
            executed = of_group(spec, decision.executed, group)
            assert isinstance(executed, Tensor)
            own = executed[0].cpu().numpy()
            rows = {slot: row for row, slot in enumerate(members)}
            actions |= {
                name: to_native(own[rows[slot]], spec.action_space[group])
                for name, slot in slots.items()
                if slot in rows
            }
        return {name: actions[name] for name in slots}

    def _shown(self, observations: Mapping[str, Any], slots: Mapping[str, int]) -> Tree:
        """The present observation ``[1, N, *]`` with the rows that are given."""
        spec, space = self._policy.spec, self._pipeline.observation_space
        present = self._face.present.observation
        trees: dict[str, Tree] = {}
        for group, members in spec.groups.items():
            tree = of_group(spec, present, group)
            names = {members.index(slot): name for name, slot in slots.items() if slot in members}
            if not names:
                trees[group] = tree
                continue
            bare = [_bare(observations[name], space[group]) for name in names.values()]
            rows = stacked(bare, space[group], next(iter(names.values())))
            trees[group] = _placed(tree, rows, torch.tensor(list(names)))
        return trees if len(trees) > 1 else next(iter(trees.values()))


def _placed(tree: Tree, rows: Tree, place: Tensor) -> Tree:
    """``tree`` ``[1, N, *]`` with ``rows`` ``[n, *]`` in its places ``[n]``."""
    if isinstance(tree, dict):
        assert isinstance(rows, dict)
        return {name: _placed(branch, rows[name], place) for name, branch in tree.items()}
    assert isinstance(rows, Tensor)
    out = tree.clone()
    out[0, place.to(out.device)] = rows.to(out)
    return out


def _slot_name(agent: str) -> str:
    """The name of an agent's slot; later agents of a slot are called ``slot#agent_id``."""
    return agent.split("#")[0]


def _number(name: str, place: int) -> int:
    """A number that keeps agents' random draws apart: the digits at the end of the name, else the place."""
    digits = name[len(name.rstrip("0123456789")) :]
    return int(digits) if digits else place


def _bare(observation: Any, space: spaces.Space[Any]) -> Any:
    """An observation without an action mask that its space does not have."""
    if not isinstance(observation, Mapping) or MASK not in observation:
        return observation
    rest = {name: part for name, part in observation.items() if name != MASK}
    if isinstance(space, spaces.Dict):
        return observation if MASK in space.spaces else rest
    return rest["observation"] if set(rest) == {"observation"} else rest


def stacked(observations: list[Any], space: spaces.Space[Any], agent: str) -> Tree:
    """Observations of n agents, as the PettingZoo face shows them, as a tree of ``[n, *]``.

    Raises ``UserError`` for those that do not fit the space; agent: the one that is named.
    """
    who = f" of agent '{agent}'" if agent else ""
    if isinstance(space, spaces.Dict):
        for seen in observations:
            if not isinstance(seen, Mapping) or set(seen) != set(space.spaces):
                raise UserError(f"the observation{who} must be a dict with {', '.join(space.spaces)}")
        return {
            name: stacked([seen[name] for seen in observations], part, agent) for name, part in space.spaces.items()
        }
    window = isinstance(space, BitWindow)
    try:
        rows = np.stack([np.asarray(seen, None if window else space.dtype) for seen in observations])
    except (TypeError, ValueError):
        raise UserError(f"the observation{who} is {str(observations[0])[:60]!r}, the policy expects {space}") from None
    array = torch.from_numpy(rows)
    if isinstance(space, BitWindow):
        if array.ndim != 4:
            raise UserError(f"an observation{who} has shape {tuple(array.shape[1:])}, the policy expects {space}")
        array = space.pack(array)
    if array.shape[1:] != space.shape:
        raise UserError(f"an observation{who} has shape {tuple(array.shape[1:])}, the policy expects {space.shape}")
    return array
