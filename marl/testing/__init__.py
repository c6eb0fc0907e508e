"""The conformance kit: checks for anybody's environments, and the smallest world that passes them."""

from marl.testing.aec import check_aec
from marl.testing.batched import check_batched
from marl.testing.command import cli_check
from marl.testing.parallel import check_parallel
from marl.testing.report import ConformanceError, Finding, Report
from marl.testing.worlds import TinyWorld

__all__ = [
    "ConformanceError",
    "Finding",
    "Report",
    "TinyWorld",
    "check_aec",
    "check_batched",
    "check_parallel",
    "cli_check",
]
