"""The actor: one agent's observation to a distribution over its actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from marl.envs.batched import Tree
from marl.envs.native import choices
from marl.errors import UserError, nearest
from marl.policies.config import NetworkConfig
from marl.policies.encoders import ChoiceEncoder, make_encoder
from marl.policies.heads import Categorical, Gaussian, Head, MultiCategorical
from marl.policies.layers import Memory, linear

UNBOUNDED = 1e30  # a bound beyond this, such as the largest float32, is none
OUTPUT_GAIN = 0.01  # the first policy is nearly uniform, so the first steps do not depend on the seed


class Actor(nn.Module):
    """Encoder, optional memory, and a head for a Discrete, MultiDiscrete, MultiBinary or Box action space.

    Shared by all agents it is called for: ``*`` is any shape, such as ``[B, N]`` or ``[T, B, N]``. The initial weights
    depend on ``generator`` only. In a bounded Box the network's 0 is the middle of the range and its 1 the upper bound.
    Raises ``UserError`` for a space that it cannot serve.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: NetworkConfig,
        generator: torch.Generator,
    ):
        super().__init__()
        self.action_space = action_space
        self._temperature = config.temperature
        self._relabel = config.relabel
        if config.relabel is not None:
            observation_space = _without_labels(observation_space, config.relabel, action_space)
        self.encoder = make_encoder(observation_space, config, generator)
        features = self.encoder.features
        outputs = _outputs(action_space)
        if self.encoder.choices:
            if not isinstance(action_space, spaces.Discrete) or outputs != self.encoder.choices:
                raise UserError(
                    f"encoder 'choices' reads a row for each of {self.encoder.choices} actions, but the action space "
                    f"is {action_space}"
                )
            if config.recurrent != "none":
                raise UserError("encoder 'choices' has no memory: set recurrent to 'none'")
            outputs = 1
        self.memory: Memory | None = None
        if config.recurrent == "gru":
            self.memory = Memory(features, config.gru_size, config.layer_norm, generator)
            features = self.memory.size
        self.output = linear(features, outputs, OUTPUT_GAIN, generator)
        if config.prior is not None:
            if not self.encoder.choices:
                raise UserError(
                    "prior names a column of what is known of each action: set encoder to 'choices' or leave it out"
                )
            with torch.no_grad():
                if config.prior.legal is not None:
                    self.output.weight.zero_()
                self.output.weight[:, -1] = config.prior.weight
        if isinstance(action_space, spaces.Box):
            self.log_std = nn.Parameter(torch.zeros(outputs))
            centre, scale = _range(action_space)
            self.register_buffer("centre", centre, persistent=False)
            self.register_buffer("scale", scale, persistent=False)

    @property
    def hidden_size(self) -> int:
        """H of the hidden state ``[*, H]``; 0 without memory."""
        return 0 if self.memory is None else self.memory.size

    def forward(
        self, observation: Tree, hidden: Tensor | None = None, action_mask: Tensor | None = None
    ) -> tuple[Head, Tensor | None]:
        """One step: the distributions ``[*]`` and the next hidden state ``[*, H]``.

        Args:
            observation: ``[*, ...]``, or a dict of such.
            action_mask: bool ``[*, A]``, True where legal.
            hidden: ``[*, H]``, zeros at the start of an episode (None: zeros everywhere). Without memory it is
                handed back.
        """
        output, hidden = self.outputs(observation, hidden)
        return self.head(output, action_mask), hidden

    def outputs(self, observation: Tree, hidden: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What ``head`` makes distributions of, ``[*, O]``, and the next hidden state."""
        features = self.encoder(observation)
        if self.memory is not None:
            features, hidden = self.memory(features, hidden)
        return self._scored(features, observation), hidden

    def unroll(
        self, observation: Tree, hidden: Tensor | None, start: Tensor, action_mask: Tensor | None = None
    ) -> tuple[Head, Tensor | None]:
        """T steps at once: the distributions ``[T, *]`` and the hidden state ``[*, H]`` after the last.

        Args:
            observation: ``[T, *, ...]``.
            action_mask: ``[T, *, A]``.
            hidden: ``[*, H]`` before the first (None: zeros).
            start: bool ``[T, *]``, step t is the first of an episode or an agent, so that the memory is empty.
        """
        features = self.encoder(observation)
        if self.memory is not None:
            features, hidden = self.memory.unroll(features, hidden, start)
        return self.head(self._scored(features, observation), action_mask), hidden

    def _scored(self, features: Tensor, observation: Tree) -> Tensor:
        output: Tensor = self.output(features)
        if isinstance(self.encoder, ChoiceEncoder):
            output = output.squeeze(-1)
            legal = self.encoder.legal(observation)
            if legal is not None:
                # Finite even after it has been divided by the temperature: -inf would make the entropy 0 * inf.
                output = output.masked_fill(~legal, -1e9)
        if self._relabel is not None:
            assert isinstance(observation, dict)
            labels = observation[self._relabel]
            assert isinstance(labels, Tensor)
            output = output.gather(-1, labels.long())
        return output

    def head(self, output: Tensor, action_mask: Tensor | None, log_std: Tensor | None = None) -> Head:
        """The distributions ``[*]`` that outputs ``[*, O]`` stand for.

        Args:
            log_std: ``[*, D]`` or what broadcasts to it, for a Box; None: the actor's own.
        """
        if isinstance(self.action_space, spaces.Discrete):
            return Categorical(output / self._temperature, action_mask)
        if not isinstance(self.action_space, spaces.Box):
            return MultiCategorical(output / self._temperature, choices(self.action_space), action_mask)
        return Gaussian(self.centre + self.scale * output, self.log_std if log_std is None else log_std, self.scale)


def _without_labels(observation: spaces.Space[Any], name: str, action: spaces.Space[Any]) -> spaces.Dict:
    """The observation without the part ``name``, which must hold a label for each discrete action."""
    parts = dict(observation.spaces) if isinstance(observation, spaces.Dict) else {}
    if name not in parts:
        raise UserError(f"the observation has no part '{name}' for 'relabel'{nearest(name, sorted(parts))}")
    labels: Any = parts.pop(name)
    actions = int(action.n) if isinstance(action, spaces.Discrete) else 0
    fits = isinstance(labels, spaces.Box) and np.issubdtype(labels.dtype, np.integer) and labels.shape == (actions,)
    if not (fits and labels.low.min() >= 0 and labels.high.max() < actions):
        raise UserError(
            f"relabel needs an integer from 0 on for each discrete action, and '{name}' is {labels} for {action}"
        )
    return spaces.Dict(parts)


def _outputs(space: spaces.Space[Any]) -> int:
    """How many numbers an action takes from the network."""
    if sizes := choices(space):
        return sum(sizes)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return int(np.prod(space.shape, dtype=int))
    raise UserError(
        f"the action space {space} has no head; make it a Discrete, MultiDiscrete or MultiBinary, or a Box of floats"
    )


def _range(space: spaces.Box) -> tuple[Tensor, Tensor]:
    """Centre and half the width of every bounded dimension; 0 and 1 for the others. float32 ``[D]`` each."""
    low, high = (np.asarray(bound, np.float64).flatten() for bound in (space.low, space.high))
    bounded = (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return torch.from_numpy((high + low) / 2).float(), torch.from_numpy((high - low) / 2).float()
