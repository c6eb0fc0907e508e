"""All observations side by side, as the central state of a world that has none of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from marl.envs.native import MASK


class JointView:
    """What all agents see as one vector, float32 ``[D]``: discrete parts one-hot, bytes 0 to 255 as 0 to 1.

    observation_spaces: agent -> its space, without action masks. space: of the vector.
    """

    def __init__(self, observation_spaces: Mapping[Any, spaces.Space[Any]]):
        self._spaces = observation_spaces
        self._sizes = {agent: spaces.flatdim(space) for agent, space in observation_spaces.items()}
        self.space = spaces.Box(-np.inf, np.inf, (sum(self._sizes.values()),), np.float32)

    def __call__(self, views: Mapping[Any, Any]) -> NDArray[np.float32]:
        """The vector; zeros for agents without a view.

        Args:
            views: agent -> what it sees; action masks are left out.
        """
        parts = [
            np.zeros(size, np.float32) if views.get(agent) is None else _flat(self._spaces[agent], views[agent])
            for agent, size in self._sizes.items()
        ]
        return np.concatenate(parts)


def _flat(space: spaces.Space[Any], view: Any) -> NDArray[np.float32]:
    if isinstance(space, spaces.Dict):
        return np.concatenate([_flat(inner, view[key]) for key, inner in space.spaces.items()])
    if isinstance(view, Mapping) and MASK in view:
        view = view["observation"]
    flat = np.asarray(spaces.flatten(space, view), np.float32)
    return flat / 255.0 if space.dtype == np.uint8 and np.max(getattr(space, "high", 0)) == 255 else flat
