"""A scenario of the tiny world, for tests of everything that trains; ``tiny_scenario:TINY`` names it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from marl.config import AnyRunConfig, Frozen, resolve
from marl.scenario import Scenario
from marl.systems.registry import SYSTEMS
from marl.testing.worlds import TinyWorld


class TinyConfig(Frozen):
    agents: int = 2
    length: int = 5
    horizon: int = 16
    terminates: bool = False
    mortal: bool = False
    refill: int = 0
    unlike: bool = False
    masks: bool = False
    continuous: bool = False
    observation: Literal["vector", "dict"] = "vector"
    state: Literal["agent", "shared", "none"] = "agent"
    slip: float = 0.0


def make_tiny(config: TinyConfig, copies: int, device: torch.device) -> TinyWorld:
    return TinyWorld(copies, **config.model_dump(), device=device)


TINY = Scenario(
    name="tiny",
    summary="agents on a line walk to their goals",
    config=TinyConfig,
    make=make_tiny,
    instance=lambda config: {"agents": config.agents},
    presets=Path(__file__).parent,
    default_preset="none",
)


class GuardedWorld(TinyWorld):
    """Its supervisor lets nobody go left in every other step (``Resolves``)."""

    def resolve(self, proposed: Tensor, scores: Tensor | None) -> Tensor:
        return torch.where((proposed == 1) & (self.time.unsqueeze(1) % 2 == 0), 0, proposed)


def make_guarded(config: TinyConfig, copies: int, device: torch.device) -> GuardedWorld:
    return GuardedWorld(copies, **config.model_dump(), device=device)


GUARDED = dataclasses.replace(TINY, name="guarded", make=make_guarded)


def tiny_config(system: str = "mappo", **sections: Any) -> AnyRunConfig:
    """A configuration of a small run; keyword arguments are sections or keys of it."""
    options = {"rollout": 16, "actor": {"hidden": [16]}, "critic": {"hidden": [16]}}
    base = {
        "scenario": "tiny_scenario:TINY",
        "system": system,
        "total_steps": 2 * 16 * 8 * 6,
        "copies": 8,
        "coordination": {"guidance": {"enabled": False}},
        "algorithm": {key: options[key] for key in options if key in SYSTEMS[system].config.model_fields},
        "checkpoint": {"every_iterations": 2},
    }
    return resolve(TinyConfig, SYSTEMS[system].config, [base, sections])
