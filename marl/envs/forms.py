"""Whether the fields of a time step have the form that its world's spec says: keys, shapes, dtypes, devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import BatchedEnv, TimeStep
from marl.envs.native import choices
from marl.errors import UserError


def misfits(env: BatchedEnv, view: TimeStep) -> Iterator[tuple[str, str]]:
    """Each field that is not as the contract says: its name, and a sentence without a subject.

    Args:
        env: the world that ``view`` comes from.
        view: what its ``reset`` or ``step`` returned.
    """
    copies, spec = env.copies, env.spec
    n = spec.n_agents
    for name, shape, dtype in (
        ("reward", (copies, n), "float32"),
        ("terminated", (copies, n), "bool"),
        ("truncated", (copies, n), "bool"),
        ("done", (copies,), "bool"),
        ("alive", (copies, n), "bool"),
        ("agent_id", (copies, n), "int64"),
        ("key", (copies,), "int64"),
    ):
        yield from _tensor(name, getattr(view, name), shape, dtype, env.device)
    yield from _observation("observation", env, view.observation)
    yield from _state("state", env, view.state)
    if view.final is not None:
        yield from _observation("final.observation", env, view.final.observation)
        yield from _state("final.state", env, view.final.state)
    yield from _masks(env, view.action_mask)


def check_form(env: BatchedEnv, view: TimeStep) -> None:
    """Raise ``UserError`` in one sentence if a time step is not as its world's spec says, metrics included.

    Args:
        env, view: as in ``misfits``.
    """
    world = type(env).__name__
    for name, sentence in misfits(env, view):
        raise UserError(f"{world}: {name} is {sentence}, as its EnvSpec says")
    odd = set(view.metrics) ^ set(env.spec.metrics)
    if odd:
        name = min(odd)
        where = "EnvSpec.metrics names it" if name in env.spec.metrics else "EnvSpec.metrics does not name it"
        raise UserError(f"{world}: the metric '{name}' is {'missing' if name in env.spec.metrics else 'odd'}: {where}")
    for name, value in view.metrics.items():
        for _, sentence in _tensor(name, value, (env.copies,), "float32", env.device):
            raise UserError(f"{world}: the metric '{name}' is {sentence}")


def _tensor(
    name: str, value: Any, shape: tuple[int, ...], dtype: str, device: torch.device
) -> Iterator[tuple[str, str]]:
    wanted = f"not {dtype} {_size(shape)}"
    if not isinstance(value, Tensor):
        yield name, f"a {type(value).__name__}, {wanted}"
    elif tuple(value.shape) != shape or str(value.dtype) != f"torch.{dtype}":
        yield name, f"{str(value.dtype).removeprefix('torch.')} {_size(tuple(value.shape))}, {wanted}"
    elif value.device.type != device.type:
        yield name, f"on {value.device}, not on {device}"


def _size(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _observation(name: str, env: BatchedEnv, tree: Any) -> Iterator[tuple[str, str]]:
    spec = env.spec
    if len(spec.groups) > 1 and (not isinstance(tree, dict) or set(tree) != set(spec.groups)):
        yield name, _keys(tree, set(spec.groups), "groups")
        return
    for group, slots in spec.groups.items():
        own, place = (tree[group], f"{name}['{group}']") if len(spec.groups) > 1 else (tree, name)
        yield from _tree(place, own, spec.observation_space[group], (env.copies, len(slots)), env.device)


def _state(name: str, env: BatchedEnv, tree: Any) -> Iterator[tuple[str, str]]:
    spec = env.spec
    if spec.state_space is None or tree is None:
        if spec.state_space is not tree:
            yield name, "missing, but not state_space" if tree is None else "given, but not state_space"
        return
    lead = (env.copies, spec.n_agents) if spec.state_per_agent else (env.copies,)
    yield from _tree(name, tree, spec.state_space, lead, env.device)


def _tree(
    name: str, tree: Any, space: spaces.Space[Any], lead: tuple[int, ...], device: torch.device
) -> Iterator[tuple[str, str]]:
    if isinstance(space, spaces.Dict):
        if not isinstance(tree, dict) or set(tree) != set(space.spaces):
            yield name, _keys(tree, set(space.spaces), "keys")
            return
        for key, inner in space.spaces.items():
            yield from _tree(f"{name}['{key}']", tree[key], inner, lead, device)
        return
    dtype = np.dtype(space.dtype).name if space.dtype is not None else "float32"
    yield from _tensor(name, tree, (*lead, *(space.shape or ())), dtype, device)


def _keys(tree: Any, wanted: set[str], kind: str) -> str:
    got = f"a dict of {', '.join(sorted(map(str, tree)))}" if isinstance(tree, dict) else f"a {type(tree).__name__}"
    return f"{got}, not a dict with the {kind} {', '.join(sorted(wanted))}"


def _masks(env: BatchedEnv, mask: Any) -> Iterator[tuple[str, str]]:
    spec = env.spec
    if mask is None:
        return
    if len(spec.groups) > 1 and (not isinstance(mask, dict) or not set(mask) <= set(spec.groups)):
        yield "action_mask", _keys(mask, set(spec.groups), "groups")
        return
    for group, slots in spec.groups.items():
        own = mask.get(group) if isinstance(mask, dict) else mask
        if own is not None:
            place = f"action_mask['{group}']" if len(spec.groups) > 1 else "action_mask"
            actions = sum(choices(spec.action_space[group]))
            yield from _tensor(place, own, (env.copies, len(slots), actions), "bool", env.device)
