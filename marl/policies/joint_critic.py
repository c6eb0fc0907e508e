"""The value side of a joint policy: one central critic, or local ones by group, with the value normaliser inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from marl.envs.batched import EnvSpec, Tree
from marl.errors import UserError
from marl.policies.config import NetworkConfig
from marl.policies.critic import Critic, Mixer
from marl.policies.joint import map_tree, of_group

CriticInput = Literal["state", "observation"]


class Denormalizes(Protocol):
    """The part of a value normaliser that prediction needs."""

    def denormalize(self, value: Tensor) -> Tensor:
        """From normalised values to units of reward."""


class JointCritic(nn.Module):
    """Values ``[B, N]`` of all agents.

    source "state": a central critic over ``TimeStep.state``. A world without one gets a deep-sets critic over the
    observations of all agents, which is central as well. source "observation": each agent's own observation only
    (IPPO), one network per group.
    A state shared by all agents gives one value per copy where the reward is shared, or where ``shared`` asks for it;
    else the agent's place is appended.
    """

    def __init__(
        self,
        spec: EnvSpec,
        observation_space: Mapping[str, spaces.Space[Any]],
        network: NetworkConfig,
        source: CriticInput = "state",
        mixer: Mixer = "none",
        shared: bool = False,
        value_norm: nn.Module | None = None,
        *,
        generator: torch.Generator,
    ):
        super().__init__()
        self.spec = spec
        if source == "state" and spec.state_space is None:
            if len(spec.groups) > 1:
                raise UserError(
                    "the world has no central state and several groups of agents: set "
                    "algorithm.critic_input=observation"
                )
            source, mixer = "observation", "deep_sets"
        self.source: CriticInput = source
        #: An agent's value is a function of its own row of observations or states only.
        self.independent = mixer == "none" and (source == "observation" or spec.state_per_agent)
        if shared and (source != "state" or spec.state_per_agent):
            raise UserError("algorithm.critic_shared needs a state that all agents share: set it to false")
        self._shared = source == "state" and not spec.state_per_agent and (spec.shared_reward or shared)
        self._indexed = source == "state" and not spec.state_per_agent and not self._shared
        self.critics = nn.ModuleDict()
        if source == "observation":
            for group in spec.groups:
                self.critics[group] = Critic(
                    observation_space[group], network, per_agent=True, mixer=mixer, generator=generator
                )
        else:
            assert spec.state_space is not None
            space = _with_index(spec.state_space, spec.n_agents) if self._indexed else spec.state_space
            if mixer != "none" and not spec.state_per_agent:
                raise UserError(
                    f"algorithm.critic_mixer={mixer} needs a state per agent, which this world does not give: "
                    f"set it to 'none'"
                )
            self.critics["all"] = Critic(space, network, per_agent=not self._shared, mixer=mixer, generator=generator)
        self.value_norm = value_norm

    def _critic(self, name: str) -> Critic:
        critic = self.critics[name]
        assert isinstance(critic, Critic)
        return critic

    def initial_hidden(self, copies: int) -> dict[str, Tensor]:
        """Zero recurrent state by critic, ``[B, N_g, H]`` (``[B, H]`` for a shared value); empty if feed-forward."""
        hidden = {}
        device = next(self.parameters()).device
        for name in self.critics:
            size = self._critic(name).hidden_size
            if size:
                agents = () if self._shared else (len(self._index(name)),)
                hidden[name] = torch.zeros(copies, *agents, size, device=device)
        return hidden

    def _index(self, name: str) -> tuple[int, ...]:
        return self.spec.groups[name] if self.source == "observation" else tuple(range(self.spec.n_agents))

    @torch.no_grad()
    def value(
        self, observation: Tree, state: Tree | None, alive: Tensor, hidden: dict[str, Tensor], start: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Values ``[B, N]`` in units of reward at one step, and the next recurrent state."""
        observation = map_tree(lambda x: x.unsqueeze(0), observation)
        state = None if state is None else map_tree(lambda x: x.unsqueeze(0), state)
        values, after = self._evaluate(observation, state, alive.unsqueeze(0), hidden, start.unsqueeze(0))
        values = values.squeeze(0)
        if self.value_norm is not None:
            norm: Denormalizes = self.value_norm  # type: ignore[assignment]  # a module to torch
            values = norm.denormalize(values)
        return values, after

    def forward(
        self, observation: Tree, state: Tree | None, alive: Tensor, hidden: dict[str, Tensor], start: Tensor
    ) -> Tensor:
        """Re-evaluate a stretch, time first: normalised values ``[L, R, N]`` of trees ``[L, R, N, *]``."""
        return self._evaluate(observation, state, alive, hidden, start)[0]

    def _evaluate(
        self, observation: Tree, state: Tree | None, alive: Tensor, hidden: dict[str, Tensor], start: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        values = torch.empty(alive.shape, device=alive.device)
        after: dict[str, Tensor] = {}
        for name in self.critics:
            critic, index = self._critic(name), list(self._index(name))
            if self.source == "observation":
                seen = of_group(self.spec, observation, name)
            else:
                assert state is not None
                seen = self._indexed_state(state) if self._indexed else state
            everybody = len(index) == self.spec.n_agents
            own_start = start.all(dim=-1) if self._shared else start if everybody else start[..., index]
            own_alive = None if self._shared else alive if everybody else alive[..., index]
            if name in hidden:
                value, carried = critic.unroll(seen, hidden[name], own_start, alive=own_alive)
                assert carried is not None
                after[name] = carried
            else:
                value, _ = critic(seen, None, alive=own_alive)
            if self._shared:
                return value.unsqueeze(-1).expand(alive.shape), after
            if everybody:
                return value, after
            values[..., index] = value
        return values, after

    def _indexed_state(self, state: Tree) -> Tree:
        agents = self.spec.n_agents
        own = state if isinstance(state, dict) else {"state": state}
        spread = {
            name: map_tree(lambda x: x.unsqueeze(2).expand(*x.shape[:2], agents, *x.shape[2:]), part)
            for name, part in own.items()
        }
        some = next(iter(own.values()))
        assert isinstance(some, Tensor)
        index = torch.eye(agents, device=some.device).expand(*some.shape[:2], agents, agents)
        return {**spread, "agent_index": index}


def _with_index(space: spaces.Space[Any], agents: int) -> spaces.Dict:
    own = dict(space.spaces) if isinstance(space, spaces.Dict) else {"state": space}
    return spaces.Dict({**own, "agent_index": spaces.Box(0.0, 1.0, (agents,), np.float32)})
