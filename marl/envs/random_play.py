"""Random actions for any world."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.envs.native import choices
from marl.seeding import Stream, below, fold, uniform


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
        low = torch.as_tensor(space.low, device=key.device).float().flatten().clamp(min=-10.0)
        high = torch.as_tensor(space.high, device=key.device).float().flatten().clamp(max=10.0)
        values = low + (high - low) * uniform(each)
    elif isinstance(space, spaces.MultiDiscrete):
        values = below(each, torch.as_tensor(space.nvec, device=key.device).long().flatten())
    else:
        values = below(each, 2)
    return values


def _legal(key: Tensor, mask: Tensor) -> Tensor:
    """One of the legal values ``[*]``; mask: bool ``[*, A]``."""
    legal = mask.long()
    chosen = below(key, legal.sum(-1).clamp(min=1))
    return (legal.cumsum(-1) > chosen.unsqueeze(-1)).long().argmax(-1)
