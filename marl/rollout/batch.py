"""``Batch``: what a rollout hands to the learner, time first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from marl.envs.batched import Tree
from marl.policies.joint import map_tree


@dataclass
class Batch:
    """T steps of B copies of N agents.

    observation, action, action_mask: trees of ``[T, B, N, *]`` (dicts by group with several groups), the observation
        as the policy saw it and the action as it proposed it.
    state: ``[T, B, *]`` or ``[T, B, N, *]`` for the critic, or None.
    log_prob, reward, value, next_value: float32 ``[T, B, N]``; ``next_value`` is the value of the true successor: of
        the final state where an episode was truncated, else of the next step, which means nothing where it terminated.
    terminated, cut, start, mask: bool ``[T, B, N]``; ``cut``: the trace of advantages stops after this step; ``start``:
        the agent's first step; ``mask``: the slot held an acting agent.
    actor_hidden, critic_hidden: recurrent state at each step, by unit ``[T, B, N_u, H]``; empty if feed-forward.
    expert: what an expert would have done, like ``action``; None if none was asked.
    """

    observation: Tree
    action: Tree
    action_mask: Tree | None
    state: Tree | None
    log_prob: Tensor
    reward: Tensor
    value: Tensor
    next_value: Tensor
    terminated: Tensor
    cut: Tensor
    start: Tensor
    mask: Tensor
    actor_hidden: dict[str, Tensor]
    critic_hidden: dict[str, Tensor]
    expert: Tree | None = None

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


def stack(trees: list[Tree]) -> Tree:
    """T trees of ``[B, ...]`` -> one tree of ``[T, B, ...]``."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: stack([tree[name] for tree in trees]) for name in first}  # type: ignore[index]
    return torch.stack(trees)  # type: ignore[arg-type]


def stretches(tree: Tree, length: int) -> Tree:
    """``[T, B, ...]`` -> ``[length, T / length * B, ...]``: rows of consecutive steps, to back-propagate through."""

    def cut(x: Tensor) -> Tensor:
        steps, copies = x.shape[:2]
        if length == 1:
            return x.reshape(1, steps * copies, *x.shape[2:])
        rows = x.reshape(steps // length, length, copies, *x.shape[2:])
        return rows.transpose(0, 1).reshape(length, -1, *x.shape[2:])

    return map_tree(cut, tree)
