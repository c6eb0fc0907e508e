"""Multi-agent simulation and reinforcement learning: one contract, one trainer, worlds of several kinds.

The public face is five functions: ``make`` a world or its PettingZoo face (``parallel_env``), ``train`` in it,
``evaluate`` policies, ``load`` what was trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.api import evaluate, load, make, parallel_env, train

__all__ = ["evaluate", "load", "make", "parallel_env", "train"]


def __getattr__(name: str) -> Any:
    """The public functions, loaded when first used: they bring torch along, which takes seconds."""
    if name in __all__:
        from marl import api

        return getattr(api, name)
    raise AttributeError(f"module 'marl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
