"""The declaration of the scenario: what the platform and the command line know about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from marl.envs.batched import BatchedEnv
from marl.envs.chat import LanguageWorld
from marl.errors import UserError
from marl.scenario import Option, Scenario
from scenarios.miniatures.config import MiniatureConfig
from scenarios.miniatures.coverage import Coverage
from scenarios.miniatures.spelt import Words
from scenarios.miniatures.table import Table
from scenarios.miniatures.words import ROLE, WordsEnv

_PACKAGE = Path(__file__).parent
#: Tokens of a conversation: a question, two refusals or looks, and answers.
_CONTEXT = 96


def _make(config: MiniatureConfig, copies: int, device: torch.device) -> BatchedEnv:
    if config.kind == "coverage":
        return Coverage(config.coverage, copies, device)
    return Words(config.words, config.held_out, copies, device)


def _language(config: MiniatureConfig) -> LanguageWorld:
    if config.kind != "words":
        raise UserError(f"nobody talks in world.kind={config.kind}: use --preset words, or a system such as mappo")
    table = Table(config.words)
    return LanguageWorld(
        roles=(ROLE,),
        levels={ROLE: 0},
        make=lambda: WordsEnv(table, config.held_out),
        expert=table.demonstrated,
        vocabulary=table.vocabulary(),
        corpus=lambda: list(table.vocabulary()),
        context=_CONTEXT,
    )


def _instance(config: MiniatureConfig) -> dict[str, Any]:
    if config.kind == "coverage":
        return {"world": config.kind, "size": config.coverage.size, "agents": config.coverage.agents}
    return {"world": config.kind, "questions": config.words.questions}


def _held_out(config: MiniatureConfig) -> MiniatureConfig:
    return config.model_copy(update={"held_out": True})


SCENARIO = Scenario(
    name="miniatures",
    summary="tiny worlds in which the claims of systems are checked: coverage of a grid, a table of words",
    config=MiniatureConfig,
    make=_make,
    instance=_instance,
    presets=_PACKAGE / "presets",
    default_preset="coverage",
    options=(
        Option("--kind", "world.kind", "which world: coverage or words"),
        Option("--agents", "world.coverage.agents", "agents of coverage"),
    ),
    system="mappo",
    held_out=_held_out,
    language=_language,
    bound=("world.kind", "world.coverage", "world.words"),
)
