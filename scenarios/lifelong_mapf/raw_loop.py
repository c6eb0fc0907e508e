"""The plainest MAPPO loop on lifelong MAPF, a yardstick for what the platform's own loop costs.

The same world, guidance, observation, networks, batch and one epoch, in plain torch: the window unpacked to floats,
actor and critic as ``nn.Sequential``, global random numbers, no masks, no recurrence, no bookkeeping, no checkpoints.
"""

from __future__ import annotations

import time
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from marl.envs.batched import TimeStep
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.maps.generators import RandomMap
from scenarios.lifelong_mapf.world import LifelongMapf

_BITS = torch.arange(11, dtype=torch.int16)


def _floats(observation: dict[str, Tensor], features: dict[str, Tensor]) -> Tensor:
    """All that one agent sees as float32 ``[B * N, F]``."""
    planes = torch.cat((observation["window"], features["path"]), dim=2)
    window = ((planes.unsqueeze(-1) >> _BITS) & 1).flatten(2).float()
    parts = [window, observation["goal"], features["moves"], features["contest"]]
    return torch.cat(parts, dim=2).flatten(0, 1)


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


class _Moment(NamedTuple):
    """What the loop keeps of a step: ``[B * N, *]`` each; reward and ended of the step that led there."""

    seen: Tensor
    state: Tensor
    reward: Tensor
    ended: Tensor


def loop_config(agents: int, size: int) -> MapfConfig:
    """The world that both loops play in."""
    return MapfConfig(generator=RandomMap(size=size), agents=agents)


class RawLoop:
    """One world, two networks, one optimiser. ``iterate`` plays and learns once.

    copies, agents, size of the random maps, steps of a rollout, minibatches of the one epoch.
    """

    def __init__(self, copies: int = 128, agents: int = 32, size: int = 20, rollout: int = 32, minibatches: int = 4):
        torch.manual_seed(0)
        self._shape, self._rollout, self._minibatches = (copies, agents), rollout, minibatches
        self._world = LifelongMapf(loop_config(agents, size), copies)
        self._world.enable_plan()
        self._now = self._look(self._world.reset(0))
        self._actor, self._critic = _mlp(self._now.seen.shape[1], 5), _mlp(self._now.state.shape[1], 1)
        self._parameters = [*self._actor.parameters(), *self._critic.parameters()]
        self._optimizer = torch.optim.Adam(self._parameters, lr=5e-4, eps=1e-5)

    def _look(self, step: TimeStep) -> _Moment:
        plan = self._world.plan()
        # This world's observation is a dict without nesting, and its central state is on.
        seen = _floats(cast("dict[str, Tensor]", step.observation), plan.features)
        state = cast(Tensor, step.state).flatten(0, 1)
        return _Moment(seen, state, (step.reward + 0.01 * plan.reached).flatten(), step.truncated.flatten())

    def rate(self) -> float:
        """Agent-steps per CPU-second of one iteration."""
        began = time.process_time()
        self.iterate()
        return self._rollout * self._shape[0] * self._shape[1] / (time.process_time() - began)

    def iterate(self) -> None:
        """One rollout and one epoch."""
        rows = self._shape[0] * self._shape[1]
        seen, states, actions, log_probs, values, rewards, ends = [], [], [], [], [], [], []
        with torch.no_grad():
            for _ in range(self._rollout):
                now = self._now
                policy = torch.distributions.Categorical(logits=self._actor(now.seen), validate_args=False)
                action = policy.sample()
                seen.append(now.seen)
                states.append(now.state)
                actions.append(action)
                log_probs.append(policy.log_prob(action))
                values.append(self._critic(now.state).squeeze(1))
                self._now = self._look(self._world.step(action.view(self._shape)))
                rewards.append(self._now.reward)
                ends.append(self._now.ended)
            following = self._critic(self._now.state).squeeze(1)
            advantages, trace = [torch.zeros(rows)] * self._rollout, torch.zeros(rows)
            for t in reversed(range(self._rollout)):
                go_on = (~ends[t]).float()
                delta = rewards[t] + 0.99 * following - values[t]
                trace = delta + 0.99 * 0.95 * go_on * trace
                advantages[t], following = trace, values[t]
        columns = (seen, states, actions, log_probs, values, advantages)
        self._learn(*(torch.cat(column) for column in columns))

    def _learn(
        self, observation: Tensor, state: Tensor, action: Tensor, old: Tensor, value: Tensor, advantage: Tensor
    ) -> None:
        target = advantage + value
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        for index in torch.randperm(len(old)).chunk(self._minibatches):
            policy = torch.distributions.Categorical(logits=self._actor(observation[index]), validate_args=False)
            ratio = (policy.log_prob(action[index]) - old[index]).exp()
            gain = torch.minimum(ratio * advantage[index], ratio.clamp(0.8, 1.2) * advantage[index])
            error = self._critic(state[index]).squeeze(1) - target[index]
            loss = -gain.mean() - 0.01 * policy.entropy().mean() + 0.5 * error.square().mean()
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self._parameters, 10.0)
            self._optimizer.step()
