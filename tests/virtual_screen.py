"""A screen for windows that nobody looks at."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def virtual_screen(program: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``DISPLAY`` names a screen of Xvfb, whose path is ``program``, as long as this lasts."""
    reader, writer = os.pipe()
    process = subprocess.Popen([program, "-displayfd", str(writer), "-screen", "0", "1280x400x24"], pass_fds=(writer,))
    os.close(writer)
    with os.fdopen(reader) as number:
        monkeypatch.setenv("DISPLAY", ":" + number.readline().strip())
    try:
        yield
    finally:
        process.terminate()
        process.wait()
