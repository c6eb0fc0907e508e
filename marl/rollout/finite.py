"""Numbers that are none: NaN and infinity in what a world or a policy gave, found cheaply and named by place.

One NaN in one reward spoils every weight in a few steps of the gradient, and nothing looks wrong from outside. A
tensor is searched by its least and its largest entry, both of which NaN passes through: one pass, no copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from marl.envs import waiting
from marl.envs.batched import EnvSpec, TimeStep, Tree
from marl.errors import NotFiniteError
from marl.rollout.batch import Batch, Transitions

MEND_WORLD = "mend the world"
MEND_LEARNING = "learn in smaller steps, with a lower learning rate"


class _Column(NamedTuple):
    """A tensor to be searched. agents: who its last leading dimension stands for; None: nobody in particular."""

    name: str
    value: Tensor
    agents: tuple[str, ...] | None
    mend: str = MEND_WORLD


def peak(x: Tensor) -> Tensor:
    """The largest magnitude in a tensor of floats, a scalar; NaN if there is one."""
    low, high = torch.aminmax(x.detach())
    return torch.maximum(-low, high)


def check_batch(batch: Batch, spec: EnvSpec) -> None:
    """Raise ``NotFiniteError`` for the first number of a rollout that is none. It waits for the device once.

    Args:
        batch: T steps of B copies. What networks said of agents that did not act is left out.
        spec: of the world.
    """
    _search(
        list(_columns(batch, spec)), [_Column("value of the next view", _acting(batch.next_value, batch), spec.agents)]
    )


def check_transitions(steps: Sequence[Transitions], timestep: TimeStep, spec: EnvSpec) -> None:
    """As ``check_batch``, for the steps of a rollout that broke off, and the view at which it did."""
    if steps:
        _search(list(_columns(Batch.of(steps, torch.stack([step.value for step in steps])), spec)))
    for column in (*_leaves("observation", timestep.observation, spec), *_state(timestep.state, spec)):
        _search([column._replace(value=column.value.unsqueeze(0))], first=len(steps))


class Watch:
    """Looks at every time step of a world that is played without a batch being kept.

    On the CPU the first number that is none is refused at once; elsewhere ``check`` finds it at the end, since reading
    it before would make the host wait.

    Args:
        spec: of the world.
        place: what a copy is called in the error.
        state: look at the central state too. A rule may act on it; policies that learn without a critic never read it.
    """

    def __init__(self, spec: EnvSpec, place: Callable[[int], str] = lambda copy: f"copy {copy}", state: bool = True):
        self._spec, self._place, self._state = spec, place, state
        self._peaks: dict[str, tuple[_Column, Tensor]] = {}

    def see(self, timestep: TimeStep) -> None:
        """Take note of a time step. Raises ``NotFiniteError`` on the CPU."""
        columns = [
            *_leaves("observation", timestep.observation, self._spec),
            *_state(timestep.state if self._state else None, self._spec),
            _Column("reward", timestep.reward, self._spec.agents),
        ]
        found = torch.stack([peak(column.value).double() for column in columns])
        if not waiting.any_or_unknown(~found.isfinite()):
            return
        for column in columns:
            leading = 1 if column.agents is None else 2
            magnitude = column.value.detach().abs().reshape(*column.value.shape[:leading], -1).amax(-1)
            key = f"{column.name} {column.agents}"
            before = self._peaks.get(key)
            self._peaks[key] = (column, magnitude if before is None else torch.maximum(before[1], magnitude))
        if waiting.is_at_hand(found):
            self.check()

    def check(self) -> None:
        """Raise ``NotFiniteError`` if a number that was seen is none. It waits for the device once."""
        if not self._peaks:
            return
        kept = list(self._peaks.values())
        bad = torch.stack([(~magnitude.isfinite()).any() for _, magnitude in kept]).tolist()
        for (column, magnitude), is_bad in zip(kept, bad, strict=True):
            if is_bad:
                index = (~magnitude.isfinite()).nonzero()[0].tolist()
                who = f" of agent '{column.agents[index[1]]}'" if column.agents is not None else ""
                value = _words(float(magnitude[tuple(index)]))
                raise NotFiniteError(f"the {column.name}{who} in {self._place(index[0])} is {value}", column.mend)


def _columns(batch: Transitions, spec: EnvSpec) -> Iterator[_Column]:
    """In the order in which they come to be within a step."""
    yield from _leaves("observation", batch.observation, spec)
    yield from _state(batch.state, spec)
    yield _Column("log-probability", _acting(batch.log_prob, batch), spec.agents, MEND_LEARNING)
    yield _Column("value", _acting(batch.value, batch), spec.agents, MEND_LEARNING)
    yield _Column("reward", batch.reward, spec.agents)


def _acting(x: Tensor, batch: Transitions) -> Tensor:
    return torch.where(batch.mask, x, 0.0)


def _state(state: Tree | None, spec: EnvSpec) -> Iterator[_Column]:
    if state is not None:
        yield from _named("state", state, spec.agents if spec.state_per_agent else None)


def _leaves(name: str, tree: Tree, spec: EnvSpec) -> Iterator[_Column]:
    """The floats of a tree by group."""
    if len(spec.groups) == 1:
        yield from _named(name, tree, spec.agents)
        return
    assert isinstance(tree, dict)
    for group, index in spec.groups.items():
        yield from _named(name, tree[group], tuple(spec.agents[i] for i in index))


def _named(name: str, tree: Tree, agents: tuple[str, ...] | None) -> Iterator[_Column]:
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from _named(f"{name} '{key}'", branch, agents)
    elif tree.is_floating_point() and tree.numel():
        yield _Column(name, tree, agents)


def _search(columns: Sequence[_Column], effects: Sequence[_Column] = (), first: int = 0) -> None:
    """Raise for the earliest number that is none in columns ``[T, B, *]``; the first column of a step comes first.

    effects: columns that are to blame only where no other is.
    """
    peaks = torch.stack([peak(column.value).double() for column in (*columns, *effects)])
    if not bool(peaks.isfinite().all()):
        sound = peaks.isfinite().tolist()
        broken = [column for column, is_sound in zip(columns, sound, strict=False) if not is_sound] or effects
        _refuse(min(((_first(column.value), column) for column in broken), key=lambda found: found[0][0]), first)


def _first(x: Tensor) -> list[int]:
    """Where the first number that is none stands."""
    place: list[int] = (~x.isfinite()).nonzero()[0].tolist()
    return place


def _refuse(found: tuple[list[int], _Column], first: int) -> NoReturn:
    (step, copy, *rest), column = found
    who = f" of agent '{column.agents[rest[0]]}'" if column.agents is not None else ""
    value = _words(float(column.value[tuple(found[0])]))
    raise NotFiniteError(
        f"the {column.name}{who} in copy {copy} is {value} in step {first + step} of the rollout", column.mend
    )


def _words(value: float) -> str:
    return "NaN" if math.isnan(value) else "infinite"
