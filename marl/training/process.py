"""Settings of the training process."""

from __future__ import annotations

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP = (1 << 31) - 1


def prepare_process() -> None:
    """One torch thread, and freed memory kept for the next tensor of its size.

    A second thread costs many times what it gains when the machine is busy. Every update allocates the same megabytes
    anew; glibc would give them back to the system each time, and fetching fresh pages took a tenth of the time.
    """
    torch.set_num_threads(1)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_TRIM_THRESHOLD, _KEEP)
            libc.mallopt(_M_MMAP_THRESHOLD, _KEEP)
