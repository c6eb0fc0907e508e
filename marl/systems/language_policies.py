"""Who speaks for which role, and which of them share weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from marl.envs.chat import LanguageWorld
from marl.errors import UserError, nearest
from marl.policies.language.base import LanguagePolicy, TokenModel
from marl.policies.language.scripted import ScriptedPolicy
from marl.policies.language.tiny import TinyPolicy
from marl.policies.language.tokenizer import ChatTokenizer, byte_tokenizer, word_tokenizer
from marl.seeding import Stream, fold_int, generator
from marl.systems.language import (
    HfPolicyConfig,
    LanguageConfig,
    OpenAIPolicyConfig,
    PolicyConfig,
    ScriptedPolicyConfig,
    TinyPolicyConfig,
)


@dataclass(frozen=True)
class Unit:
    """Weights, and the roles that they speak for."""

    name: str
    roles: tuple[str, ...]
    model: TokenModel


@dataclass(frozen=True)
class Speakers:
    """policies: role -> who speaks. units: those that learn. tokenizer: of the tiny models, None without any."""

    policies: Mapping[str, LanguagePolicy]
    units: tuple[Unit, ...]
    tokenizer: ChatTokenizer | None

    @property
    def trained(self) -> frozenset[str]:
        return frozenset(role for unit in self.units for role in unit.roles)


def build_speakers(world: LanguageWorld, config: LanguageConfig, seed: int, entry_only: bool = False) -> Speakers:
    """Policies for all roles. entry_only: only the first role learns. Raises ``UserError``."""
    for name in [*config.roles, *config.frozen]:
        if name not in world.roles:
            raise UserError(f"algorithm names the role '{name}', which the world has not{nearest(name, world.roles)}")
    tokenizer: ChatTokenizer | None = None
    policies: dict[str, LanguagePolicy] = {}
    members: dict[str, list[str]] = {}
    for role in world.roles:
        unit = _unit_name(world, config, role)
        if unit not in members:
            options = config.roles.get(role, config.policy)
            if isinstance(options, TinyPolicyConfig) and tokenizer is None:
                tokenizer = make_tokenizer(world, options)
            policies[role] = _build(world, config, options, unit, tokenizer, seed)
        else:
            policies[role] = policies[members[unit][0]]
        members.setdefault(unit, []).append(role)
    units = []
    for unit, roles in members.items():
        model = policies[roles[0]]
        learning = [role for role in roles if role not in config.frozen and (not entry_only or role == world.roles[0])]
        if learning and model.trainable:
            assert isinstance(model, TokenModel)
            units.append(Unit(unit, tuple(learning), model))
    if not units:
        raise UserError("no role learns: leave one out of algorithm.frozen, or give it a policy that can be trained")
    return Speakers(policies, tuple(units), tokenizer)


def make_tokenizer(world: LanguageWorld, options: TinyPolicyConfig) -> ChatTokenizer:
    """Of the world's words where its grammar is compact, else of bytes."""
    if world.vocabulary is not None:
        return ChatTokenizer(word_tokenizer(world.vocabulary))
    return ChatTokenizer(byte_tokenizer(world.corpus(), options.vocabulary))


def _unit_name(world: LanguageWorld, config: LanguageConfig, role: str) -> str:
    if role in config.roles or config.sharing == "role":
        return role
    return "all" if config.sharing == "all" else f"level_{world.levels[role]}"


def _build(
    world: LanguageWorld,
    config: LanguageConfig,
    options: PolicyConfig,
    unit: str,
    tokenizer: ChatTokenizer | None,
    seed: int,
) -> LanguagePolicy:
    if isinstance(options, ScriptedPolicyConfig):
        return ScriptedPolicy(world.expert)
    if isinstance(options, HfPolicyConfig | OpenAIPolicyConfig):
        raise UserError(f"policy kind '{options.kind}' is not available here")
    assert tokenizer is not None
    number = fold_int(sum(unit.encode()), len(unit))
    return TinyPolicy(
        tokenizer,
        options.transformer,
        generator(seed, Stream.INIT, number),
        options.max_tokens,
        config.temperature,
        world.context,
    )
