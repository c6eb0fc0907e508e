"""Time steps as named tensors: flattening, comparing copy by copy, overwriting."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from marl.envs.batched import EnvSpec, TimeStep, Tree

#: The fields of a time step that are always meaningful.
ALWAYS = (
    "observation",
    "state",
    "reward",
    "terminated",
    "truncated",
    "done",
    "alive",
    "agent_id",
    "action_mask",
    "key",
)


def leaves(tree: Tree | None, path: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree with their paths."""
    if isinstance(tree, dict):
        for name, branch in tree.items():
            yield from leaves(branch, f"{path}.{name}")
    elif tree is not None:
        yield path, tree


def fields(timestep: TimeStep) -> dict[str, Tensor]:
    """Path -> tensor of every field of a time step that is always meaningful."""
    return {path: leaf for name in ALWAYS for path, leaf in leaves(getattr(timestep, name), name)}


def ends(timestep: TimeStep, spec: EnvSpec) -> dict[str, Tensor]:
    """Final observations and metrics with everything that is not valid zeroed; empty where no agent ended."""
    if timestep.final is None:
        return {}
    ended = timestep.terminated | timestep.truncated
    out = {}
    for group, slots in spec.groups.items():
        tree = timestep.final.observation
        if len(spec.groups) > 1:
            assert isinstance(tree, dict)
            tree = tree[group]
        valid = ended[:, list(slots)]
        for path, leaf in leaves(tree, f"final.observation.{group}"):
            out[path] = _zeroed(leaf, valid)
    for path, leaf in leaves(timestep.final.state, "final.state"):
        out[path] = _zeroed(leaf, ended if spec.state_per_agent else ended.any(1))
    for name, value in timestep.metrics.items():
        out[f"metrics.{name}"] = _zeroed(value, timestep.done)
    return out


def _zeroed(x: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid.reshape(*valid.shape, *[1] * (x.dim() - valid.dim())), x, torch.zeros_like(x))


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit, NaN being equal to NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(torch.equal(a, b)) or (a.is_floating_point() and bool(((a == b) | (a.isnan() & b.isnan())).all()))


def first_difference(a: TimeStep, b: TimeStep, spec: EnvSpec, ours: Tensor, theirs: Tensor) -> str | None:
    """The first field in which copies ``ours`` of ``a`` are not copies ``theirs`` of ``b``, in words."""
    left, right = fields(a), fields(b)
    if set(left) != set(right):
        return f"fields {sorted(set(left) ^ set(right))}"
    for name, value in left.items():
        if not same(value[ours], right[name][theirs]):
            return name
    left, right = ends(a, spec), ends(b, spec)
    for name in sorted(set(left) | set(right)):
        x, y = left.get(name), right.get(name)
        mine = x[ours] if x is not None else torch.zeros_like(_given(y)[theirs])
        other = y[theirs] if y is not None else torch.zeros_like(mine)
        if not same(mine, other):
            return name
    return None


def _given(x: Tensor | None) -> Tensor:
    assert x is not None
    return x


def clone(timestep: TimeStep) -> dict[str, Tensor]:
    """Copies of everything that a time step holds."""
    return {path: leaf.clone() for path, leaf in _everything(timestep)}


def changed(timestep: TimeStep, before: dict[str, Tensor]) -> str | None:
    """The first tensor of a time step that is no longer what ``clone`` saw."""
    for path, leaf in _everything(timestep):
        if not same(leaf, before[path]):
            return path
    return None


def overwrite(timestep: TimeStep) -> None:
    """Fill every tensor with other values."""
    for _, leaf in _everything(timestep):
        leaf.fill_(1 if leaf.dtype == torch.bool else 77)


def _everything(timestep: TimeStep) -> Iterator[tuple[str, Tensor]]:
    for name in ALWAYS:
        yield from leaves(getattr(timestep, name), name)
    if timestep.final is not None:
        yield from leaves(timestep.final.observation, "final.observation")
        yield from leaves(timestep.final.state, "final.state")
    for name, value in timestep.metrics.items():
        yield f"metrics.{name}", value
