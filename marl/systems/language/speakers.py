"""Who speaks for which role, and which of them share weights."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from marl.envs.chat import LanguageWorld
from marl.errors import UserError, nearest
from marl.policies.language.adapters import AdaptedPolicy
from marl.policies.language.base import LanguagePolicy, Speller, TokenModel
from marl.policies.language.hf import HfPolicy
from marl.policies.language.openai import OpenAIPolicy
from marl.policies.language.scripted import ScriptedPolicy
from marl.policies.language.served import ServedPolicy
from marl.policies.language.tiny import TinyPolicy
from marl.policies.language.tokenizer import ChatTokenizer, byte_tokenizer, word_tokenizer
from marl.seeding import Stream, generator
from marl.systems.language.options import (
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

    @property
    def key(self) -> str:
        """One of its roles: which weights of the model are meant."""
        return (self.taught or self.roles)[0]


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
    def spellers(self) -> dict[str, Speller | None]:
        """Role -> how what a demonstrator says for it is put into ids: as the role's own model spells; None: not."""
        own = {
            role: policy.tokenizer
            if isinstance(policy, TinyPolicy)
            else policy
            if isinstance(policy, Speller)
            else None
            for role, policy in self.policies.items()
        }
        return {role: self.tokenizer if speller is None else speller for role, speller in own.items()}

    @property
    def trained(self) -> frozenset[str]:
        return frozenset(role for unit in self.units for role in unit.roles)


def _members(world: LanguageWorld, config: LanguageConfig) -> dict[str, list[str]]:
    """Unit -> the roles that speak with its weights. Raises ``UserError``."""
    for name in [*config.roles, *config.frozen]:
        if name not in world.roles:
            raise UserError(f"algorithm names the role '{name}', which the world has not{nearest(name, world.roles)}")
    members: dict[str, list[str]] = {}
    for role in world.roles:
        members.setdefault(_unit_name(world, config, role), []).append(role)
    return members


_NOBODY_LEARNS = (
    "no role learns: leave one out of algorithm.frozen, and play it by a policy of kind tiny or hf (scripts cannot be "
    "trained, servers only with the weights that they serve: algorithm.policy.weights and publish)"
)


def build_speakers(
    world: LanguageWorld, config: LanguageConfig, seed: int, device: str = "cpu", entry_only: bool = False
) -> Speakers:
    """Policies for all roles. entry_only: only the first role learns. Raises ``UserError``."""
    members = _members(world, config)
    options = {unit: config.roles.get(roles[0], config.policy) for unit, roles in members.items()}
    tiny = next((each for each in options.values() if isinstance(each, TinyPolicyConfig)), None)
    tokenizer = make_tokenizer(world, tiny) if tiny is not None else None
    built: list[tuple[PolicyConfig, LanguagePolicy]] = []
    bodies: dict[str, AdaptedPolicy] = {}
    policies: dict[str, LanguagePolicy] = {}
    units: list[Unit] = []
    frozen: list[Unit] = []
    for unit, roles in members.items():
        chosen = options[unit]
        if isinstance(chosen, TinyPolicyConfig) and chosen.lora_rank is not None:
            body = "body_" + _unit_name(world, config, roles[0], adapters=False)
            if body not in bodies:
                assert tokenizer is not None
                users = [
                    role
                    for role in world.roles
                    if options.get(role) == chosen and _unit_name(world, config, role, adapters=False) == body[5:]
                ]
                bodies[body] = _adapted(world, config, chosen, body, users, tokenizer, seed)
                frozen.append(Unit(body, (), tuple(users), bodies[body].body))
            model: LanguagePolicy = bodies[body]
        elif isinstance(chosen, TinyPolicyConfig):
            assert tokenizer is not None
            model = _tiny(world, config, chosen, unit, tokenizer, seed)
        else:
            # One server, script or frozen body serves all that name it; adapters are its own affair.
            made = next((policy for options_of, policy in built if options_of == chosen), None)
            if made is None:
                users = [role for name, several in members.items() if options[name] == chosen for role in several]
                made = _other(world, config, chosen, users, seed, device)
                built.append((chosen, made))
            model = made
        policies |= dict.fromkeys(roles, model)
        learning = [role for role in roles if role not in config.frozen and (not entry_only or role == world.roles[0])]
        if learning and model.trainable:
            assert isinstance(model, TokenModel)
            taught = () if isinstance(model, AdaptedPolicy) else tuple(roles)  # imitation trains its body
            units.append(Unit(unit, tuple(learning), taught, model))
        elif isinstance(model, TinyPolicy) and not isinstance(model, AdaptedPolicy):
            frozen.append(Unit(unit, (), tuple(roles), model))
    if not units:
        raise UserError(_NOBODY_LEARNS)
    return Speakers(policies, tuple(units), tuple(frozen), tokenizer)


def make_tokenizer(world: LanguageWorld, options: TinyPolicyConfig) -> ChatTokenizer:
    """Of the world's words where its grammar is compact, else of bytes."""
    if world.vocabulary is not None:
        return ChatTokenizer(word_tokenizer(world.vocabulary))
    return ChatTokenizer(byte_tokenizer(world.corpus(), options.vocabulary))


def _unit_name(world: LanguageWorld, config: LanguageConfig, role: str, adapters: bool = True) -> str:
    """Roles with one name share what learns. adapters: an adapter of its own counts as that."""
    options = config.roles.get(role, config.policy)
    learned = not isinstance(options, OpenAIPolicyConfig) or options.weights is not None
    adapted = learned and getattr(options, "lora_rank", None) is not None
    if role in config.roles or config.sharing == "role" or (adapted and adapters):
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


def _adapted(
    world: LanguageWorld,
    config: LanguageConfig,
    options: TinyPolicyConfig,
    name: str,
    roles: list[str],
    tokenizer: ChatTokenizer,
    seed: int,
) -> AdaptedPolicy:
    assert options.lora_rank is not None
    init = generator(seed, Stream.INIT, zlib.crc32(name.encode()))
    limits = (options.max_tokens, config.temperature, world.context)
    return AdaptedPolicy(tokenizer, options.transformer, init, roles, options.lora_rank, *limits)


#: Options of a server that are not for those who ask it.
_HERE = {"kind", "weights", "publish", "reload_url", "lora_rank"}


def served_by(options: OpenAIPolicyConfig, temperature: float) -> OpenAIPolicy:
    """A policy behind a server, for rollouts."""
    return OpenAIPolicy(**options.model_dump(exclude=_HERE), temperature=temperature)


def _other(
    world: LanguageWorld, config: LanguageConfig, options: PolicyConfig, roles: list[str], seed: int, device: str
) -> LanguagePolicy:
    if isinstance(options, HfPolicyConfig):
        given = options.model_dump(exclude={"kind"})
        return HfPolicy(**given, roles=roles, device=device, temperature=config.temperature, seed=seed)
    if isinstance(options, OpenAIPolicyConfig):
        if options.weights is None or options.publish is None:
            return served_by(options, config.temperature)
        given = options.model_dump(exclude=_HERE) | {"temperature": config.temperature}
        given.pop("require_ids")
        local = HfPolicy(options.weights, roles, options.lora_rank, device=device, seed=seed)
        return ServedPolicy(local, roles, options.publish, options.reload_url, **given)
    return ScriptedPolicy(world.expert)
