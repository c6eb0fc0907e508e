"""``Batch``: what a rollout hands to the learner, time first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from marl.envs.batched import Tree
from marl.policies.joint import map_tree


@dataclass(kw_only=True)
class Decisions:
    """The columns that a gradient step reads: what was seen, what was decided, and by whom.

    Every column is a tree of tensors with the same leading dimensions: ``[B, N, *]`` of one step, ``[T, B, N, *]`` of a
    batch, ``[L, R, N, *]`` of R stretches of L steps. Trees are dicts by group with several groups.

    observation, action, action_mask: the observation as the policy saw it and the action as it proposed it.
    state: for the critic, with or without the dimension N, or None.
    log_prob: float32, of the action when it was taken.
    start, mask: bool; ``start``: the agent's first step; ``mask``: the slot held an acting agent.
    actor_hidden, critic_hidden: recurrent state before each step, by unit ``[*, N_u, H]``; empty if feed-forward.
    expert: what an expert would have done, like ``action``; None if none was asked.
    """

    observation: Tree
    action: Tree
    action_mask: Tree | None
    state: Tree | None
    log_prob: Tensor
    start: Tensor
    mask: Tensor
    actor_hidden: dict[str, Tensor]
    critic_hidden: dict[str, Tensor]
    expert: Tree | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same columns with ``function`` applied to every tensor."""
        mapped: dict[str, Any] = {
            name: None if tree is None else map_tree(function, tree) for name, tree in columns(self).items()
        }
        return type(self)(**mapped)


@dataclass(kw_only=True)
class Transitions(Decisions):
    """Decisions and what came of them.

    reward, value: float32; ``value`` is the critic's when the decision was made.
    terminated, cut: bool; ``cut``: the trace of advantages stops after this step.
    """

    reward: Tensor
    value: Tensor
    terminated: Tensor
    cut: Tensor


@dataclass(kw_only=True)
class Batch(Transitions):
    """T steps of B copies of N agents: every column ``[T, B, N, *]``.

    next_value: float32, the value of the true successor: of the final state where an episode was truncated, else of the
        next step, which means nothing where it terminated.
    """

    next_value: Tensor

    @classmethod
    def of(cls, steps: Sequence[Transitions], next_value: Tensor) -> Self:
        """T steps of ``[B, N, *]`` one after the other."""
        rows = [columns(step) for step in steps]
        stacked: dict[str, Any] = {
            name: None if rows[0][name] is None else stack([row[name] for row in rows]) for name in rows[0]
        }
        return cls(**stacked, next_value=next_value)

    @property
    def mean_reward(self) -> float:
        """Of all acting agents' steps; 0 if nobody acted."""
        return float(self.reward[self.mask].mean()) if bool(self.mask.any()) else 0.0

    @property
    def steps(self) -> int:
        return self.reward.shape[0]

    @property
    def copies(self) -> int:
        return self.reward.shape[1]


def columns(of: Decisions, kind: type[Decisions] | None = None) -> dict[str, Any]:
    """Name -> tree of tensors or None, of all columns or of those that ``kind`` has."""
    return {field.name: getattr(of, field.name) for field in fields(kind or of)}


def stack(trees: Sequence[Tree]) -> Tree:
    """T trees of ``[B, ...]`` -> one tree of ``[T, B, ...]``."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: stack([tree[name] for tree in trees if isinstance(tree, dict)]) for name in first}
    return torch.stack([tree for tree in trees if isinstance(tree, Tensor)])


def stretches(x: Tensor, length: int) -> Tensor:
    """``[T, B, ...]`` -> ``[length, T / length * B, ...]``: rows of consecutive steps, to back-propagate through."""
    steps, copies = x.shape[:2]
    if length == 1:
        return x.reshape(1, steps * copies, *x.shape[2:])
    rows = x.reshape(steps // length, length, copies, *x.shape[2:])
    return rows.transpose(0, 1).reshape(length, -1, *x.shape[2:])
