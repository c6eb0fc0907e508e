"""Who speaks for which role, and which of them share weights."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from marl.envs.chat import LanguageWorld
from marl.errors import UserError, nearest
from marl.policies.language.base import LanguagePolicy, TokenModel
from marl.policies.language.hf import HfPolicy
from marl.policies.language.openai import OpenAIPolicy
from marl.policies.language.scripted import ScriptedPolicy
from marl.policies.language.tiny import TinyPolicy
from marl.policies.language.tokenizer import ChatTokenizer, byte_tokenizer, word_tokenizer
from marl.seeding import Stream, generator
from marl.systems.language import (
    HfPolicyConfig,
    LanguageConfig,
    OpenAIPolicyConfig,
    PolicyConfig,
    TinyPolicyConfig,
)


@dataclass(frozen=True)
class Unit:
    """Weights, and the roles that they speak for. roles: those that learn. taught: those that a warm start shows how to
    speak, which a small model needs also where it is frozen afterwards."""

    name: str
    roles: tuple[str, ...]
    taught: tuple[str, ...]
    model: TokenModel


@dataclass(frozen=True)
class Speakers:
    """policies: role -> who speaks. units: those that learn. frozen: those that are only shown how to speak.

    tokenizer: of the tiny models, None without any.
    """

    policies: Mapping[str, LanguagePolicy]
    units: tuple[Unit, ...]
    frozen: tuple[Unit, ...]
    tokenizer: ChatTokenizer | None

    @property
    def trained(self) -> frozenset[str]:
        return frozenset(role for unit in self.units for role in unit.roles)


def build_speakers(
    world: LanguageWorld, config: LanguageConfig, seed: int, device: str = "cpu", entry_only: bool = False
) -> Speakers:
    """Policies for all roles. entry_only: only the first role learns. Raises ``UserError``."""
    for name in [*config.roles, *config.frozen]:
        if name not in world.roles:
            raise UserError(f"algorithm names the role '{name}', which the world has not{nearest(name, world.roles)}")
    members: dict[str, list[str]] = {}
    for role in world.roles:
        members.setdefault(_unit_name(world, config, role), []).append(role)
    options = {unit: config.roles.get(roles[0], config.policy) for unit, roles in members.items()}
    tiny = next((each for each in options.values() if isinstance(each, TinyPolicyConfig)), None)
    tokenizer = make_tokenizer(world, tiny) if tiny is not None else None
    built: dict[PolicyConfig, LanguagePolicy] = {}
    policies: dict[str, LanguagePolicy] = {}
    units: list[Unit] = []
    frozen: list[Unit] = []
    for unit, roles in members.items():
        chosen = options[unit]
        if isinstance(chosen, TinyPolicyConfig):
            assert tokenizer is not None
            model: LanguagePolicy = _tiny(world, config, chosen, unit, tokenizer, seed)
        else:
            # One server, script or frozen body serves all that name it; adapters are its own affair.
            if chosen not in built:
                users = [role for name, several in members.items() if options[name] == chosen for role in several]
                built[chosen] = _other(world, config, chosen, users, seed, device)
            model = built[chosen]
        policies |= dict.fromkeys(roles, model)
        learning = [role for role in roles if role not in config.frozen and (not entry_only or role == world.roles[0])]
        if learning and model.trainable:
            assert isinstance(model, TokenModel)
            units.append(Unit(unit, tuple(learning), tuple(roles), model))
        elif isinstance(model, TinyPolicy):
            frozen.append(Unit(unit, (), tuple(roles), model))
    if not units:
        raise UserError(
            "no role learns: leave one out of algorithm.frozen, and play it by a policy of kind tiny or hf (servers "
            "and scripts cannot be trained from here)"
        )
    return Speakers(policies, tuple(units), tuple(frozen), tokenizer)


def make_tokenizer(world: LanguageWorld, options: TinyPolicyConfig) -> ChatTokenizer:
    """Of the world's words where its grammar is compact, else of bytes."""
    if world.vocabulary is not None:
        return ChatTokenizer(word_tokenizer(world.vocabulary))
    return ChatTokenizer(byte_tokenizer(world.corpus(), options.vocabulary))


def _unit_name(world: LanguageWorld, config: LanguageConfig, role: str) -> str:
    """Roles with one name share what learns."""
    options = config.roles.get(role, config.policy)
    adapters = isinstance(options, HfPolicyConfig) and options.lora_rank is not None
    if role in config.roles or config.sharing == "role" or adapters:
        return role
    return "all" if config.sharing == "all" else f"level_{world.levels[role]}"


def _tiny(
    world: LanguageWorld,
    config: LanguageConfig,
    options: TinyPolicyConfig,
    unit: str,
    tokenizer: ChatTokenizer,
    seed: int,
) -> TinyPolicy:
    init = generator(seed, Stream.INIT, zlib.crc32(unit.encode()))
    return TinyPolicy(tokenizer, options.transformer, init, options.max_tokens, config.temperature, world.context)


def _other(
    world: LanguageWorld, config: LanguageConfig, options: PolicyConfig, roles: list[str], seed: int, device: str
) -> LanguagePolicy:
    given = options.model_dump(exclude={"kind"})
    if isinstance(options, HfPolicyConfig):
        return HfPolicy(**given, roles=roles, device=device, temperature=config.temperature, seed=seed)
    if isinstance(options, OpenAIPolicyConfig):
        return OpenAIPolicy(**given, temperature=config.temperature)
    return ScriptedPolicy(world.expert)
