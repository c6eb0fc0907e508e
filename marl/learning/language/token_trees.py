"""Sequences that share beginnings, packed as trees: each shared token is computed once.

The members of a group answer the same question, and a sub-agent that is asked the same twice often says the same. A
token's log-probability depends on what is before it alone, so all sequences that agree up to a token share it, and the
gradient of a loss that is linear in advantages needs their sum only. The clipped surrogate is linear in positive and
in negative advantages each, so two sums per token make the packing exact for it as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenTrees:
    """Some trees side by side, S places each.

    token, position: int64 ``[trees, S]``; position is the depth in the sequence. mask: bool ``[trees, S, S]``, the
    tokens that each one sees: those before it in its sequence, and itself.
    at: int64 ``[M]``, flat places (tree * S + place) of the tokens before the M learned ones. target: int64 ``[M]``,
    the learned tokens. positive, negative: float ``[M]``, sums of the positive and of the negative weights of all
    sequences through the token. count: float ``[M]``, how many these are. old: float ``[M]``, log-probability when
    sampled, NaN where no sequence through the token was sampled.
    """

    token: Tensor
    position: Tensor
    mask: Tensor
    at: Tensor
    target: Tensor
    positive: Tensor
    negative: Tensor
    count: Tensor
    old: Tensor

    @property
    def places(self) -> int:
        return self.token.numel()


@dataclass(frozen=True)
class TokenRow:
    """One sequence of tokens; of each token whether it is learned, its advantage and its log-probability when sampled.

    old: NaN where somebody else chose the token.
    """

    ids: Sequence[int]
    learned: np.ndarray
    weight: np.ndarray
    old: np.ndarray


def pack(rows: Sequence[TokenRow], capacity: int, places: int) -> Iterator[TokenTrees]:
    """Trees of at most ``capacity`` tokens (more if one sequence is longer), in batches of at most ``places`` tokens.

    The first token of a sequence cannot be learned. Together the batches hold every learned token of every sequence.
    """
    order = sorted(range(len(rows)), key=lambda i: list(rows[i].ids))
    trees: list[_Tree] = []
    for i in order:
        if not trees or not trees[-1].add(rows[i], capacity):
            trees.append(_Tree())
            trees[-1].add(rows[i], 1 << 62)
    trees.sort(key=lambda tree: len(tree.token))
    batch: list[_Tree] = []
    for tree in trees:
        if batch and (len(batch) + 1) * len(tree.token) > places:
            yield _stacked(batch)
            batch = []
        batch.append(tree)
    if batch:
        yield _stacked(batch)


class _Tree:
    """A tree that grows by sequences in lexicographic order, so that only the last one's path can be shared."""

    def __init__(self) -> None:
        self.token: list[int] = []
        self._position: list[int] = []
        self._paths: list[tuple[np.ndarray, int]] = []
        self._columns: list[tuple[np.ndarray, TokenRow]] = []
        self._last: Sequence[int] = ()
        self._path = np.zeros(0, np.int64)

    def add(self, row: TokenRow, capacity: int) -> bool:
        """Whether there was room for it."""
        ids = row.ids
        shared = 0
        for a, b in zip(ids, self._last, strict=False):
            if a != b:
                break
            shared += 1
        new = len(ids) - shared
        begin = len(self.token)
        if begin + new > capacity:
            return False
        path = np.concatenate([self._path[:shared], np.arange(begin, begin + new)])
        self.token += ids[shared:]
        self._position += range(shared, len(ids))
        self._paths.append((path, shared))
        self._columns.append((path, row))
        self._last, self._path = ids, path
        return True

    def fill(self, token: np.ndarray, position: np.ndarray, mask: np.ndarray) -> None:
        """Write this tree's row of a batch, ``[S]``, ``[S]`` and ``[S, S]``."""
        count = len(self.token)
        token[:count], position[:count] = self.token, self._position
        for path, shared in self._paths:
            mask[path[shared:, None], path[None, :]] = np.tri(len(path), dtype=bool)[shared:]

    def learned(self, size: int) -> tuple[np.ndarray, ...]:
        """Places of the tokens before the learned ones, the learned ones, their sums, counts and old log-probs."""
        positive, negative, count = (np.zeros(size) for _ in range(3))
        old = np.full(size, np.nan)
        before = np.zeros(size, np.int64)
        for path, row in self._columns:
            chosen = np.flatnonzero(row.learned)
            places, weight = path[chosen], row.weight[chosen]
            # A path visits a place once, so plain indexing adds up rightly.
            positive[places] += np.maximum(weight, 0.0)
            negative[places] += np.minimum(weight, 0.0)
            count[places] += 1.0
            known = ~np.isnan(row.old[chosen])
            old[places[known]] = row.old[chosen[known]]
            before[places] = path[chosen - 1]
        found = np.flatnonzero(count)
        return before[found], found, positive[found], negative[found], count[found], old[found]


def _stacked(trees: list[_Tree]) -> TokenTrees:
    size = max(len(tree.token) for tree in trees)
    token = np.zeros((len(trees), size), np.int64)
    position = np.zeros((len(trees), size), np.int64)
    # A place that holds nothing sees itself, so that no softmax is over nothing.
    mask = np.repeat(np.eye(size, dtype=bool)[None], len(trees), axis=0)
    at, target, rest = [], [], []
    for number, tree in enumerate(trees):
        tree.fill(token[number], position[number], mask[number])
        before, places, *sums = tree.learned(size)
        at.append(before + number * size)
        target.append(token[number, places])
        rest.append(np.stack(sums))
    positive, negative, count, old = torch.from_numpy(np.concatenate(rest, axis=1)).to(torch.float32)
    return TokenTrees(
        torch.from_numpy(token),
        torch.from_numpy(position),
        torch.from_numpy(mask),
        torch.from_numpy(np.concatenate(at)),
        torch.from_numpy(np.concatenate(target)),
        positive,
        negative,
        count,
        old,
    )
