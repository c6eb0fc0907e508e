"""Random actions for any world."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.envs.chat import Spoken
from marl.envs.native import choices
from marl.errors import UserError
from marl.seeding import Stream, below, fold, uniform

#: How far actions without a bound are drawn, and from which size on a bound is none.
_STRETCH, _UNBOUNDED = 10.0, 1e6


def mask_of_group(timestep: TimeStep, group: str) -> Tensor | None:
    """The action mask ``[B, N_g, A]`` of a group, or None if it has none."""
    mask = timestep.action_mask
    own = mask.get(group) if isinstance(mask, dict) else mask
    assert own is None or isinstance(own, Tensor)
    return own


def random_actions(env: BatchedEnv, timestep: TimeStep, salt: int = 0) -> Tree:
    """Random legal actions drawn from ``timestep.key``: those of a copy do not depend on its batch."""
    spec = env.spec
    key = fold(fold(timestep.key, Stream.POLICY), salt)
    out: dict[str, Tree] = {}
    for group, slots in spec.groups.items():
        own = fold(key.unsqueeze(1), torch.tensor(slots, device=key.device))
        mask = mask_of_group(timestep, group)
        out[group] = _draw(spec.action_space[group], own, mask)
    return out if len(out) > 1 else next(iter(out.values()))


def _draw(space: spaces.Space[object], key: Tensor, mask: Tensor | None) -> Tensor:
    if isinstance(space, spaces.Discrete):
        return below(key, int(space.n)) if mask is None else _legal(key, mask)
    assert space.shape is not None
    size = int(torch.Size(space.shape).numel())
    if mask is not None:
        parts = torch.split(mask, choices(space), dim=-1)
        return torch.stack([_legal(fold(key, k), part) for k, part in enumerate(parts)], dim=-1)
    each = fold(key.unsqueeze(-1), torch.arange(size, device=key.device))
    if isinstance(space, spaces.Box):
        low, high = _bounds(space, key.device)
        values = low + (high - low) * uniform(each)
    elif isinstance(space, spaces.MultiDiscrete):
        values = below(each, torch.as_tensor(space.nvec, device=key.device).long().flatten())
    else:
        values = below(each, 2)
    return values


def _bounds(space: spaces.Box, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where to draw from, ``[D]`` each: the bounds; without a bound a stretch of 10 from the other one, or from 0."""
    low, high = (torch.as_tensor(bound, device=device).double().flatten() for bound in (space.low, space.high))
    below_none, above_none = low < -_UNBOUNDED, high > _UNBOUNDED
    bottom = torch.where(below_none, torch.where(above_none, -_STRETCH, high - _STRETCH), low)
    top = torch.where(above_none, torch.where(below_none, _STRETCH, low + _STRETCH), high)
    return bottom.float(), top.float()


def _legal(key: Tensor, mask: Tensor) -> Tensor:
    """One of the legal values ``[*]``; mask: bool ``[*, A]``."""
    legal = mask.long()
    chosen = below(key, legal.sum(-1).clamp(min=1))
    return (legal.cumsum(-1) > chosen.unsqueeze(-1)).long().argmax(-1)


class RandomPolicy:
    """Uniform over the legal actions of any world, drawn by the copies' random keys; infinite ranges are cut.

    Args:
        env: the world to play in. Raises ``UserError`` if its actions are texts.
    """

    def __init__(self, env: BatchedEnv):
        if isinstance(env, Spoken) and env.speech_only:
            raise UserError(env.speech_only)
        self._env = env

    def act(self, timestep: TimeStep) -> Tree:
        return random_actions(self._env, timestep)
