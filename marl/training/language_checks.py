"""What a language run is told before it begins: settings that cannot train, and settings that train nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from marl.config import AnyRunConfig
from marl.envs.chat import LanguageWorld
from marl.errors import UserError
from marl.systems.language.critic import CriticConfig
from marl.systems.language.speakers import Unit


def check_settings(config: AnyRunConfig) -> None:
    """Raise ``UserError`` unless the copies make whole groups, and for what has no meaning where agents talk."""
    if config.coordination.modules:
        raise UserError("coordination.modules are for worlds of tensors: leave them out where agents talk")
    group = config.algorithm.group
    if config.copies % group:
        raise UserError(f"copies={config.copies} is not a multiple of algorithm.group={group}")


def check_taught(config: AnyRunConfig, world: LanguageWorld) -> None:
    """Raise ``UserError`` if the run would imitate a demonstrator that can show nothing.

    Args:
        config: of the run, which imitates.
        world: what it trains in.
    """
    options = config.algorithm.warm_start
    wanted = [name for name in ("steps", "replay") if getattr(options, name)]
    if world.untaught and wanted:
        off = " and ".join(f"algorithm.warm_start.{name}=0" for name in wanted)
        raise UserError(
            f"{world.untaught}, so that the warm start would teach nothing but giving up: add them, set {off}, or "
            "start from the weights of another run with --init"
        )


def doubts(config: AnyRunConfig, world: LanguageWorld, units: Sequence[Unit]) -> Iterator[str]:
    """Sentences about what will not be learned, or not as it seems, that one should read before the run.

    Args:
        config: of the run.
        world: what it trains in.
        units: the weights that learn.
    """
    options = config.algorithm
    yield from world.cautions
    if options.group == 1 and not isinstance(options, CriticConfig):
        yield (
            "algorithm.group=1 plays every question once, so that no two answers to it can be compared and the first "
            "role has no gradient: take 2 or more"
        )
    for unit in units:
        held = sorted(set(unit.taught) & set(options.frozen))
        if held:
            yield (
                f"algorithm.frozen names {', '.join(held)}, whose weights are those of {', '.join(unit.roles)} and "
                "change with them: choose algorithm.sharing=role"
            )
    if options.warm_start.replay and not options.warm_start.steps and world.untaught == "":
        yield (
            "algorithm.warm_start.replay keeps up what algorithm.warm_start.steps=0 never teaches: give it steps, or "
            "begin with --init"
        )
