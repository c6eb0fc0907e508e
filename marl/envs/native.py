"""One agent's actions and masks as Gymnasium and PettingZoo have them, and as batched worlds do.

A batched world counts all discrete choices from 0, takes continuous actions flat and clips them itself, and has one row
of bools for the masks of all choices. Somebody's environment has ``start``, shapes, bounds, and a mask for each choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from marl.errors import UserError

MASK = "action_mask"
Array = NDArray[Any]


def choices(space: spaces.Space[Any]) -> list[int]:
    """How many values each discrete choice of an action has; empty for a Box and for what has no such choices.

    Args:
        space: of one agent's action.
    """
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.flatten()]
    if isinstance(space, spaces.MultiBinary):
        return [2] * int(np.prod(space.shape))
    return []


def to_native(action: Any, space: spaces.Space[Any]) -> Any:
    """One agent's action as its environment takes it.

    Args:
        action: as a batched world takes it: a number for ``Discrete``, else numbers ``[D]`` (or of the space's shape).
        space: of the action. Numbers of a Box are clipped to its bounds.
    """
    if isinstance(space, spaces.Discrete):
        return int(action) + int(space.start)
    assert space.shape is not None
    values = np.asarray(action).reshape(space.shape)
    if isinstance(space, spaces.MultiDiscrete):
        return (values.astype(np.int64) + space.start).astype(space.dtype)
    if isinstance(space, spaces.Box):
        return np.clip(values, space.low, space.high).astype(space.dtype)
    return values.astype(space.dtype)


def from_native(action: Any, space: spaces.Space[Any]) -> Array:
    """The inverse of ``to_native`` (of what lies within the bounds): a number for ``Discrete``, else ``[D]``.

    Args:
        action: a member of the space.
        space: of the action.
    """
    if isinstance(space, spaces.Discrete):
        return np.asarray(int(action) - int(space.start))
    values = np.asarray(action, space.dtype).flatten()
    return values - space.start.flatten() if isinstance(space, spaces.MultiDiscrete) else values


def mask_in(observation: Any, info: Any) -> Any:
    """The action mask in an observation, else in an info; None if there is none."""
    for holder in (observation, info):
        if isinstance(holder, Mapping) and MASK in holder:
            return holder[MASK]
    return None


def flat_mask(mask: Any, space: spaces.Space[Any]) -> Array:
    """A mask as one row: bool ``[A]``, the values of all choices one after the other.

    Raises ``UserError`` for a mask that does not fit the space.

    Args:
        mask: as ``space.sample`` takes it: for ``Discrete`` one number per action; for ``MultiDiscrete`` an array for
            each choice, also nested, or all of them in one row; for ``MultiBinary`` 0, 1, or 2 where both are legal.
        space: of the action.
    """
    sizes = choices(space)
    try:
        parts = _flattened(mask)
    except (TypeError, ValueError):
        parts = np.zeros(0)
    if isinstance(space, spaces.MultiBinary) and parts.shape == (len(sizes),) and np.isin(parts, (0, 1, 2)).all():
        return np.stack((parts != 1, parts != 0), axis=-1).flatten()
    if not sizes or parts.shape != (sum(sizes),) or not np.isin(parts, (0, 1)).all():
        wanted = " + ".join(str(size) for size in sizes[:8]) + (" + ..." if len(sizes) > 8 else "")
        raise UserError(
            f"an action mask for {space} is {str(mask)[:60]!r}: "
            + (f"give {wanted} numbers, 1 where legal" if sizes else "such actions have no mask, leave it out")
        )
    return parts.astype(bool)


def legal_mask(mask: Any, space: spaces.Space[Any]) -> Array:
    """``flat_mask`` of an agent that is asked for an action; where nothing is legal, the first value of each choice is.

    In games in turns the mask of an agent that waits is empty. Its action is not heard, and it has nothing to choose.

    Args:
        mask, space: as in ``flat_mask``.
    """
    row = flat_mask(mask, space)
    if not row.any():
        row[np.cumsum([0, *choices(space)[:-1]])] = True
    return row


def _flattened(mask: Any) -> Array:
    if isinstance(mask, list | tuple):
        return np.concatenate([_flattened(part) for part in mask]) if mask else np.zeros(0)
    return np.asarray(mask).reshape(-1)


def native_mask(row: Array, space: spaces.Space[Any]) -> Any:
    """The inverse of ``flat_mask``: int8, as ``space.sample`` takes it.

    Args:
        row: bool ``[A]``.
        space: of the action.
    """
    legal = row.astype(np.int8)
    if isinstance(space, spaces.MultiBinary):
        pairs = legal.reshape(-1, 2)
        return np.where(pairs.all(1), 2, pairs[:, 1]).astype(np.int8).reshape(space.shape)
    if isinstance(space, spaces.MultiDiscrete):
        parts = iter(np.split(legal, np.cumsum(choices(space))[:-1]))
        return _nested(parts, space.shape)
    return legal


def _nested(parts: Any, shape: tuple[int, ...]) -> Any:
    return tuple(_nested(parts, shape[1:]) if shape[1:] else next(parts) for _ in range(shape[0]))


def zeros(space: spaces.Space[Any]) -> Any:
    """A value of nothing, in the form of a space: zeros, the first value of a Discrete, an empty mask.

    Args:
        space: of an action or an observation.
    """
    if isinstance(space, spaces.Dict):
        return {key: zeros(inner) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(zeros(inner) for inner in space.spaces)
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(space.start)
    return np.zeros(space.shape or (), space.dtype)


def without_mask(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """PettingZoo's {"observation", "action_mask"} is the observation; other dicts lose the mask only.

    Args:
        space: of what one agent sees.
    """
    if not isinstance(space, spaces.Dict) or MASK not in space.spaces:
        return space
    rest = {key: inner for key, inner in space.spaces.items() if key != MASK}
    inner = rest.get("observation")
    return inner if len(rest) == 1 and inner is not None and not isinstance(inner, spaces.Dict) else spaces.Dict(rest)
