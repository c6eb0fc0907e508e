"""Worlds of one process that leave each other alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing

import torch

from marl.envs.batched import BatchedEnv
from marl.envs.random_play import random_actions
from marl.testing.probes import global_generators, scatter, told
from marl.testing.report import Report
from marl.testing.tensors import first_difference
from marl.testing.trace import name_of

Make = Callable[[int], BatchedEnv]

#: Steps of the play beside other worlds.
BESIDE = 60


def check_independence(make: Make, copies: int = 3, seed: int = 0, steps: int = BESIDE) -> Report:
    """Whether worlds of one process leave each other, and everybody's random numbers, alone; part of ``check_batched``.

    Args:
        make: number of copies -> world.
        copies: of each world.
        seed: of the episodes that are compared.
        steps: of each play.

    One world is played alone, then again while others of the same kind are made, reset, played and closed between its
    steps and while the global generators of ``random``, ``numpy`` and ``torch`` are seeded anew. That is what an
    evaluation during training does.
    """
    report = Report(name_of(make))
    try:
        two_worlds(report, make, copies, seed, steps)
    except Exception as error:
        report.add("raises", "two worlds", told(error))
    return report


def two_worlds(report: Report, make: Make, copies: int, seed: int, steps: int) -> None:
    """One world as if alone, and again beside others while the global generators change; faults go to ``report``."""
    with global_generators(seed + 1) as used, closing(make(copies)) as world:
        path = [world.reset(seed)]
        for _ in range(steps):
            path.append(world.step(random_actions(world, path[-1])))
        index = torch.arange(copies, device=world.device)
    report.steps += copies * steps
    if used:
        report.add("global-randomness", "two worlds", f"{' and '.join(used)} drawn from or seeded")
    with global_generators(seed + 2), ExitStack() as stack:
        world, other = (stack.enter_context(closing(make(copies))) for _ in range(2))
        again, view = world.reset(seed), other.reset(seed + 17)
        for t, expected in enumerate(path):
            field = first_difference(expected, again, world.spec, index, index)
            if field:
                where = "reset" if t == 0 else f"step {t}"
                report.add("instances-share-state", where, f"{field} differs while another world is played beside it")
                return
            if t == steps // 2:
                other.close()
                other = stack.enter_context(closing(make(copies)))
                view = other.reset(seed + 17 + t)
            scatter(seed + 100 + t)
            view = other.step(random_actions(other, view))
            again = world.step(random_actions(world, again)) if t < steps else again
