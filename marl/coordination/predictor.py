"""A learned predictor of trajectories: the world's roll-out, corrected by a network that saw where agents really went.

The intention generator of MAPPO-PIS (Guo et al., arXiv 2408.06656) as a supervised task: from what an agent observes
and the action it announces to its coordinates over the next H steps. It learns from each rollout of the policy's
training, and starts as the roll-out itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from marl.envs.batched import TimeStep, Tree
from marl.learning.learner import ClippedAdam, OptimisedNetwork, minibatches
from marl.policies.config import NetworkConfig
from marl.policies.encoders import make_encoder
from marl.policies.joint import map_tree
from marl.policies.layers import linear
from marl.seeding import Stream, generator

RATE, MAX_NORM, EPOCHS, MINIBATCHES = 1e-3, 10.0, 2, 4
_NETWORK = NetworkConfig.model_validate({"hidden": (64, 64)})


class _Step(NamedTuple):
    """What a decision announced: inputs of the network, the roll-out ``[B, N, H, D]``, and where agents stood."""

    seen: dict[str, Tree]
    rollout: Tensor
    origin: Tensor
    agent_id: Tensor
    alive: Tensor
    done: Tensor


class Predictor(OptimisedNetwork):
    """Corrects roll-outs ``[B, N, H, D]`` and learns to.

    observation_space: of one agent, without intents. actions: A, of a discrete action space. scale: of the coordinates.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        actions: int,
        horizon: int,
        scale: Tensor,
        seed: int,
    ):
        self._actions, self._scale, self._seed = actions, scale, seed
        self._shape = (horizon, len(scale))
        one_hot = spaces.Box(0.0, 1.0, (actions,), np.float32)
        space = spaces.Dict({"observation": observation_space, "action": one_hot})
        init = generator(seed, Stream.INIT, 1)
        encoder = make_encoder(space, _NETWORK, init)
        assert isinstance(encoder, nn.Module)
        output = linear(encoder.features, horizon * len(scale), 1.0, init)
        nn.init.zeros_(output.weight)
        self._network = nn.Sequential(encoder, output).to(scale.device)
        self._adam = ClippedAdam(self._network.parameters(), RATE, MAX_NORM)
        self._steps: list[_Step] = []
        #: Whether decisions are kept for ``learn``.
        self.recording = False

    @torch.no_grad()
    def correct(self, observation: Tree, actions: Tensor | None, rollout: Tensor) -> Tensor:
        """The prediction: ``rollout`` and what the network adds. actions: int64 ``[B, N]``, None: agents carry on."""
        return rollout + self._added(self._inputs(observation, actions, rollout)) * self._scale

    def record(self, timestep: TimeStep, observation: Tree, actions: Tensor, rollout: Tensor, origin: Tensor) -> None:
        """Keep a decision: what agents saw, what they do, the roll-out of it, and their coordinates ``[B, N, D]``."""
        if self.recording:
            seen = self._inputs(observation, actions, rollout)
            self._steps.append(_Step(seen, rollout, origin, timestep.agent_id, timestep.alive, timestep.done))

    def learn(self, number: int) -> dict[str, float]:
        """Learn from the decisions of one rollout and forget them. number: of the update, keys its shuffles.

        Returns root mean square errors in units of the scale: of the predictor before learning, and of the roll-out.
        """
        steps, self._steps = self._steps, []
        horizon = self._shape[0]
        if len(steps) <= horizon:
            return {}
        # The number of the episode within the rollout; a slot with another agent is another story as well.
        episode = torch.stack([step.done for step in steps]).long().cumsum(0)
        agent = torch.stack([step.agent_id for step in steps])
        alive = torch.stack([step.alive for step in steps])
        origin = torch.stack([step.origin for step in steps])
        last = len(steps) - horizon
        truth = torch.stack([origin[h : h + last] for h in range(1, horizon + 1)], 3)
        valid = torch.stack(
            [
                alive[:last]
                & alive[h : h + last]
                & (agent[:last] == agent[h : h + last])
                & (episode[:last] == episode[h : h + last]).unsqueeze(2)
                for h in range(1, horizon + 1)
            ],
            3,
        )
        rollout = torch.stack([step.rollout for step in steps[:last]])
        missing = ((truth - rollout) / self._scale).float().flatten(0, 2)
        weight = valid.flatten(0, 2)
        seen = {name: _flat([step.seen[name] for step in steps[:last]]) for name in steps[0].seen}
        useful = weight.any(1).nonzero()[:, 0]
        if not len(useful):
            return {}
        missing, weight = missing[useful], weight[useful]
        seen = _rows(seen, useful)
        figures = {}
        for name, residual in (("intent_error", missing - self._detached(seen)), ("intent_rollout_error", missing)):
            figures[name] = float(residual[weight].square().mean().sqrt())
        for epoch in range(EPOCHS):
            for part in minibatches(len(useful), MINIBATCHES, generator(self._seed, Stream.SHUFFLE, number, 1, epoch)):
                rows = part.to(missing.device)
                self._adam.zero()
                added = self._added(_rows(seen, rows))
                loss = (added - missing[rows])[weight[rows]].square().mean()
                torch.autograd.backward(loss)
                self._adam.step()
        return figures

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; moments may be left out."""
        super().load_state({"adam": {}, **state})

    @torch.no_grad()
    def _detached(self, seen: dict[str, Tree]) -> Tensor:
        return self._added(seen)

    def _added(self, seen: dict[str, Tree]) -> Tensor:
        added: Tensor = self._network(seen)
        return added.reshape(*added.shape[:-1], *self._shape)

    def _inputs(self, observation: Tree, actions: Tensor | None, rollout: Tensor) -> dict[str, Tree]:
        announced = torch.zeros(*rollout.shape[:2], self._actions, device=rollout.device)
        if actions is not None:
            announced.scatter_(2, actions.unsqueeze(2), 1.0)
        return {"observation": observation, "action": announced}


def _rows(tree: dict[str, Tree], rows: Tensor) -> dict[str, Tree]:
    return {name: map_tree(lambda x: x[rows], branch) for name, branch in tree.items()}


def _flat(trees: list[Tree]) -> Tree:
    """T trees of ``[B, N, *]`` -> one of ``[T * B * N, *]``."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: _flat([tree[name] for tree in trees if isinstance(tree, dict)]) for name in first}
    return torch.stack([tree for tree in trees if isinstance(tree, Tensor)]).flatten(0, 2)
