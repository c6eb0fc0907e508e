"""Runs that die in the middle, for tests that go on with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from marl.training.tracking import Tracker


@contextmanager
def dying_after(iterations: int) -> Iterator[None]:
    """What trains in here dies, as if killed, when the given number of iterations has been logged."""
    log = Tracker.log

    def dying(self: Tracker, figures: Any) -> None:
        log(self, figures)
        if figures["iteration"] == iterations:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Tracker, "log", dying)
        yield
