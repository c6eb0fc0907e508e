"""Encoders: one agent's observation, as its space describes it, to features ``[*, F]``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from marl.envs.batched import Tree
from marl.envs.spaces import BitWindow
from marl.errors import UserError, nearest
from marl.policies.config import NetworkConfig
from marl.policies.layers import activation_gain, activation_layer, after_linear, convolution, linear, mlp
from marl.policies.packed import PackedLayout, packed_linear

#: The keys that lead from an observation to one of its parts; empty if the observation is a single tensor.
Path = tuple[str, ...]


class Encoder(Protocol):
    """features: F, the width of what it puts out. choices: A where it puts out features of every action, else 0."""

    features: int
    choices: int

    def __call__(self, observation: Tree) -> Tensor:
        """Observation ``[*, ...]`` (or a dict of such) -> float32 ``[*, F]``, of every action ``[*, A, F]``."""


def make_encoder(space: spaces.Space[Any], config: NetworkConfig, generator: torch.Generator) -> Encoder:
    """The encoder that ``config.encoder`` names, for one agent's observation (or share of the state) in ``space``.

    Boxes, windows and MultiBinaries enter as they are, so a world scales what it shows; a Discrete enters as one-hot.
    Raises ``UserError`` for a space that is none of these, nor a Dict of them.
    """
    if config.inputs is not None:
        space = _chosen(space, config.inputs)
    if config.encoder == "choices":
        return ChoiceEncoder(space, config, generator)
    if config.encoder == "cnn":
        return CnnEncoder(space, config, generator)
    return MlpEncoder(space, config, generator)


class Inputs:
    """Sorts the parts of an observation into one vector per row and one packed window per row."""

    def __init__(self, space: spaces.Space[Any]):
        leaves = list(_leaves(space, ()))
        if not leaves:
            raise UserError(f"the observation {space} has no parts; give it at least one")
        self.vectors = [(path, leaf) for path, leaf in leaves if not isinstance(leaf, BitWindow)]
        self.windows = [(path, leaf) for path, leaf in leaves if isinstance(leaf, BitWindow)]
        self.vector_size = sum(_size(leaf) for _, leaf in self.vectors)
        self._first = leaves[0]

    def leading(self, observation: Tree) -> torch.Size:
        """The shape ``*`` that stands before the dimensions of the space."""
        path, leaf = self._first
        shape = _part(observation, path).shape
        return shape[: len(shape) - len(leaf.shape or ())]

    def vector(self, observation: Tree) -> Tensor:
        """All that is not a window, side by side: float32 ``[M, vector_size]``, where M is the product of ``*``."""
        parts = [_rows(_part(observation, path), leaf) for path, leaf in self.vectors]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def packed(self, observation: Tree) -> Tensor:
        """All windows, their packed rows side by side: int16 ``[M, rows]``."""
        parts = [_part(observation, path).reshape(-1, leaf.planes * leaf.height) for path, leaf in self.windows]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class MlpEncoder(nn.Module):
    """Everything flattened and concatenated, then the hidden layers. Windows are never unpacked on a CPU."""

    choices = 0

    def __init__(self, space: spaces.Space[Any], config: NetworkConfig, generator: torch.Generator):
        super().__init__()
        self.inputs = Inputs(space)
        self.layout = PackedLayout([window for _, window in self.inputs.windows])
        vector, (first, *rest) = self.inputs.vector_size, config.hidden
        self.features = config.hidden[-1]
        self.norm = nn.LayerNorm(vector) if config.layer_norm and vector else nn.Identity()
        self.first = linear(vector + self.layout.bits, first, activation_gain(config.activation), generator)
        self.rest = nn.Sequential(
            *after_linear(first, config.activation, config.layer_norm),
            *mlp(first, rest, config.activation, config.layer_norm, generator),
        )

    def forward(self, observation: Tree) -> Tensor:
        vector_size = self.inputs.vector_size
        out: Tensor = self.first.bias
        if vector_size:
            vector = self.norm(self.inputs.vector(observation))
            out = F.linear(vector, self.first.weight[:, :vector_size], out)
        if self.layout.bits:
            packed = packed_linear(self.inputs.packed(observation), self.first.weight[:, vector_size:], self.layout)
            out = packed.add_(out)
        features: Tensor = self.rest(out)
        return features.view(*self.inputs.leading(observation), self.features)


class CnnEncoder(nn.Module):
    """Every window through convolutions of its own, then all of it with the vector through the hidden layers."""

    choices = 0

    def __init__(self, space: spaces.Space[Any], config: NetworkConfig, generator: torch.Generator):
        super().__init__()
        self.inputs = Inputs(space)
        if not self.inputs.windows:
            raise UserError(f"encoder 'cnn' needs a BitWindow and {space} has none; set encoder to 'mlp'")
        size = self.inputs.vector_size
        self.norm = nn.LayerNorm(size) if config.layer_norm and size else nn.Identity()
        self.towers = nn.ModuleList()
        for _, window in self.inputs.windows:
            layers: list[nn.Module] = []
            channels, height, width = window.planes, window.height, window.width
            for outputs in config.channels:
                gain = activation_gain(config.activation)
                layers += [convolution(channels, outputs, gain, generator), activation_layer(config.activation)]
                channels, height, width = outputs, (height + 1) // 2, (width + 1) // 2
            self.towers.append(nn.Sequential(*layers, nn.Flatten()))
            size += channels * height * width
        self.features = config.hidden[-1]
        self.hidden = mlp(size, config.hidden, config.activation, config.layer_norm, generator)

    def forward(self, observation: Tree) -> Tensor:
        parts = [self.norm(self.inputs.vector(observation))] if self.inputs.vectors else []
        for (path, window), tower in zip(self.inputs.windows, self.towers, strict=True):
            rows = _part(observation, path).reshape(-1, window.planes, window.height)
            parts.append(tower(window.unpack(rows).to(torch.float32)))
        out: Tensor = self.hidden(torch.cat(parts, dim=-1))
        return out.view(*self.inputs.leading(observation), self.features)


class ChoiceEncoder(nn.Module):
    """The rows of one Box ``[A, F]``, what an agent knows of each of its A actions, through the same layers.

    Permuted actions get the permuted features, so that what is learned of one action serves all. With ``config.prior``
    the last feature is that column as it is.
    """

    def __init__(self, space: spaces.Space[Any], config: NetworkConfig, generator: torch.Generator):
        super().__init__()
        leaves = list(_leaves(space, ()))
        shape = leaves[0][1].shape or ()
        if len(leaves) != 1 or len(shape) != 2 or not isinstance(leaves[0][1], spaces.Box):
            raise UserError(
                f"encoder 'choices' reads one Box [actions, features], and sees {space}: name such a part by 'inputs'"
            )
        self._path = leaves[0][0]
        self.choices, size = shape
        self._kept = None if config.prior is None else config.prior.column
        if self._kept is not None and self._kept >= size:
            raise UserError(
                f"prior.column is {self._kept}, but what is known of an action has {size} columns, from 0 on"
            )
        self.features = config.hidden[-1] + (self._kept is not None)
        self.norm = nn.LayerNorm(size) if config.layer_norm else nn.Identity()
        self.hidden = mlp(size, config.hidden, config.activation, config.layer_norm, generator)

    def forward(self, observation: Tree) -> Tensor:
        rows = _part(observation, self._path).to(torch.float32)
        features: Tensor = self.hidden(self.norm(rows))
        if self._kept is not None:
            features = torch.cat((features, rows[..., self._kept : self._kept + 1]), dim=-1)
        return features


def _chosen(space: spaces.Space[Any], names: tuple[str, ...]) -> spaces.Dict:
    """The named parts of an observation. Raises ``UserError`` for those that it lacks."""
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {}
    for name in names:
        if name not in parts:
            raise UserError(f"the observation has no part '{name}' for 'inputs'{nearest(name, sorted(parts))}")
    return spaces.Dict({name: parts[name] for name in names})


def _leaves(space: spaces.Space[Any], path: Path) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _leaves(part, (*path, key))
    elif isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary):
        yield path, space
    else:
        where = f"observation '{'.'.join(path)}'" if path else "the observation"
        raise UserError(
            f"{where} is a {space}, which has no encoder; make it a Box, BitWindow, Discrete or MultiBinary"
        )


def _part(observation: Tree, path: Path) -> Tensor:
    for key in path:
        assert isinstance(observation, dict)
        observation = observation[key]
    assert isinstance(observation, Tensor)
    return observation


def _size(leaf: spaces.Space[Any]) -> int:
    return int(leaf.n) if isinstance(leaf, spaces.Discrete) else int(torch.Size(leaf.shape or ()).numel())


def _rows(part: Tensor, leaf: spaces.Space[Any]) -> Tensor:
    """One leaf's tensor ``[*, ...]`` as float32 ``[M, size]``."""
    if isinstance(leaf, spaces.Discrete):
        part = F.one_hot(part.long() - int(leaf.start), int(leaf.n))
    return part.reshape(-1, _size(leaf)).to(torch.float32)
