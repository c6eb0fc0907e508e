"""``marl explain``: what configuration keys mean, and where their values came from."""

# Functions that do the work are imported where they are called: they bring torch along.

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marl.cli_words import PresetOption, SetOption, TrustOption, scenario_options
from marl.commands.output import line
from marl.errors import UserError, nearest
from marl.plugins import file_hint, is_reference, trust

#: Where the meanings of keys stand, at the most.
_COLUMN = 44

if TYPE_CHECKING:
    from marl.explain import Key


def explain(
    context: typer.Context,
    scenario: Annotated[
        str | None,
        typer.Argument(
            metavar="[SCENARIO] [KEY]",
            help="Whose configuration (without it, the platform's keys), and a key, such as coordination.intent.rounds "
            "(without it, all).",
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="NAME", help="See 'marl list systems'.")] = None,
    preset: PresetOption = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="A YAML configuration file.")] = None,
    set_: SetOption = None,
    trusted: TrustOption = None,
) -> None:
    """Say what a key of the configuration means, its type, range and default, and where its value came from."""
    from marl.explain import Explained
    from marl.scenario import load_scenario

    trust(*(trusted or []))
    name, wanted = _told_apart(scenario, _key(context.args))
    if name is None:
        if preset is not None or config is not None or set_ or context.args:
            raise UserError("values belong to a scenario: marl explain SCENARIO [KEY] --preset ... --set ...")
        explained = Explained(system=system)
        flags = {}
    else:
        options = scenario_options(context, name)
        explained = Explained(name, preset=preset, config=config, system=system, options=options, overrides=set_ or [])
        flags = {option.key: option.flag for option in load_scenario(name).options}
    found = explained.tree() if wanted is None else explained.key(wanted)
    if wanted is not None and len(found) == 1:
        _show_key(found[0], flags.get(wanted, ""))
        return
    rows = [_assignment(one) for one in found]
    width = min(max(map(len, rows)), _COLUMN)
    for one, row in zip(found, rows, strict=True):
        note = f"{one.meaning} [{one.source}]" if one.source else one.meaning
        line(f"{row:{width}}  # {note}" if note else row)


def _key(words: list[str]) -> str | None:
    """The key among the words that the command did not know, taken out of them: the first or the last one, where that
    is no option and no value of one."""
    for place in (0, len(words) - 1):
        after_flag = place > 0 and words[place - 1].startswith("-") and "=" not in words[place - 1]
        if words and not words[place].startswith("-") and not after_flag:
            return words.pop(place)
    return None


def _told_apart(first: str | None, second: str | None) -> tuple[str | None, str | None]:
    """(scenario, key) of one or two words: a word that is a section of the configuration is a key."""
    from marl.config import RunConfig
    from marl.scenario import scenario_names

    if first is None or second is not None:
        return first, second
    sections = [*RunConfig.model_fields]
    if first.partition(".")[0] in sections:
        return None, first
    if is_reference(first) or first in scenario_names():
        return first, None
    known = [*scenario_names(), *sections]
    hint = file_hint(first) or nearest(first, known)
    raise UserError(f"'{first}' is neither a scenario nor a key of the configuration{hint}")


def _assignment(key: Key) -> str:
    """A key by its depth and its value or default, as YAML has it; ``?`` where it has to be given."""
    value = key.value if key.source else "?" if key.default is None else key.default
    return f"{'  ' * key.depth}{key.name.rpartition('.')[2]}:{'' if key.inner else f' {value}'}"


def _show_key(key: Key, flag: str) -> None:
    rows = {
        "meaning": key.meaning,
        "type": key.kind,
        "range": key.limits,
        "default": "none: it has to be given" if key.default is None else key.default,
        "value": key.value,
        "from": key.source,
        "option": flag,
    }
    line(key.name)
    for name, text in rows.items():
        if text:
            line(f"  {name:8} {text}")
