"""Global random numbers as if every simulator had them for itself. Free of torch, for worker processes.

Some environments draw from the global generators of ``random``, ``numpy`` or ``torch``, or seed them. Several of them
in one process then influence each other, and whoever else draws there. Around each call of one of them its own states
are swapped in, and those of the process come back afterwards.
"""

from __future__ import annotations

import random
import sys
from typing import Any, ClassVar

import numpy as np
from numpy.random import mtrand


class OwnRandomness:
    """A context in which the global generators are this object's own; they go on where the last such context ended."""

    #: Whose states are in the generators of a process that nobody else uses.
    _holder: ClassVar[OwnRandomness | None] = None
    _nobody_else: ClassVar[bool] = False

    def __init__(self) -> None:
        # numpy exchanges the generator itself, which costs a hundredth of copying its state.
        self._numpy: Any = np.random.MT19937(0)
        self._python = random.Random(0).getstate()
        self._torch: Any = None
        self._outside: tuple[Any, Any, Any] = (None, None, None)

    @classmethod
    def take_process(cls) -> None:
        """Nobody else draws in this process: what was there need not come back, which saves half of the time."""
        cls._nobody_else = True

    def seed(self, seed: int) -> None:
        """Start anew: what is drawn from now on is a function of ``seed``. Call it inside the context."""
        np.random.seed(seed & 0xFFFFFFFF)
        random.seed(seed)
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.default_generator.manual_seed(seed)

    def __enter__(self) -> OwnRandomness:
        if not self._nobody_else:
            self._outside = _states()
            self._swap_in()
        elif OwnRandomness._holder is not self:
            if OwnRandomness._holder is not None:
                OwnRandomness._holder._keep()
            OwnRandomness._holder = self
            self._swap_in()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._nobody_else:
            self._keep()
            _put(*self._outside)

    def _swap_in(self) -> None:
        _put(self._numpy, self._python, self._torch)

    def _keep(self) -> None:
        self._numpy, self._python, self._torch = _states()


def _states() -> tuple[Any, Any, Any]:
    torch = sys.modules.get("torch")
    return mtrand.get_bit_generator(), random.getstate(), None if torch is None else torch.get_rng_state()


def _put(generator: Any, python: Any, tensors: Any) -> None:
    mtrand.set_bit_generator(generator)
    random.setstate(python)
    if tensors is not None:  # None: torch was not loaded then.
        sys.modules["torch"].set_rng_state(tensors)
