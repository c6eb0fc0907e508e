"""Who drives in front of whom: tables of the nearest cars on each lane."""

from __future__ import annotations

import numpy as np

from marl.compiled import njit
from scenarios.cav_merging.twin.arrays import Flags, Floats, Ints


@njit(error_model="numpy")
def neighbours_copy(x: Floats, lane: Ints, present: Flags, order: Ints, last: Ints, lead: Ints, follow: Ints) -> int:
    """Sort ``order`` by falling x (insertion sort: it is nearly sorted) and fill lead, follow ``[V, L]`` (-1: none).

    lead[i, l] is the nearest car on lane l in front of car i, follow[i, l] the nearest one behind; of two cars at the
    same x, the one with the smaller number counts as in front. Returns the number of cars; they lead ``order``.
    """
    slots, lanes = lead.shape
    for r in range(1, slots):
        i = order[r]
        s = r - 1
        while s >= 0:
            j = order[s]
            if present[i]:
                before = not present[j] or x[i] > x[j] or (x[i] == x[j] and i < j)
            else:
                before = not present[j] and i < j
            if not before:
                break
            order[s + 1] = j
            s -= 1
        order[s + 1] = i
    for k in range(lanes):
        last[k] = -1
    count = 0
    for r in range(slots):
        i = order[r]
        if not present[i]:
            break
        count += 1
        for k in range(lanes):
            lead[i, k] = last[k]
        last[lane[i]] = i
    for r in range(count, slots):
        for k in range(lanes):
            lead[order[r], k] = -1
            follow[order[r], k] = -1
    for k in range(lanes):
        last[k] = -1
    for r in range(count - 1, -1, -1):
        i = order[r]
        for k in range(lanes):
            follow[i, k] = last[k]
        last[lane[i]] = i
    return count


@njit(error_model="numpy")
def neighbours(x: Floats, lane: Ints, present: Flags, order: Ints, lead: Ints, follow: Ints) -> None:
    """``neighbours_copy`` for all copies: lead, follow ``[B, V, L]``."""
    last = np.empty(lead.shape[2], np.int64)
    for b in range(x.shape[0]):
        neighbours_copy(x[b], lane[b], present[b], order[b], last, lead[b], follow[b])
