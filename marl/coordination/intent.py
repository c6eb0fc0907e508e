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
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.config import IntentConfig
from marl.coordination.messages import FINAL, Channel, Moment
from marl.coordination.module import Module, Spaces
from marl.coordination.predictor import Predictor
from marl.envs.abilities import Prediction, Predicts
from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.errors import UserError

__all__ = ["FEATURE", "Intent", "Prediction", "Predicts"]

FEATURE = "intent"


class Intent(Module):
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
        self._channel = Channel(options, self._scale, env.copies, env.spec.n_agents)
        #: Corrects the roll-outs, if that is wanted.
        self.predictor: Predictor | None = None
        if options.predictor == "learned":
            ((group, space),) = observation_space.items()
            actions = env.spec.action_space[group]
            if not isinstance(actions, spaces.Discrete):
                raise UserError("a learned predictor needs discrete actions: set coordination.intent.predictor=rollout")
            own = spaces.Dict(_own(space))
            self.predictor = Predictor(own, int(actions.n), options.horizon, self._scale, seed)

    def observes(self, observed: Spaces) -> Spaces:
        return {group: self.extend(space) for group, space in observed.items()}

    def view(self, timestep: TimeStep) -> TimeStep:
        return self.augment(timestep)

    def extend(self, space: spaces.Space[Any]) -> spaces.Dict:
        """The observation space of one agent with its companions' intents."""
        return spaces.Dict({**_own(space), FEATURE: self.space})

    def augment(self, timestep: TimeStep) -> TimeStep:
        """Add the announcements of agents that carry on; once after each ``reset`` and ``step``."""
        final = timestep.final
        if final is not None:
            last = self._env.predict_final()
            if last is None:
                heard = torch.zeros_like(self._heard(self._env.predict(None), _moment(timestep, FINAL)))
            else:
                heard = self._heard(self._corrected(last, final.observation, None), _moment(timestep, FINAL))
            final = final._replace(observation=_with(final.observation, heard))
        self._channel.forget(timestep.done)
        return self.hear(timestep, None)._replace(final=final)

    def hear(self, timestep: TimeStep, actions: Tensor | None, number: int = 0) -> TimeStep:
        """The moment at which companions announce ``actions``; number: of the round."""
        prediction = self._corrected(self._env.predict(actions), timestep.observation, actions)
        heard = self._heard(prediction, _moment(timestep, number))
        return timestep._replace(observation=_with(timestep.observation, heard))

    def negotiate(self, timestep: TimeStep, draft: Callable[[TimeStep], Tree]) -> TimeStep:
        """R rounds of drafts; none if messages are late, which leaves no time to answer.

        Args:
            draft: the policy's most probable actions, int64 ``[B, N]``, at a time step.
        """
        rounds = self.rounds if not self._channel.delay else 0
        if self.predictor is not None and not rounds:
            # It may have learned since, and a run that is resumed has the new one only.
            timestep = self.hear(timestep, None)
        for number in range(rounds):
            timestep = self.hear(timestep, _plain(draft(timestep)), number + 1)
        return timestep

    def record(self, timestep: TimeStep, executed: Tree) -> None:
        """Send late messages on their way, and keep the decision for a predictor that learns."""
        executed = _plain(executed)
        if self._channel.delay:
            announced = executed if self.rounds else None
            sent = self._corrected(self._env.predict(announced), timestep.observation, announced)
            self._channel.send(timestep, sent.trajectory)
        if self.predictor is not None and self.predictor.recording:
            prediction = self._env.predict(executed)
            seen = _bare(timestep.observation)
            self.predictor.record(timestep, seen, executed, prediction.trajectory, prediction.origin)

    def _corrected(self, prediction: Prediction, observation: Tree, actions: Tensor | None) -> Prediction:
        if self.predictor is None:
            return prediction
        trajectory = self.predictor.correct(_bare(observation), actions, prediction.trajectory)
        return prediction._replace(trajectory=trajectory)

    def begin(self) -> None:
        """Before the first decision of a rollout: nothing has been said yet."""
        self._channel.forget()

    def collect(self) -> None:
        if self.predictor is not None:
            self.predictor.recording = True

    def learn(self, number: int) -> dict[str, float]:
        return {} if self.predictor is None else self.predictor.learn(number)

    def parameters(self) -> list[Tensor]:
        return [] if self.predictor is None else self.predictor.parameters()

    def learned(self) -> dict[str, Any]:
        return {} if self.predictor is None else {"predictor": self.predictor.state()}

    def load_learned(self, state: Mapping[str, Any]) -> None:
        if self.predictor is not None:
            self.predictor.load_state(state["predictor"])

    def state(self) -> dict[str, Tensor]:
        """The messages under way, for checkpoints."""
        return self._channel.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state``."""
        self._channel.load_state(state)

    def _heard(self, prediction: Prediction, moment: Moment) -> Tensor:
        trajectory, origin = prediction.trajectory, prediction.origin
        theirs, arrived = self._channel.receive(prediction, moment)
        there = arrived.unsqueeze(-1)
        told = torch.cat((there.to(theirs.dtype), self._relative(theirs, origin[:, :, None]).flatten(3)), -1)
        own = self._relative(trajectory, origin).flatten(2)
        return torch.cat((own, torch.where(there, told, 0.0).flatten(2)), -1).float()

    def _relative(self, trajectory: Tensor, origin: Tensor) -> Tensor:
        """Trajectories ``[..., H, D]`` seen from ``origin`` ``[..., D]``, in units of the world's scale."""
        return ((trajectory - origin.unsqueeze(-2)) / self._scale).clamp(-1.0, 1.0)


def _plain(actions: Tree) -> Tensor:
    """The actions of the only group."""
    assert isinstance(actions, Tensor)
    return actions


def _moment(timestep: TimeStep, number: int) -> Moment:
    return Moment(timestep.key, number, timestep.agent_id)


def _own(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}


def _bare(observation: Tree) -> dict[str, Tree]:
    """An observation without what companions announce."""
    own = observation if isinstance(observation, dict) else {"observation": observation}
    return {name: part for name, part in own.items() if name != FEATURE}


def _with(observation: Tree, heard: Tensor) -> Tree:
    return {**_bare(observation), FEATURE: heard}
