"""The pool that a user asks for in a word: ``processes``, ``ray``, ``ray://HOST:PORT`` or ``none``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from marl.envs.pool_base import Pool
from marl.envs.ray_pool import RayPool
from marl.envs.worker_process import Simulator
from marl.envs.workers import WorkerPool

#: What may be asked for, as a pattern; the second for simulators that need a process of their own.
PLACES = r"^(processes|none|ray|ray://[^/:\s]+:\d{1,5})$"
APART = r"^(processes|ray|ray://[^/:\s]+:\d{1,5})$"


def make_pool(
    factory: Callable[[], Simulator],
    copies: int,
    workers: int,
    where: str = "processes",
    *,
    timeout_s: float = 60.0,
    preload: Sequence[str] = (),
) -> Pool:
    """B simulators behind arrays; the results are the same everywhere.

    Args:
        factory: makes one simulator.
        copies: B.
        workers: how many processes or actors share them; 0 is ``none``.
        where: ``processes`` of this machine (``WorkerPool``); ``none``, the owner's own process; ``ray``, actors of the
            cluster of RAY_ADDRESS, or else of this machine; ``ray://HOST:PORT``, actors of that cluster (``RayPool``).
        timeout_s: the longest that a call may take before a worker is replaced.
        preload: modules that worker processes are forked with.

    Raises:
        UserError: the workers cannot be had.
    """
    if where.startswith("ray"):
        return RayPool(factory, copies, max(1, workers), where, timeout_s=timeout_s)
    return WorkerPool(factory, copies, 0 if where == "none" else workers, timeout_s=timeout_s, preload=preload)
