"""A safety rule that the user wrote: made for a world, and its answers compared with what was asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from marl.envs.abilities import Resolves, Supervised
from marl.envs.batched import BatchedEnv
from marl.errors import UserError
from marl.plugins import load_reference


def made_rule(rule: str, env: BatchedEnv) -> Supervised | Resolves:
    """The supervisor that ``module:function`` makes for a world.

    Raises ``UserError`` if it makes none, and later whenever an answer has another shape or dtype than it should.
    """
    make: Any = load_reference(rule, object)
    if not callable(make):
        raise UserError(f"coordination.safety.rule={rule} is not a function that makes a supervisor of a world")
    made = make(env)
    if isinstance(made, Resolves):
        return _Resolving(rule, made, env)
    if isinstance(made, Supervised):
        return _Supervising(rule, made, env)
    raise UserError(
        f"coordination.safety.rule={rule} makes a {type(made).__name__}, which has neither resolve, nor priority, "
        "candidates and margin: give it the one or the others"
    )


class _Answers:
    def __init__(self, rule: str, env: BatchedEnv):
        self._rule, self._shape = rule, (env.copies, env.spec.n_agents)
        space = next(iter(env.spec.action_space.values()))
        self._actions, self._looks = int(getattr(space, "n", 0)), env.device.type == "cpu"

    def _check(self, name: str, answer: Any, shape: tuple[int, ...], kind: str) -> None:
        """kind: ``actions``, ``choices`` (actions, or -1), or ``numbers``."""
        wanted = "float" if kind == "numbers" else "int64"
        if isinstance(answer, Tensor):
            fits = answer.dtype == torch.int64 if wanted == "int64" else answer.is_floating_point()
            if answer.shape == shape and fits:
                # On a GPU a look at the numbers would wait for it at every step.
                if self._looks and answer.numel():
                    self._check_numbers(name, answer, kind)
                return
            found = f"{answer.dtype} {list(answer.shape)}".removeprefix("torch.")
        else:
            found = type(answer).__name__
        raise UserError(f"coordination.safety.rule={self._rule}: {name} returned {found}, not {wanted} {list(shape)}")

    def _check_numbers(self, name: str, answer: Tensor, kind: str) -> None:
        if kind == "numbers":
            if bool(answer.isnan().any()):
                raise UserError(f"coordination.safety.rule={self._rule}: {name} returned NaN: give a number, or -inf")
            return
        low, high = int(answer.min()), int(answer.max())
        lowest = -1 if kind == "choices" else 0
        if self._actions and not lowest <= low <= high < self._actions:
            wrong = low if low < lowest else high
            raise UserError(
                f"coordination.safety.rule={self._rule}: {name} returned the action {wrong}; there are "
                f"{lowest} to {self._actions - 1}"
            )


class _Resolving(_Answers):
    def __init__(self, rule: str, made: Resolves, env: BatchedEnv):
        super().__init__(rule, env)
        self._made = made

    def resolve(self, proposed: Tensor, scores: Tensor | None) -> Tensor:
        answer = self._made.resolve(proposed, scores)
        self._check("resolve", answer, self._shape, "actions")
        return answer


class _Supervising(_Answers):
    def __init__(self, rule: str, made: Supervised, env: BatchedEnv):
        super().__init__(rule, env)
        self._made = made

    def priority(self) -> Tensor:
        answer = self._made.priority()
        self._check("priority", answer, self._shape, "numbers")
        return answer

    def candidates(self, agent: Tensor) -> Tensor:
        answer = self._made.candidates(agent)
        columns = answer.shape[-1] if isinstance(answer, Tensor) and answer.ndim == 2 else self._actions
        self._check("candidates", answer, (self._shape[0], columns), "choices")
        return answer

    def margin(self, candidates: Tensor, agent: Tensor, committed: Tensor) -> Tensor:
        answer = self._made.margin(candidates, agent, committed)
        self._check("margin", answer, tuple(candidates.shape), "numbers")
        return answer
