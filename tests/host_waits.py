"""Counts when the host would have to wait for a device: values that are read, shapes that depend on data.

It works on the CPU too, where nobody waits, so that continuous integration sees what a GPU would suffer from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Operators whose result the host needs before it can go on.
_WAITING = (
    "_local_scalar_dense",
    "is_nonzero",
    "item",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "repeat_interleave.Tensor",
)


class HostWaits(TorchDispatchMode):
    """Notes every such operator, and indexing by flags, which looks for the set ones first.

    ``counts``: by the operator's name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func).removeprefix("aten.")
        if name.startswith(tuple(f"{waiting}." for waiting in _WAITING)) or name in _WAITING:
            self.counts[name] += 1
        if name.startswith(("index.", "index_put", "_unsafe_index")):
            flags = [x for x in args[1] if isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8)]
            self.counts["index by flags"] += len(flags)
        return func(*args, **(kwargs or {}))


def host_waits(work: Callable[[], object]) -> dict[str, int]:
    """What ``work`` would wait for, by operator; empty if nothing."""
    with HostWaits() as seen:
        work()
    return {name: count for name, count in seen.counts.items() if count}
