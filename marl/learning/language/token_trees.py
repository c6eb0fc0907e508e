"""Sequences that share beginnings, packed as trees: each shared token is computed once.

The members of a group answer the same question, and a sub-agent that is asked the same twice often says the same. A
token's log-probability depends on what is before it alone, so all sequences that agree up to a token share it, and the
gradient of a loss that is linear in log-probabilities needs the sum of their weights only. Any other loss of
log-probabilities has a gradient in them, entry by entry, and is linear with that as weights: so packing is exact for it
as well, also where equal texts were sampled by different weights.
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
    the learned tokens. entry: int64 ``[K]``, learned tokens of all sequences of these trees, counted through the rows
    that were packed, one row's after the other's. learned: int64 ``[K]``, which of the M each of them is.
    """

    token: Tensor
    position: Tensor
    mask: Tensor
    at: Tensor
    target: Tensor
    entry: Tensor
    learned: Tensor

    @property
    def places(self) -> int:
        return self.token.numel()

    def summed(self, value: Tensor) -> Tensor:
        """Sums over the sequences through each learned token, float ``[M]``, of ``[E]`` over all rows' tokens."""
        sums = torch.zeros(len(self.at), dtype=torch.float64)
        return sums.index_add_(0, self.learned, value[self.entry].to(torch.float64)).to(torch.float32)


@dataclass(frozen=True)
class TokenRow:
    """One sequence of L tokens; arrays are ``[L]`` and 0 where ``learned`` is False.

    learned: whether the token is learned. weight: its advantage times its share. old: its log-probability when sampled,
    NaN where somebody else chose the token.
    share: its part of a mean over tokens, before division by the normaliser; None: 0, as nothing but the weight counts.
    group, value: of the row: which ones it is compared with, and by what, in losses that compare rows.
    """

    ids: Sequence[int]
    learned: np.ndarray
    weight: np.ndarray
    old: np.ndarray
    share: np.ndarray | None = None
    group: int = 0
    value: float = 0.0


def pack(rows: Sequence[TokenRow], capacity: int, places: int) -> Iterator[TokenTrees]:
    """Trees of at most ``capacity`` tokens (more if one sequence is longer), in batches of at most ``places`` tokens.

    The first token of a sequence cannot be learned. Together the batches hold every learned token of every sequence.
    """
    order = sorted(range(len(rows)), key=lambda i: list(rows[i].ids))
    first = np.cumsum([0, *(int(row.learned.sum()) for row in rows)])
    trees: list[_Tree] = []
    for i in order:
        if not trees or not trees[-1].add(rows[i], int(first[i]), capacity):
            trees.append(_Tree())
            trees[-1].add(rows[i], int(first[i]), 1 << 62)
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
        self._columns: list[tuple[np.ndarray, np.ndarray, int]] = []
        self._last: Sequence[int] = ()
        self._path = np.zeros(0, np.int64)

    def add(self, row: TokenRow, first: int, capacity: int) -> bool:
        """Whether there was room for it. first: number of its first learned token among those of all rows."""
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
        self._columns.append((path, np.flatnonzero(row.learned), first))
        self._last, self._path = ids, path
        return True

    def fill(self, token: np.ndarray, position: np.ndarray, mask: np.ndarray) -> None:
        """Write this tree's row of a batch, ``[S]``, ``[S]`` and ``[S, S]``."""
        count = len(self.token)
        token[:count], position[:count] = self.token, self._position
        for path, shared in self._paths:
            mask[path[shared:, None], path[None, :]] = np.tri(len(path), dtype=bool)[shared:]

    def learned(self) -> tuple[np.ndarray, ...]:
        """Places of the tokens before the learned ones, and of these; entries, and which learned token each is."""
        before = np.full(len(self.token), -1)
        for path, chosen, _ in self._columns:
            before[path[chosen]] = path[chosen - 1]
        found = np.flatnonzero(before >= 0)
        number = np.zeros(len(self.token), np.int64)
        number[found] = np.arange(len(found))
        entry = [np.arange(first, first + len(chosen)) for _, chosen, first in self._columns]
        which = [number[path[chosen]] for path, chosen, _ in self._columns]
        return before[found], found, np.concatenate(entry), np.concatenate(which)


def _stacked(trees: list[_Tree]) -> TokenTrees:
    size = max(len(tree.token) for tree in trees)
    token = np.zeros((len(trees), size), np.int64)
    position = np.zeros((len(trees), size), np.int64)
    # A place that holds nothing sees itself, so that no softmax is over nothing.
    mask = np.repeat(np.eye(size, dtype=bool)[None], len(trees), axis=0)
    at, target, entries, learned = [], [], [], []
    count = 0
    for number, tree in enumerate(trees):
        tree.fill(token[number], position[number], mask[number])
        before, places, entry, which = tree.learned()
        at.append(before + number * size)
        target.append(token[number, places])
        entries.append(entry)
        learned.append(which + count)
        count += len(places)
    flat = (torch.from_numpy(np.concatenate(part)) for part in (at, target, entries, learned))
    return TokenTrees(torch.from_numpy(token), torch.from_numpy(position), torch.from_numpy(mask), *flat)
