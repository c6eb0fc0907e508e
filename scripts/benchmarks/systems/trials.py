"""What is trained for each check, and what is compared."""

from __future__ import annotations

from typing import NamedTuple


class Arm(NamedTuple):
    """A run: world and system as ``marl train`` takes them, and keys with values."""

    world: str
    system: str
    settings: tuple[str, ...] = ()


class Trial(NamedTuple):
    """A check.

    columns: name -> column of metrics.csv, whose last value counts. paired: (arm, the one it is compared with, column).
    """

    arms: dict[str, Arm]
    columns: dict[str, str]
    paired: tuple[tuple[str, str, str], ...]


TRIALS: dict[str, Trial] = {}
