"""All coordination modules, in the order in which they come after the world.

A further one is a file with a ``ModuleKind`` and its place in ``FURTHER``; ``coordination.modules`` switches it on.
"""

from __future__ import annotations

from collections.abc import Iterator

from marl.config import CoordinationConfig, GuidanceConfig, IntentConfig, SafetyConfig, options_from
from marl.coordination.guidance import Guidance
from marl.coordination.intent import Intent
from marl.coordination.module import Module, ModuleKind, Spaces
from marl.coordination.safety import Safety
from marl.envs.batched import BatchedEnv
from marl.errors import UserError, nearest
from marl.plugins import is_reference, load_reference

#: Modules beside guidance, intent and safety, which have sections of their own in the configuration.
FURTHER: tuple[ModuleKind, ...] = ()


def load_module(name: str) -> ModuleKind:
    """The further module of that name, or the one that ``module:object`` means. Raises ``UserError``.

    Args:
        name: as ``coordination.modules`` has it.
    """
    if is_reference(name):
        return load_reference(name, ModuleKind)
    known = {kind.name: kind for kind in FURTHER}
    if name not in known:
        there = nearest(name, sorted(known)) if known else "; name one of your own as module:object"
        raise UserError(f"coordination.modules names '{name}', which does not exist{there}")
    return known[name]


def build_modules(env: BatchedEnv, config: CoordinationConfig, seed: int) -> tuple[list[Module], Spaces]:
    """The modules of a world that are switched on, and what agents observe with all of them. Raises ``UserError``.

    Args:
        env: the world.
        config: which modules, and their options.
        seed: of what modules learn.
    """
    modules: list[Module] = []
    observed: Spaces = env.spec.observation_space
    for kind, options in _chosen(config):
        module = kind.build(env, observed, options, seed)
        observed = module.observes(observed)
        modules.append(module)
    return modules, observed


def check_modules(config: CoordinationConfig) -> None:
    """Raise ``UserError`` if a module that is named does not exist or does not have these options.

    Args:
        config: which modules, and their options.
    """
    for _ in _chosen(config):
        pass


def _chosen(config: CoordinationConfig) -> Iterator[tuple[ModuleKind, object]]:
    for kind in (GUIDANCE, INTENT):
        options = getattr(config, kind.name)
        if options.enabled:
            yield kind, options
    for name, given in config.modules.items():
        kind = load_module(name)
        yield kind, options_from(kind.config, given, f"coordination.modules.{name}")
    if config.safety.enabled:  # the last word before the world
        yield SAFETY, config.safety


GUIDANCE = ModuleKind("guidance", GuidanceConfig, lambda env, _, options, __: Guidance(env, options.reward_weight))
INTENT = ModuleKind("intent", IntentConfig, Intent)
SAFETY = ModuleKind("safety", SafetyConfig, lambda env, _, options, __: Safety(env, options))
