"""Importing this brings SUMO's compiled library into the process, without libsumo's Python side.

For the process that workers are forked from: what the linker makes, once, of SUMO and its 130 libraries is then shared
by all of them, in memory and in the processor's caches. libsumo's Python side is for each worker to import: it reads
its surroundings when it is imported. Where the library is not found, workers load it themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from pathlib import Path

_found = importlib.util.find_spec("libsumo")
if _found is not None and _found.origin is not None:
    with contextlib.suppress(OSError):
        ctypes.CDLL(str(Path(_found.origin).with_name("_libsumo.so")))
