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
_SHIFT, _BAIT = "world.words.shift=1", "world.words.bait=3"
#: Two words, the first of which half the questions hide, and a demonstrator who is mostly right.
_LOOK = ("world.words.look=0.5", "world.words.lengths=[1,1]", "world.words.skill=0.8")
_EPOCHS = "algorithm.epochs=8"
_TOKENS = "total_steps=20_000"
COLUMNS = {
    "sampled": "evaluation/success_sampled",
    "greedy": "evaluation/success_greedy",
    "entropy": "learn/entropy_level_0",
    "pass@8": "episode/solved_groups",
    "tokens": "agent_steps",
    "CPU s": "cpu_seconds",
}
PRICES = (0.0, 0.6)


def words(system: str, *settings: str) -> Arm:
    """A run of words at equal generated tokens."""
    return Arm("words", system, (_TOKENS, *settings))


def against(name: str, other: str) -> tuple[tuple[str, str, str], ...]:
    """What is compared of two runs of words."""
    return tuple((name, other, column) for column in ("sampled", "greedy", "entropy", "pass@8"))


def grid() -> dict[str, Arm]:
    """AdaCoT's penalties."""
    return {
        f"miss {miss}, over {over}": words("adacot", *_LOOK, f"algorithm.miss={miss}", f"algorithm.over={over}")
        for miss in PRICES
        for over in PRICES
    }


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
    "remax": Trial(
        arms={"ReMax": words("remax", _SHIFT), "REINFORCE": words("remax", _SHIFT, "algorithm.baseline=none")},
        columns=COLUMNS,
        paired=against("ReMax", "REINFORCE"),
    ),
    "mathforge": Trial(
        arms={
            "GRPO": words("grpo"),
            "DGPO": words("mathforge"),
            "DGPO, reworded": words("mathforge", "world.words.reworded=true"),
        },
        columns=COLUMNS,
        paired=(*against("DGPO", "GRPO"), *against("DGPO, reworded", "GRPO")),
    ),
    "riskpo": Trial(
        arms={"GRPO": words("grpo"), "RiskPO": words("riskpo")}, columns=COLUMNS, paired=against("RiskPO", "GRPO")
    ),
    "p3o": Trial(
        arms={
            "P3O": words("p3o", _SHIFT),
            "REINFORCE": words("remax", _SHIFT, "algorithm.baseline=none"),
            "P3O, no amounts": words("p3o"),
        },
        columns=COLUMNS,
        paired=(*against("P3O", "REINFORCE"), *against("P3O", "P3O, no amounts")),
    ),
    "trpa": Trial(
        arms={"TRPA": words("trpa", _BAIT), "GRPO": words("grpo", _BAIT)},
        columns=COLUMNS,
        paired=against("TRPA", "GRPO"),
    ),
    "r2vpo": Trial(
        arms={"R2VPO": words("r2vpo"), "clip, 8 epochs": words("grpo", _EPOCHS)},
        columns={**COLUMNS, "price": "learn/price_level_0", "would clip": "learn/would_clip_level_0"},
        paired=against("R2VPO", "clip, 8 epochs"),
    ),
    "infopo": Trial(
        arms={"InfoPO": words("infopo", *_LOOK), "GRPO": words("grpo", *_LOOK)},
        columns={**COLUMNS, "looks": "evaluation/calls_sampled"},
        paired=against("InfoPO", "GRPO"),
    ),
    "adacot": Trial(
        arms=grid(),
        columns={
            "looks": "evaluation/calls_sampled",
            **COLUMNS,
            "missed": "learn/missed",
            "overdone": "learn/overdone",
        },
        paired=(
            ("miss 0.6, over 0.0", "miss 0.0, over 0.0", "looks"),
            ("miss 0.0, over 0.6", "miss 0.0, over 0.0", "looks"),
            ("miss 0.6, over 0.0", "miss 0.0, over 0.6", "sampled"),
        ),
    ),
}
