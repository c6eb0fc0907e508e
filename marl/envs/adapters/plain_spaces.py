"""Spaces that batched worlds lack, in terms of those they have, and large images made small.

Observations: a Tuple becomes a Dict with the keys ``0``, ``1``, ... Actions: a Tuple or Dict of discrete choices
becomes one MultiDiscrete, one of Boxes becomes one flat Box. What has no fixed shape (Text, Sequence, Graph, OneOf) is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper
from PIL import Image

from marl.envs.native import MASK, choices, flat_mask, to_native
from marl.errors import UserError

_PLAIN = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
_CHANNELS = (1, 3, 4)


def plain_spaces(env: ParallelEnv[Any, Any, Any], image_size: int | None = None) -> ParallelEnv[Any, Any, Any]:
    """The environment with plain spaces; itself if it has nothing else.

    Args:
        env: somebody's.
        image_size: pixels of the longer side to which larger images (bytes, 1, 3 or 4 channels) are scaled down, by
            means over areas; None: they stay.

    Raises:
        UserError: a space has no fixed shape, or an action mixes numbers and choices.
    """
    plain = PlainSpaces(env, image_size)
    return plain if plain.needed else env


class PlainSpaces(BaseParallelWrapper[Any, Any, Any]):  # type: ignore[misc]  # pettingzoo has no types
    """See ``plain_spaces``. needed: whether some space is another than before."""

    def __init__(self, env: ParallelEnv[Any, Any, Any], image_size: int | None):
        super().__init__(env)
        self._size = image_size
        agents = getattr(env, "possible_agents", None) or []
        self._seen = {a: self._plain(env.observation_space(a), f"the observation of {a}") for a in agents}
        self._acts = {a: _plain_action(env.action_space(a), f"the action of {a}") for a in agents}
        self.needed = any(
            self._seen[a] != env.observation_space(a) or self._acts[a] != env.action_space(a) for a in agents
        )
        shown = getattr(env, "state_space", None)
        if shown is not None:
            self.state_space = self._scaled(shown)

    def observation_space(self, agent: Any) -> spaces.Space[Any]:
        return self._seen[agent]

    def action_space(self, agent: Any) -> spaces.Space[Any]:
        return self._acts[agent]

    def state(self) -> Any:
        state = self.env.state()
        space = getattr(self.env, "state_space", None)
        return state if space is None else self._value(space, state)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        seen, infos = super().reset(seed=seed, options=options)
        return self._views(seen), self._infos(infos)

    def step(self, actions: dict[Any, Any]) -> tuple[Any, Any, Any, Any, Any]:
        native = {agent: _action(self.env.action_space(agent), action) for agent, action in actions.items()}
        seen, rewards, terminations, truncations, infos = super().step(native)
        return self._views(seen), rewards, terminations, truncations, self._infos(infos)

    def _views(self, seen: Mapping[Any, Any]) -> dict[Any, Any]:
        return {
            agent: self._value(self.env.observation_space(agent), view, self.env.action_space(agent))
            for agent, view in seen.items()
            if view is not None
        }

    def _infos(self, infos: Mapping[Any, Any]) -> dict[Any, Any]:
        return {
            agent: {**info, MASK: _mask(self.env.action_space(agent), info[MASK])} if MASK in info else info
            for agent, info in infos.items()
        }

    def _plain(self, space: spaces.Space[Any], place: str) -> spaces.Space[Any]:
        if isinstance(space, spaces.Tuple | spaces.Dict):
            return spaces.Dict(
                {
                    name: inner if name == MASK else self._plain(inner, f"part '{name}' of {place}")
                    for name, inner in _parts(space)
                }
            )
        if not isinstance(space, _PLAIN):
            raise UserError(f"{place} is a {type(space).__name__}, which has no fixed shape: give it numbers instead")
        return self._scaled(space)

    def _scaled(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        size = _small(space, self._size)
        if size is None or space.shape is None:
            return space
        shape = (space.shape[0], *size) if _channels_first(space.shape) else (*size, space.shape[2])
        return spaces.Box(0, 255, shape, np.uint8)

    def _value(self, space: spaces.Space[Any], value: Any, acts: spaces.Space[Any] | None = None) -> Any:
        if isinstance(space, spaces.Dict):
            pairs = [(name, inner, value[key]) for (name, inner), key in zip(_parts(space), space.spaces, strict=True)]
        elif isinstance(space, spaces.Tuple):
            pairs = [(name, inner, part) for (name, inner), part in zip(_parts(space), value, strict=True)]
        else:
            size = _small(space, self._size)
            return value if size is None else _resized(np.asarray(value), size)
        return {
            name: _mask(acts, part) if name == MASK and acts is not None else self._value(inner, part)
            for name, inner, part in pairs
        }


def _parts(space: spaces.Dict | spaces.Tuple[Any]) -> list[tuple[str, spaces.Space[Any]]]:
    pairs = enumerate(space.spaces) if isinstance(space, spaces.Tuple) else space.spaces.items()
    return [(str(name).replace("/", "_"), inner) for name, inner in pairs]


def _leaves(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    if isinstance(space, spaces.Tuple | spaces.Dict):
        return [leaf for _, inner in _parts(space) for leaf in _leaves(inner)]
    return [space]


def _plain_action(space: spaces.Space[Any], place: str) -> spaces.Space[Any]:
    leaves = _leaves(space)
    for leaf in leaves:
        if not isinstance(leaf, _PLAIN):
            raise UserError(f"{place} has a {type(leaf).__name__}, which has no fixed shape: give it numbers instead")
    if not isinstance(space, spaces.Tuple | spaces.Dict):
        return space
    boxes = [leaf for leaf in leaves if isinstance(leaf, spaces.Box)]
    if not boxes:
        return spaces.MultiDiscrete([n for leaf in leaves for n in choices(leaf)])
    if len(boxes) < len(leaves):
        raise UserError(f"{place} mixes numbers and choices ({space}): no policy here decides both at once")
    low, high = (np.concatenate([getattr(box, bound).ravel() for box in boxes]) for bound in ("low", "high"))
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _action(space: spaces.Space[Any], action: Any) -> Any:
    """The environment's own action for one in its plain form."""
    if not isinstance(space, spaces.Tuple | spaces.Dict):
        return action
    rest = list(np.asarray(action).ravel())

    def taken(inner: spaces.Space[Any]) -> Any:
        if isinstance(inner, spaces.Tuple):
            return tuple(taken(part) for part in inner.spaces)
        if isinstance(inner, spaces.Dict):
            return {key: taken(part) for key, part in inner.spaces.items()}
        count = 1 if isinstance(inner, spaces.Discrete) else int(np.prod(inner.shape or (), dtype=int))
        own = [rest.pop(0) for _ in range(count)]
        if isinstance(inner, spaces.Discrete):
            return inner.dtype.type(to_native(own[0], inner))
        return to_native(np.array(own), inner)

    return taken(space)


def _mask(space: spaces.Space[Any], mask: Any) -> Any:
    """A mask for the action in its plain form: that of a Tuple or Dict with its parts side by side, in their order."""
    if not isinstance(space, spaces.Tuple | spaces.Dict):
        return mask
    parts = [mask[key] for key in space.spaces] if isinstance(space, spaces.Dict) else mask
    inner = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
    rows = [
        _mask(own, part) if isinstance(own, spaces.Tuple | spaces.Dict) else flat_mask(part, own)
        for own, part in zip(inner, parts, strict=True)
    ]
    return np.concatenate(rows).astype(np.int8)


def _channels_first(shape: tuple[int, ...]) -> bool:
    return shape[0] in _CHANNELS and shape[2] not in _CHANNELS


def _small(space: spaces.Space[Any], longest: int | None) -> tuple[int, int] | None:
    """Height and width of an image that is made smaller; None for all else."""
    if longest is None or not isinstance(space, spaces.Box) or len(space.shape) != 3 or space.dtype != np.uint8:
        return None
    first = _channels_first(space.shape)
    if not first and space.shape[2] not in _CHANNELS:
        return None
    height, width = space.shape[1:] if first else space.shape[:2]
    if max(height, width) <= longest:
        return None
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    first = _channels_first(pixels.shape)
    flat = np.moveaxis(pixels, 0, 2) if first else pixels
    image = Image.fromarray(np.ascontiguousarray(flat[..., 0] if flat.shape[2] == 1 else flat))
    small = np.asarray(image.resize(size[::-1], Image.Resampling.BOX)).reshape(*size, flat.shape[2])
    return np.moveaxis(small, 2, 0) if first else small
