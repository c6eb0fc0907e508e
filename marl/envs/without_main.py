"""Worker processes for scripts that have no ``if __name__ == "__main__":``.

A process that is not forked from its owner runs the owner's script anew, for what it was sent may be defined there. A
script without the guard would then start workers of its own in every worker. What is sent says whether it needs that.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

#: The mend of a script whose own classes or functions are sent to workers.
GUARD = "write the lines of the script that start it below: if __name__ == '__main__':"


def needs_main(pickled: bytes) -> bool:
    """Whether a pickled object is made of something that is defined in the script that runs."""
    return b"__main__" in pickled


@contextmanager
def without_main(hidden: bool) -> Iterator[None]:
    """Within it, processes that are started do not run the script again, if ``hidden``."""
    main = sys.modules.get("__main__")
    if not hidden or main is None:
        yield
        return
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def check_guarded() -> None:
    """End a worker that came here by running its owner's script: without a word, for the owner says why."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)


def start_mend(pickled: bytes) -> str:
    """What may be done where a worker left before its first word."""
    return f"; if the script has no guard, {GUARD}" if needs_main(pickled) else ""
