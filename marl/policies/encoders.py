"""Encoders: one agent's observation, as its space describes it, to features ``[*, F]``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from marl.envs.batched import Tree
from marl.envs.native import choices
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

    Boxes, windows and MultiBinaries enter as they are, so a world scales what it shows; but bytes from 0 to 255, such
    as those of images, are divided by 255. A Discrete enters as one-hot, a MultiDiscrete as one for each choice.
    Raises ``UserError`` for a space that is none of these, nor a Dict of them.
    """
    if config.inputs is not None:
        space = _chosen(space, config.inputs)
    if config.encoder == "choices":
        return ChoiceEncoder(space, config, generator)
    pictures = config.encoder == "auto" and any(_is_picture(leaf) for _, leaf in _leaves(space, ()))
    if config.encoder == "cnn" or pictures:
        return CnnEncoder(space, config, generator)
    return MlpEncoder(space, config, generator)


class Inputs:
    """Sorts the parts of an observation into one vector per row, one packed window per row, and images.

    images: Boxes of three dimensions are kept apart; else they are parts of the vector like other numbers.
    """

    def __init__(self, space: spaces.Space[Any], images: bool = False):
        leaves = list(_leaves(space, ()))
        if not leaves:
            raise UserError(f"the observation {space} has no parts; give it at least one")
        self.images = [(path, leaf) for path, leaf in leaves if images and _is_image(leaf)]
        self.vectors = [
            (path, leaf)
            for path, leaf in leaves
            if not isinstance(leaf, BitWindow) and not (images and _is_image(leaf))
        ]
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
    """Every window and image through convolutions of its own, then all with the vector through the hidden layers.

    An image is a Box of three dimensions; its channels are the first or the last of them, whichever has fewer entries.
    """

    choices = 0

    def __init__(self, space: spaces.Space[Any], config: NetworkConfig, generator: torch.Generator):
        super().__init__()
        self.inputs = Inputs(space, images=True)
        if not self.inputs.windows and not self.inputs.images:
            raise UserError(
                f"encoder 'cnn' needs a BitWindow or a Box of three dimensions, and {space} has none; set encoder to "
                f"'mlp'"
            )
        size = self.inputs.vector_size
        self.norm = nn.LayerNorm(size) if config.layer_norm and size else nn.Identity()
        self.towers = nn.ModuleList()
        shapes = [(window.planes, window.height, window.width) for _, window in self.inputs.windows]
        for channels, height, width in (*shapes, *(_image_shape(leaf) for _, leaf in self.inputs.images)):
            tower, outputs = _tower(channels, height, width, config, generator)
            self.towers.append(tower)
            size += outputs
        self.features = config.hidden[-1]
        self.hidden = mlp(size, config.hidden, config.activation, config.layer_norm, generator)

    def forward(self, observation: Tree) -> Tensor:
        parts = [self.norm(self.inputs.vector(observation))] if self.inputs.vectors else []
        towers = iter(self.towers)
        for path, window in self.inputs.windows:
            rows = _part(observation, path).reshape(-1, window.planes, window.height)
            parts.append(next(towers)(window.unpack(rows).to(torch.float32)))
        for path, image in self.inputs.images:
            pixels = _rows(_part(observation, path), image).view(-1, *(image.shape or ()))
            parts.append(next(towers)(pixels if _channels_first(image) else pixels.permute(0, 3, 1, 2)))
        out: Tensor = self.hidden(torch.cat(parts, dim=-1))
        return out.view(*self.inputs.leading(observation), self.features)


def _tower(
    channels: int, height: int, width: int, config: NetworkConfig, generator: torch.Generator
) -> tuple[nn.Sequential, int]:
    """The convolutions of one picture, and how many numbers come out of them."""
    layers: list[nn.Module] = []
    for outputs in config.channels:
        gain = activation_gain(config.activation)
        layers += [convolution(channels, outputs, gain, generator), activation_layer(config.activation)]
        channels, height, width = outputs, (height + 1) // 2, (width + 1) // 2
    return nn.Sequential(*layers, nn.Flatten()), channels * height * width


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
        self._legal = None if config.prior is None else config.prior.legal
        if self._legal is not None and self._legal >= size:
            raise UserError(
                f"prior.legal is {self._legal}, but what is known of an action has {size} columns, from 0 on"
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

    def legal(self, observation: Tree) -> Tensor | None:
        """Which actions are possible, bool ``[*, A]``; None if no column says so."""
        return None if self._legal is None else _part(observation, self._path)[..., self._legal] != 0


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
    elif isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        yield path, space
    else:
        where = f"observation '{'.'.join(path)}'" if path else "the observation"
        raise UserError(
            f"{where} is a {space}, which has no encoder; make it a Box, BitWindow, Discrete, MultiDiscrete or "
            f"MultiBinary"
        )


def _part(observation: Tree, path: Path) -> Tensor:
    for key in path:
        assert isinstance(observation, dict)
        observation = observation[key]
    assert isinstance(observation, Tensor)
    return observation


def _is_image(leaf: spaces.Space[Any]) -> bool:
    return isinstance(leaf, spaces.Box) and not isinstance(leaf, BitWindow) and len(leaf.shape) == 3


def _is_picture(leaf: spaces.Space[Any]) -> bool:
    return _is_image(leaf) and _is_bytes(leaf)


def _channels_first(image: spaces.Space[Any]) -> bool:
    assert image.shape is not None
    return int(image.shape[0]) < int(image.shape[2])


def _image_shape(image: spaces.Space[Any]) -> tuple[int, int, int]:
    """Channels, height and width."""
    assert image.shape is not None
    first, second, third = (int(side) for side in image.shape)
    return (first, second, third) if _channels_first(image) else (third, first, second)


def _size(leaf: spaces.Space[Any]) -> int:
    if isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete):
        return sum(choices(leaf))
    return int(torch.Size(leaf.shape or ()).numel())


def _rows(part: Tensor, leaf: spaces.Space[Any]) -> Tensor:
    """One leaf's tensor ``[*, ...]`` as float32 ``[M, size]``."""
    if isinstance(leaf, spaces.Discrete):
        part = F.one_hot(_from_zero(part, int(leaf.start), int(leaf.n)), int(leaf.n))
    elif isinstance(leaf, spaces.MultiDiscrete):
        ranges = zip(leaf.start.flatten().tolist(), choices(leaf), strict=True)
        values = part.reshape(-1, len(choices(leaf))).unbind(-1)
        one_hot = [F.one_hot(_from_zero(v, start, n), n) for v, (start, n) in zip(values, ranges, strict=True)]
        part = torch.cat(one_hot, dim=-1)
    rows = part.reshape(-1, _size(leaf)).to(torch.float32)
    return rows / 255.0 if _is_bytes(leaf) else rows


def _from_zero(values: Tensor, start: int, n: int) -> Tensor:
    """Values of a discrete choice from 0 on; a view of nobody is all 0, which may be none of them."""
    return (values.long() - start).clamp(0, n - 1)


def _is_bytes(leaf: spaces.Space[Any]) -> bool:
    if not isinstance(leaf, spaces.Box) or leaf.dtype != np.uint8:
        return False
    return bool((leaf.high == 255).all() and (leaf.low == 0).all())
