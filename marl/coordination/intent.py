"""Intent: agents announce where they will be over the next steps, and their neighbours see it.

After the intention sharing of Kim, Park, Sung, "Communication in Multi-Agent Reinforcement Learning: Intention
Sharing", ICLR 2021, and the intention generation of MAPPO-PIS (Guo et al., arXiv 2408.06656), for any world: it
predicts where an action leads, which a learned predictor may correct, and says who listens to whom. Without rounds,
agents announce that they carry on. In each of R rounds the policy drafts its most probable action from what it heard,
and announces where that leads; drafts neither draw random numbers nor advance recurrent state. Agents also see what
they announced themselves: a policy without memory could not keep to it otherwise, and its neighbours count on that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.config import IntentConfig
from marl.coordination.predictor import Predictor
from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.errors import UserError

FEATURE = "intent"


class Prediction(NamedTuple):
    """Where agents will be.

    trajectory: ``[B, N, H, D]``, D coordinates at H future moments. companions: int64 ``[B, N, K]``, the agents that
    each agent listens to, -1 where there is none. origin: ``[B, N, D]``, the listener's own coordinates now.
    """

    trajectory: Tensor
    companions: Tensor
    origin: Tensor


@runtime_checkable
class Predicts(Protocol):
    """A world that can say where an action leads."""

    def enable_prediction(self, horizon: int, companions: int) -> tuple[float, ...]:
        """Prepare H-step predictions for K companions; returns the scale of each of the D coordinates."""

    def predict(self, actions: Tensor | None) -> Prediction:
        """The prediction at the present moment if agents take ``actions`` (int64 ``[B, N]``; None: carry on)."""

    def predict_final(self) -> Prediction | None:
        """``predict(None)`` at the end of the episodes that finished in the last step, None if none did."""


class Intent:
    """Adds what an agent and its companions announce to what it observes: float32 ``[B, N, H * D + K * (1 + H * D)]``.

    First its own trajectory; then for each companion 1 if there is one, and its trajectory. All are relative to where
    the listener is now, divided by the world's scale and clipped to [-1, 1]. Raises ``UserError`` if the world cannot
    predict.
    """

    def __init__(
        self,
        env: BatchedEnv,
        observation_space: Mapping[str, spaces.Space[Any]],
        options: IntentConfig,
        seed: int = 0,
    ):
        if not isinstance(env, Predicts):
            raise UserError(f"{type(env).__name__} cannot predict intents: set coordination.intent.enabled=false")
        if len(env.spec.groups) != 1:
            raise UserError("intent needs agents of one group: set coordination.intent.enabled=false")
        self._env: Predicts = env
        self.rounds = options.rounds
        scale = env.enable_prediction(options.horizon, options.companions)
        self._scale = torch.tensor(scale, dtype=torch.float64, device=env.device)
        path = options.horizon * len(scale)
        width = path + options.companions * (1 + path)
        self.space = spaces.Box(-1.0, 1.0, (width,), np.float32)
        #: Corrects the roll-outs, if that is wanted.
        self.predictor: Predictor | None = None
        if options.predictor == "learned":
            ((group, space),) = observation_space.items()
            actions = env.spec.action_space[group]
            if not isinstance(actions, spaces.Discrete):
                raise UserError("a learned predictor needs discrete actions: set coordination.intent.predictor=rollout")
            own = spaces.Dict(_own(space))
            self.predictor = Predictor(own, int(actions.n), options.horizon, self._scale, seed)

    def extend(self, space: spaces.Space[Any]) -> spaces.Dict:
        """The observation space of one agent with its companions' intents."""
        return spaces.Dict({**_own(space), FEATURE: self.space})

    def augment(self, timestep: TimeStep) -> TimeStep:
        """Add the announcements of agents that carry on; once after each ``reset`` and ``step``."""
        final = timestep.final
        if final is not None:
            last = self._env.predict_final()
            if last is None:
                heard = torch.zeros_like(self._heard(self._env.predict(None)))
            else:
                heard = self._heard(self._corrected(last, final.observation, None))
            final = final._replace(observation=_with(final.observation, heard))
        return timestep._replace(observation=self.hear(timestep.observation, None), final=final)

    def hear(self, observation: Tree, actions: Tensor | None) -> Tree:
        """An observation in which companions announce ``actions``."""
        prediction = self._corrected(self._env.predict(actions), observation, actions)
        return _with(observation, self._heard(prediction))

    def negotiate(self, timestep: TimeStep, draft: Callable[[TimeStep], Tensor]) -> TimeStep:
        """R rounds of drafts. draft: the policy's most probable actions, int64 ``[B, N]``, at a time step."""
        for _ in range(self.rounds):
            timestep = timestep._replace(observation=self.hear(timestep.observation, draft(timestep)))
        return timestep

    def record(self, timestep: TimeStep, executed: Tensor) -> None:
        """Keep a decision for the predictor to learn from, if there is one that learns."""
        if self.predictor is not None and self.predictor.recording:
            prediction = self._env.predict(executed)
            seen = _bare(timestep.observation)
            self.predictor.record(timestep, seen, executed, prediction.trajectory, prediction.origin)

    def _corrected(self, prediction: Prediction, observation: Tree, actions: Tensor | None) -> Prediction:
        if self.predictor is None:
            return prediction
        trajectory = self.predictor.correct(_bare(observation), actions, prediction.trajectory)
        return prediction._replace(trajectory=trajectory)

    def _heard(self, prediction: Prediction) -> Tensor:
        trajectory, companions, origin = prediction
        copies, agents, steps, width = trajectory.shape
        count = companions.shape[2]
        who = companions.clamp(min=0).reshape(copies, agents * count, 1, 1).expand(-1, -1, steps, width)
        theirs = trajectory.gather(1, who).view(copies, agents, count, steps, width)
        there = (companions >= 0).unsqueeze(-1)
        told = torch.cat((there.to(trajectory.dtype), self._relative(theirs, origin[:, :, None]).flatten(3)), -1)
        own = self._relative(trajectory, origin).flatten(2)
        return torch.cat((own, torch.where(there, told, 0.0).flatten(2)), -1).float()

    def _relative(self, trajectory: Tensor, origin: Tensor) -> Tensor:
        """Trajectories ``[..., H, D]`` seen from ``origin`` ``[..., D]``, in units of the world's scale."""
        return ((trajectory - origin.unsqueeze(-2)) / self._scale).clamp(-1.0, 1.0)


def _own(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}


def _bare(observation: Tree) -> dict[str, Tree]:
    """An observation without what companions announce."""
    own = observation if isinstance(observation, dict) else {"observation": observation}
    return {name: part for name, part in own.items() if name != FEATURE}


def _with(observation: Tree, heard: Tensor) -> Tree:
    return {**_bare(observation), FEATURE: heard}
