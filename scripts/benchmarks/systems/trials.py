"""What is trained for each check, and what is compared."""

from __future__ import annotations

from typing import NamedTuple


class Arm(NamedTuple):
    """A run: preset of ``miniatures`` and system, and keys with values."""

    preset: str
    system: str
    settings: tuple[str, ...] = ()


class Trial(NamedTuple):
    """A check.

    columns: name -> column of metrics.csv, whose last value counts. paired: (arm, the one it is compared with, column).
    """

    arms: dict[str, Arm]
    columns: dict[str, str]
    paired: tuple[tuple[str, str, str], ...]


_TWO = "world.coverage.agents=2"
TRIALS: dict[str, Trial] = {
    "subpo": Trial(
        arms={
            "marginal gains": Arm("coverage", "subpo"),
            "additive reward": Arm("coverage", "subpo", ("world.coverage.reward=additive",)),
            "released loop": Arm("coverage", "subpo", ("algorithm.weight=published", "algorithm.advantage_norm=false")),
            "gain of the step alone": Arm("coverage", "subpo", ("algorithm.gamma=0",)),
            "two agents, own gains": Arm("coverage", "subpo", (_TWO, "algorithm.agent_index=true")),
        },
        columns={"cells": "evaluation/covered", "entropy": "learn/entropy", "CPU s": "cpu_seconds"},
        paired=(
            ("marginal gains", "additive reward", "cells"),
            ("marginal gains", "released loop", "cells"),
            ("marginal gains", "gain of the step alone", "cells"),
        ),
    ),
}
