"""The actors of all groups as one module: what the pipeline asks for actions, and the learner for log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from marl.envs.batched import EnvSpec, TimeStep, Tree
from marl.errors import UserError
from marl.policies.actor import Actor
from marl.policies.config import NetworkConfig
from marl.policies.heads import Categorical, Head
from marl.seeding import Stream, fold, uniform

Sharing = Literal["group", "none"]


def of_group(spec: EnvSpec, tree: Tree, group: str) -> Tree:
    """The part of a group: the tree itself where there is one group, else its entry."""
    if len(spec.groups) == 1:
        return tree
    assert isinstance(tree, dict)
    return tree[group]


def map_tree(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """Apply a function to every tensor of a tree."""
    if isinstance(tree, dict):
        return {name: map_tree(function, branch) for name, branch in tree.items()}
    return function(tree)


@dataclass(frozen=True)
class Unit:
    """Agents that share one network: the members of a group, or one of them.

    local: their places inside the group; index: their places among all agents, both in order. ``whole``: the unit is
    its group.
    """

    name: str
    group: str
    local: tuple[int, ...]
    index: tuple[int, ...]
    whole: bool

    def take(self, spec: EnvSpec, tree: Tree, axis: int) -> Tree:
        """The unit's share of a tree by group whose agent axis is ``axis``."""
        part = of_group(spec, tree, self.group)
        if self.whole:
            return part
        local = torch.tensor(self.local)
        return map_tree(lambda x: x.index_select(axis, local.to(x.device)), part)

    def take_agents(self, x: Tensor, axis: int) -> Tensor:
        """The unit's share of an array over all agents, such as ``[B, N]``."""
        if x.shape[axis] == len(self.index):
            return x
        return x.index_select(axis, torch.tensor(self.index, device=x.device))


def units_of(spec: EnvSpec, sharing: Sharing) -> list[Unit]:
    """One unit per group, or (``none``) one per agent."""
    units = []
    for group, index in spec.groups.items():
        if sharing == "group" or len(index) == 1:
            units.append(Unit(group, group, tuple(range(len(index))), tuple(index), True))
        else:
            units += [Unit(spec.agents[agent], group, (local,), (agent,), False) for local, agent in enumerate(index)]
    return units


class Drawn(NamedTuple):
    """Actions by group, log-probabilities ``[B, N]``, next recurrent state; scores of all actions ``[B, N, A]`` where
    the agents are one group with discrete actions, else None."""

    action: Tree
    log_prob: Tensor
    hidden: dict[str, Tensor]
    scores: Tensor | None


class Network(Protocol):
    """What decides for the agents of a unit: an ``Actor``, or an ``nn.Module`` of one's own.

    Observations are ``[*, ...]`` or dicts of such, for any ``*``; action masks bool ``[*, A]`` or None. A network with
    memory also has ``hidden_size``, the width H of its recurrent state, and ``unroll`` as ``Actor`` has it.
    """

    def __call__(
        self, observation: Tree, hidden: Tensor | None, action_mask: Tensor | None
    ) -> tuple[Head, Tensor | None]:
        """The distributions ``[*]`` and the next recurrent state ``[*, H]``, None without memory."""


#: (what one agent sees, what it can do, source of the initial weights) -> a ``Network`` that is an ``nn.Module``.
MakesNetwork = Callable[[spaces.Space[Any], spaces.Space[Any], torch.Generator], nn.Module]


#: (unit, its observation ``[B, N_u, *]``, recurrent state, action mask) -> its heads and next recurrent state.
HeadOf = Callable[[Unit, Tree, Tensor | None, Tensor | None], tuple[Head, Tensor | None]]


class JointPolicy(nn.Module):
    """Actors for all agents of a world.

    observation_space: per group, what one agent sees at the end of the pipeline.
    network: the shape of the networks, or what makes each of them (``Network``).
    sharing: "group", like agents share one network, or "none", each has its own.
    agent_index: append the agent's place in its group to its observation, one-hot, so that sharers can differ.
    """

    def __init__(
        self,
        spec: EnvSpec,
        observation_space: Mapping[str, spaces.Space[Any]],
        network: NetworkConfig | MakesNetwork,
        sharing: Sharing = "group",
        agent_index: bool = False,
        *,
        generator: torch.Generator,
    ):
        super().__init__()
        self.spec, self.agent_index = spec, agent_index
        self.units = units_of(spec, sharing)
        #: An agent's decision is a function of its own row of observations, whatever slot it is in.
        self.exchangeable = len(spec.groups) == 1 and sharing == "group" and not agent_index
        self.actors = nn.ModuleDict()
        for unit in self.units:
            space = observation_space[unit.group]
            if agent_index:
                space = _with_index(space, len(spec.groups[unit.group]))
            actions = spec.action_space[unit.group]
            self.actors[unit.name] = (
                Actor(space, actions, network, generator)
                if isinstance(network, NetworkConfig)
                else network(space, actions, generator)
            )

    def actor(self, unit: Unit) -> nn.Module:
        """The network of a unit (``Network``)."""
        return self.actors[unit.name]

    def _observation(self, unit: Unit, observation: Tree, axis: int) -> Tree:
        part = unit.take(self.spec, observation, axis)
        if not self.agent_index:
            return part
        size = len(self.spec.groups[unit.group])
        own: dict[str, Tree] = part if isinstance(part, dict) else {"observation": part}
        some = next(_leaves(part))
        one_hot = torch.eye(size, device=some.device)[list(unit.local)]
        return {**own, "agent_index": one_hot.expand(*some.shape[: axis + 1], size)}

    def _mask(self, unit: Unit, action_mask: Tree | None, axis: int) -> Tensor | None:
        if action_mask is None or (isinstance(action_mask, dict) and unit.group not in action_mask):
            return None
        mask = unit.take(self.spec, action_mask, axis)
        assert isinstance(mask, Tensor)
        return mask

    def initial_hidden(self, copies: int) -> dict[str, Tensor]:
        """Zero recurrent state by unit, ``[B, N_u, H]``; empty for feed-forward actors."""
        device = next(self.parameters()).device
        return {
            unit.name: torch.zeros(copies, len(unit.index), size, device=device)
            for unit in self.units
            if (size := self.hidden_size(unit))
        }

    @torch.no_grad()
    def draw(
        self,
        timestep: TimeStep,
        hidden: dict[str, Tensor],
        start: Tensor,
        greedy: bool,
        head_of: HeadOf | None = None,
    ) -> Drawn:
        """Decide at a time step; ``greedy`` takes the likeliest actions instead of sampling.

        Args:
            head_of: makes a unit's heads of what it sees; None: the unit's actor.

        The random numbers come from the copies' keys, so they depend neither on B nor on the neighbours.
        """
        n_agents = self.spec.n_agents
        agents = torch.arange(n_agents, device=timestep.key.device)
        keys = fold(fold(timestep.key, int(Stream.POLICY)).unsqueeze(1), agents)
        actions: dict[str, list[Tensor]] = {group: [] for group in self.spec.groups}
        log_prob = torch.empty(timestep.alive.shape, device=timestep.key.device)
        next_hidden = {}
        scores = None
        for unit in self.units:
            before = hidden.get(unit.name)
            if before is not None:
                before = before * ~unit.take_agents(start, 1).unsqueeze(-1)
            seen, mask = self._observation(unit, timestep.observation, 1), self._mask(unit, timestep.action_mask, 1)
            head, after = (head_of or self._head)(unit, seen, before, mask)
            action = head.mode() if greedy else head.sample(noise(unit.take_agents(keys, 1), head.noise_shape))
            actions[unit.group].append(action)
            share = head.log_prob(action)
            if len(unit.index) == n_agents:
                log_prob = share
                scores = head.log_probs if isinstance(head, Categorical) else None
            else:
                log_prob[:, list(unit.index)] = share
            if after is not None:
                next_hidden[unit.name] = after
        joined: dict[str, Tree] = {
            group: parts[0] if len(parts) == 1 else torch.cat(parts, dim=1) for group, parts in actions.items()
        }
        return Drawn(joined if len(joined) > 1 else next(iter(joined.values())), log_prob, next_hidden, scores)

    def _head(
        self, unit: Unit, observation: Tree, hidden: Tensor | None, mask: Tensor | None
    ) -> tuple[Head, Tensor | None]:
        answer = self.actor(unit)(observation, hidden, mask)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise UserError(
                f"{type(self.actor(unit)).__name__}.forward returned a {type(answer).__name__}: return two things, the "
                "distribution over actions and the recurrent state, or None where there is none"
            )
        head, after = answer
        return head, after

    def _check_width(self, unit: Unit, head: Head) -> None:
        space = self.spec.action_space[unit.group]
        if isinstance(head, Categorical) and isinstance(space, spaces.Discrete):
            width = head.log_probs.shape[-1]
            if width != space.n:
                raise UserError(
                    f"{type(self.actor(unit)).__name__}.forward scores {width} actions, and '{unit.group}' has "
                    f"{int(space.n)}: give a score to each of them"
                )

    def hidden_size(self, unit: Unit) -> int:
        """Width of the unit's recurrent state, 0 if feed-forward."""
        return int(getattr(self.actor(unit), "hidden_size", 0))

    def decide(
        self,
        unit: Unit,
        observation: Tree,
        hidden: Tensor | None,
        agents: Sequence[str],
        action_mask: Tensor | None = None,
    ) -> tuple[Head, Tensor | None]:
        """The head over n agents of a unit, given by name, and their next recurrent state ``[n, H]``.

        Args:
            observation: a tree of ``[n, *]`` in the order of ``agents``.
            action_mask: bool ``[n, A]``; None: all is legal.

        Raises ``UserError`` for agents that training did not have, where it matters who they are.
        """
        if self.agent_index:
            members = [self.spec.agents[i] for i in self.spec.groups[unit.group]]
            own = observation if isinstance(observation, dict) else {"observation": observation}
            unknown = [agent for agent in agents if agent not in members]
            if unknown:
                raise UserError(f"agent '{unknown[0]}' is not one of the policy's agents: {', '.join(members)}")
            places = [members.index(agent) for agent in agents]
            observation = {**own, "agent_index": torch.eye(len(members))[places]}
        head, after = self.actor(unit)(observation, hidden, action_mask)
        return head, after

    def heads(
        self,
        observation: Tree,
        action_mask: Tree | None,
        hidden: dict[str, Tensor],
        start: Tensor,
        units: Sequence[Unit] | None = None,
    ) -> Iterator[tuple[Unit, Head]]:
        """Re-evaluate a stretch of L steps, time first: per unit the head over ``[L, R, N_u]``.

        Args:
            observation: ``[L, R, N, *]``.
            hidden: at the stretch's beginning, ``[R, N_u, H]``.
            start: bool ``[L, R, N]``.
            units: None: all.
        """
        for unit in self.units if units is None else units:
            seen = self._observation(unit, observation, 2)
            mask = self._mask(unit, action_mask, 2)
            actor = self.actor(unit)
            if unit.name in hidden:
                begins = unit.take_agents(start, 2)
                head, _ = actor.unroll(seen, hidden[unit.name], begins, mask)  # type: ignore[operator]  # has hidden_size
            else:
                head, _ = actor(seen, None, mask)
            self._check_width(unit, head)
            yield unit, head


def noise(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers ``[*, S]`` from keys ``[*]``; S is the head's ``noise_shape``, of at most one dimension."""
    if not shape:
        return uniform(keys)
    return uniform(fold(keys.unsqueeze(-1), torch.arange(shape[0], device=keys.device)))


def _with_index(space: spaces.Space[Any], size: int) -> spaces.Dict:
    own = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
    return spaces.Dict({**own, "agent_index": spaces.Box(0.0, 1.0, (size,), np.float32)})


def _leaves(tree: Tree) -> Iterator[Tensor]:
    if isinstance(tree, dict):
        for branch in tree.values():
            yield from _leaves(branch)
    else:
        yield tree
