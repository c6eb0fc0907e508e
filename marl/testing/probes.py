"""Checks of single values, and how values are compared: used by all conformance checks."""

from __future__ import annotations

import hashlib
import numbers
import random
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from marl.envs.native import choices, flat_mask, native_mask
from marl.errors import UserError
from marl.testing.report import Report

MASK = "action_mask"


def probe_observation(report: Report, where: str, value: Any, space: spaces.Space[Any]) -> None:
    """An observation against its space: kind, exact dtype, shape, finite, bounds."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            report.add("observation-type", where, f"expected a dict with the keys {sorted(space.spaces)}")
            return
        for key, inner in space.spaces.items():
            probe_observation(report, f"{where}[{key!r}]", value[key], inner)
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            report.add("observation-type", where, f"expected a tuple of {len(space.spaces)}")
            return
        for index, inner in enumerate(space.spaces):
            probe_observation(report, f"{where}[{index}]", value[index], inner)
    elif isinstance(space, spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete):
        _probe_array(report, where, value, space)
    elif not space.contains(value):
        report.add("observation-outside-space", where, f"{_short(value)} is not in {space}")


def _probe_array(report: Report, where: str, value: Any, space: spaces.Space[Any]) -> None:
    if not isinstance(value, np.ndarray | np.generic):
        report.add("observation-type", where, f"expected an array, got {type(value).__name__}")
        return
    if value.dtype != space.dtype:
        report.add("observation-dtype", where, f"{value.dtype} instead of {space.dtype}")
    if value.shape != space.shape:
        report.add("observation-shape", where, f"{value.shape} instead of {space.shape}")
        return
    value = np.asarray(value)
    if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        report.add("observation-not-finite", where, f"{_short(value[~np.isfinite(value)])}")
        return
    if isinstance(space, spaces.Box):
        outside = (value < space.low) | (value > space.high)
        if outside.any():
            place = tuple(int(i) for i in np.argwhere(outside)[0])
            low, high = space.low[place], space.high[place]
            report.add("observation-outside-space", where, f"{value[place]} at {place} is not within [{low}, {high}]")
    elif not space.contains(value.astype(space.dtype)):
        report.add("observation-outside-space", where, f"{_short(value)} is not in {space}")


def probe_reward(report: Report, where: str, value: Any) -> None:
    """A finite number, not a bool, not text."""
    scalar = (
        value.item() if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.shape) else value
    )
    if isinstance(scalar, bool) or not isinstance(scalar, numbers.Real):
        report.add("reward-type", where, f"{_short(value)} of type {type(value).__name__}")
    elif not np.isfinite(float(scalar)):
        report.add("reward-not-finite", where, f"{scalar}")


def probe_flags(report: Report, where: str, terminated: Any, truncated: Any) -> None:
    """Two bools, not both true."""
    for name, value in (("termination", terminated), ("truncation", truncated)):
        if not isinstance(value, bool | np.bool_):
            report.add("flag-type", where, f"{name} is {_short(value)} of type {type(value).__name__}")
    if terminated and truncated:
        report.add("both-flags", where, "a time limit is a truncation, the end of the task a termination")


def mask_of(observation: Any, info: Any) -> Any:
    """The action mask in an observation or an info, or None."""
    for holder in (observation, info):
        if isinstance(holder, Mapping) and MASK in holder:
            return holder[MASK]
    return None


def probe_mask(report: Report, where: str, mask: Any, space: spaces.Space[Any]) -> None:
    """One 0 or 1 per action of each choice, at least one 1."""
    try:
        row = flat_mask(mask, space)
    except UserError:
        report.add("mask-form", where, f"it does not fit {space}: {_short(mask)}")
        return
    sizes = choices(space)
    if not all(part.any() for part in np.split(row, np.cumsum(sizes)[:-1])):
        report.add("mask-empty", where, "no action is legal for a living agent")


def probe_info(report: Report, where: str, info: Any) -> None:
    if not isinstance(info, Mapping) or not all(isinstance(key, str) for key in info):
        report.add("info-form", where, f"expected a dict with text keys, got {_short(info)}")


def legal_action(sampler: spaces.Space[Any], mask: Any) -> Any:
    """A random action of a seeded space, legal by the mask where there is one."""
    with suppress(UserError):
        row = flat_mask(mask, sampler) if mask is not None else np.zeros(0, bool)
        if row.any():
            return sampler.sample(mask=native_mask(row, sampler))
    return sampler.sample()


def digest(value: Any) -> str:
    """A hash of a value's content: equal for equal numbers, whatever the objects are."""
    hasher = hashlib.blake2b(digest_size=12)
    _feed(hasher, value)
    return hasher.hexdigest()


def _feed(hasher: Any, value: Any) -> None:
    if isinstance(value, np.ndarray | np.generic):
        hasher.update(f"{value.dtype.str}{value.shape}".encode())
        hasher.update(np.ascontiguousarray(value).tobytes() if value.dtype != object else repr(value.tolist()).encode())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            hasher.update(f"|{key}:".encode())
            _feed(hasher, value[key])
    elif isinstance(value, list | tuple):
        hasher.update(f"[{len(value)}".encode())
        for item in value:
            _feed(hasher, item)
    elif isinstance(value, str | bytes | numbers.Number | None):
        hasher.update(repr(value).encode())
    else:
        hasher.update(type(value).__name__.encode())  # An object's text may hold its address.


def vandalise(value: Any) -> None:
    """Overwrite the arrays in a returned value."""
    if isinstance(value, np.ndarray) and value.flags.writeable and value.dtype != object:
        value[...] = 1 if value.dtype == bool else 77
    elif isinstance(value, Mapping):
        for inner in value.values():
            vandalise(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            vandalise(inner)


@contextmanager
def global_generators(seed: int) -> Iterator[list[str]]:
    """Seed the global generators, put them back afterwards, and name in the yielded list those used in between.

    Those of ``random`` and ``numpy``, and that of ``torch`` (on the CPU) where it is loaded.
    """
    used: list[str] = []
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state() if torch else None
    scatter(seed)
    start = _generator_states()
    try:
        yield used
    finally:
        used += [name for name, state in _generator_states().items() if name in start and state != start[name]]
        random.setstate(before[0])
        np.random.set_state(before[1])
        if torch is not None:
            torch.set_rng_state(before[2])


def scatter(seed: int) -> None:
    """Seed all global generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.manual_seed(seed)


def _generator_states() -> dict[str, str]:
    states: dict[str, Any] = {"random": random.getstate(), "numpy.random": np.random.get_state(legacy=False)}
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state().numpy()
    return {name: digest(state) for name, state in states.items()}


def told(error: BaseException) -> str:
    """An exception with the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
