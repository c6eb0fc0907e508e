"""The conformance kit: checks for anybody's environments, and the smallest world that passes them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.testing.aec import check_aec
    from marl.testing.batched import check_batched
    from marl.testing.command import cli_check
    from marl.testing.independence import check_independence
    from marl.testing.parallel import check_parallel
    from marl.testing.report import ConformanceError, Finding, Report
    from marl.testing.worlds import TinyWorld

_HOMES = {
    "ConformanceError": "report",
    "Finding": "report",
    "Report": "report",
    "TinyWorld": "worlds",
    "check_aec": "aec",
    "check_batched": "batched",
    "check_independence": "independence",
    "check_parallel": "parallel",
    "cli_check": "command",
}

__all__ = [
    "ConformanceError",
    "Finding",
    "Report",
    "TinyWorld",
    "check_aec",
    "check_batched",
    "check_independence",
    "check_parallel",
    "cli_check",
]


def __getattr__(name: str) -> Any:
    """The public names, loaded when first used: the processes that play PettingZoo environments need no torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"marl.testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'marl.testing' has no attribute '{name}'")
