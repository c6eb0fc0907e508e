"""The words of the command line: lists, seeds, options of scenarios, files to write."""

# As in ``marl.cli``, nothing that brings torch along is imported before it is needed.

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from marl.errors import UserError, nearest

_MAX_SEEDS = 100_000

#: Options of a scenario (`marl list scenarios` shows them) are not known here; they arrive in the context's rest.
WITH_SCENARIO_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one key of the configuration; repeatable.")
]
PresetOption = Annotated[str | None, typer.Option("--preset", metavar="NAME", help="See 'marl list presets'.")]


class Form(StrEnum):
    """How tables are written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    LATEX = "latex"


FormOption = Annotated[Form, typer.Option("--format", help="How tables are written.")]
TrustOption = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="NAME", help="A module or server that the files of a run may name; repeatable."),
]


def parse_seeds(text: str) -> list[int]:
    """``"0:3"`` is 0, 1, 2; ``"0,1,5"`` is itself; the two may be mixed. Raises ``UserError``."""
    seeds: list[int] = []
    for word in text.split(","):
        first, colon, last = word.strip().partition(":")
        bounds = [first, last] if colon else [first]
        if not all(bound.isascii() and bound.isdecimal() and len(bound) <= 10 for bound in bounds):
            raise UserError(f"--seeds '{text}' must look like 0:16 or 0,1,5")
        low, high = int(first), int(last) if colon else int(first) + 1
        if not low < high <= low + _MAX_SEEDS:
            raise UserError(f"--seeds '{text}': {word.strip()} must name 1 to {_MAX_SEEDS:,} seeds")
        seeds += range(low, high)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds '{text}' names a seed twice")
    return seeds


def listed_words(text: str, flag: str) -> list[str]:
    words = [word.strip().rstrip("/") or word.strip() for word in text.split(",")]
    if not all(words):
        raise UserError(f"{flag} '{text}' has an empty name between its commas")
    return words


def policy_words(text: str) -> list[str]:
    """Policies by name; that of a served model, ``openai:URL,MODEL``, holds a comma itself."""
    words = iter(listed_words(text, "--policies"))
    return [f"{word},{next(words, '')}" if word.startswith("openai:") else word for word in words]


def named(scenario: str | None, command: str) -> str:
    from marl.scenario import scenario_names

    if scenario is None:
        raise UserError(f"which scenario? For example: marl {command} {next(iter(scenario_names()), 'SCENARIO')}")
    return scenario


def scenario_options(context: typer.Context, scenario: str, lists: bool = False) -> dict[str, Any]:
    """The words that the command did not know, as options of the scenario by their Python names.

    Args:
        lists: a value with commas is a list of values, unless one value of that option is a list or mapping by
            itself.
    """
    from marl.scenario import load_scenario
    from marl.yaml_io import parse_scalar

    found = load_scenario(scenario)
    declared = found.options
    flags = [option.flag for option in declared]
    switches = [option.flag for option in declared if option.switch]
    pairs = [option.flag for option in declared if option.pairs]
    compound = [option.flag for option in declared if found.is_compound(option.key)]
    known = flags + [flag for parameter in context.command.params for flag in parameter.opts if flag.startswith("--")]
    options: dict[str, Any] = {}
    words = list(context.args)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if not flag.startswith("-"):
            raise UserError(f"unexpected word '{word}': options come as --name VALUE")
        if flag not in flags:
            hint = _set_instead(scenario, flag) or nearest(flag, known)
            raise UserError(f"'marl {context.info_name} {scenario}' has no option '{flag}'{hint}")
        if not equals:
            if words and not words[0].startswith("--"):
                value = words.pop(0)
            elif flag in switches:
                value = "true"
            else:
                raise UserError(f"option {flag} needs a value")
        name = flag.removeprefix("--").replace("-", "_")
        if flag in pairs:
            key, equals, value = value.partition("=")
            if not equals or not key:
                raise UserError(f"option {flag} takes KEY=VALUE, not '{key}'")
            if key in options.setdefault(name, {}):
                raise UserError(f"option {flag} gives '{key}' twice")
            options[name][key] = parse_scalar(value, flag)
            continue
        if name in options:
            raise UserError(f"option {flag} is given twice")
        several = lists and flag not in compound and "," in value and value[:1] not in ("[", "{", '"', "'")
        options[name] = (
            [parse_scalar(part, flag) for part in listed_words(value, flag)] if several else parse_scalar(value, flag)
        )
    return options


def _set_instead(scenario: str, flag: str) -> str:
    """Of a flag that is no option but the name of a key: how keys are set."""
    from marl.explain import Explained

    name = flag.removeprefix("--").replace("-", "_")
    keys = [key.name for key in Explained(scenario).tree() if name in (key.name, key.name.rpartition(".")[2])]
    return f"; write --set {keys[0]}=VALUE" if keys else ""


def check_writable(*paths: Path | None) -> None:
    """Find out before the work is done, not after."""
    for path in paths:
        if path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
            raise UserError(f"{path} cannot be written: name a file in a folder that exists and may be written to")
