"""What a configuration key means, which values it takes, and where its value came from: ``marl explain``.

Types, ranges and descriptions are those of the schema that every configuration is checked against.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marl.config import Frozen, RunConfig, laid, resolve, run_config_model
from marl.config_errors import shown
from marl.configuration import run_layers, system_of
from marl.errors import UserError, nearest
from marl.scenario import Scenario, load_scenario
from marl.systems.registry import load_system

_WORDS = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
_LOWER, _UPPER = {"minimum": ">=", "exclusiveMinimum": ">"}, {"maximum": "<=", "exclusiveMaximum": "<"}

#: Keys in one another that are looked through.
_DEEPEST = 8

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    name: with dots, such as ``coordination.intent.rounds``. meaning: its description. kind: its type in words.
    limits: the range of its values; empty without one. default: as it is written; None: it has to be given.
    value, source: of the configuration at hand, and what set it; empty where there is none. inner: it holds further
    keys.
    """

    name: str
    meaning: str
    kind: str
    limits: str
    default: str | None
    value: str
    source: str
    inner: bool

    @property
    def depth(self) -> int:
        """How many keys it lies within."""
        return self.name.count(".")


class Explained:
    """The tree of keys, of the platform alone or of one configuration of a scenario.

    Args:
        scenario: whose configuration it is; None: the platform's keys, without values.
        preset, config, system, options, overrides: as ``marl.api.configure`` takes them.

    Raises ``UserError`` for whatever is wrong with them.
    """

    def __init__(
        self,
        scenario: str | None = None,
        *,
        preset: str | None = None,
        config: Path | str | None = None,
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
        overrides: Sequence[str] = (),
    ):
        self._scenario: Scenario | None = None
        self._values: Any = None
        self._followed: Any = None
        self._origin: Mapping[tuple[str, ...], str] = {}
        if scenario is None:
            model = RunConfig[Any, Any] if system is None else run_config_model(Frozen, load_system(system).config)
        else:
            self._scenario = found = load_scenario(scenario)
            layers = run_layers(
                scenario, preset=preset, config=config, system=system, options=options, overrides=overrides
            )
            chosen = system_of(layers)
            resolved = resolve(found.config, chosen.config, layers)
            self._origin = laid(layers)[1]
            world = found.coordinated(resolved.world, resolved.coordination)
            self._values = resolved.model_dump(mode="json")
            self._followed = resolved.model_copy(update={"world": world}).model_dump(mode="json")
            self._system = chosen.name
            model = run_config_model(found.config, chosen.config)
        self._schema: Schema = model.model_json_schema(mode="validation")

    def tree(self) -> list[Key]:
        """All keys in the order of the schema, each before those it holds."""
        return list(self._below((), self._schema, self._values))

    def key(self, name: str) -> list[Key]:
        """One key, followed by those it holds. Raises ``UserError`` with the nearest one if there is none."""
        known = self.tree()
        found = [key for key in known if key.name == name or key.name.startswith(f"{name}.")]
        if not found:
            if name in (elsewhere := dict(self._of_all_kinds((), self._schema))):
                raise UserError(f"'{name}' is a key only with {elsewhere[name]}")
            part = "world and algorithm are those of a scenario: marl explain SCENARIO KEY"
            hint = f"; {part}" if self._scenario is None and name.startswith(("world", "algorithm")) else ""
            raise UserError(f"there is no key '{name}'{hint or nearest(name, [key.name for key in known])}")
        return found

    def _below(self, path: tuple[str, ...], schema: Schema, values: Any) -> Iterator[Key]:
        for name, field in schema.get("properties", {}).items():
            here = (*path, name)
            value = values.get(name) if isinstance(values, Mapping) else None
            arms = self._arms(field)
            model = self._model(arms, value, field.get("default"))
            yield self._key(here, field, arms, value, model is not None)
            if model is not None:
                yield from self._below(here, model, value)

    def _key(self, path: tuple[str, ...], field: Schema, arms: Sequence[Schema], value: Any, inner: bool) -> Key:
        followed = self._followed
        for name in path:
            followed = followed.get(name) if isinstance(followed, Mapping) else None
        return Key(
            name=".".join(path),
            meaning=" ".join(str(field.get("description") or self._about(arms)).split()),
            kind=" or ".join(dict.fromkeys(map(self._kind, arms))),
            limits=" or ".join(dict.fromkeys(filter(None, map(_limits, arms)))),
            default=_written(field["default"]) if "default" in field and not inner else None,
            value="" if self._scenario is None or inner else _written(followed),
            source="" if self._scenario is None or inner else self._source(path, value, followed),
            inner=inner,
        )

    def _source(self, path: tuple[str, ...], value: Any, followed: Any) -> str:
        """What set the value of a key: a file, a word of the command, or a default."""
        assert self._scenario is not None
        if value != followed:
            return "follows from coordination"
        for length in range(len(path), 0, -1):
            source = self._origin.get(path[:length])
            if source is not None and (length == len(path) or not self._sets_deeper(path[:length])):
                presets = {str(self._scenario.presets / f"{name}.yaml"): name for name in self._scenario.preset_names()}
                chosen = {"the defaults": f"default of scenario {self._scenario.name}"} | {
                    path: f"preset {name}" for path, name in presets.items()
                }
                return chosen.get(source, source)
        owner = {"world": f"scenario {self._scenario.name}", "algorithm": f"system {self._system}"}
        return f"default of {owner.get(path[0], 'the platform')}"

    def _sets_deeper(self, path: tuple[str, ...]) -> bool:
        """Whether a mapping was set key by key, so that what it leaves out keeps its default."""
        return any(len(known) > len(path) and known[: len(path)] == path for known in self._origin)

    def _of_all_kinds(self, path: tuple[str, ...], schema: Schema, kind: str = "") -> Iterator[tuple[str, str]]:
        """Every key that there is with some kind of something, and which kind that is."""
        for name, field in schema.get("properties", {}).items():
            here = (*path, name)
            yield ".".join(here), kind
            for arm in self._arms(field):
                if "properties" in arm and len(here) < _DEEPEST:
                    tags = f"{'.'.join(here)}.kind={_tags(arm)[0]}" if _tags(arm) else f"{'.'.join(here)} as a mapping"
                    yield from self._of_all_kinds(here, arm, tags)

    # Schema

    def _resolved(self, node: Schema) -> Schema:
        while "$ref" in node:
            node = self._schema["$defs"][node["$ref"].rpartition("/")[2]]
        return node

    def _arms(self, field: Schema) -> list[Schema]:
        """The forms that a value may take; one unless it is a union."""
        node = self._resolved(field)
        several = node.get("anyOf") or node.get("oneOf") or node.get("allOf")
        if several is None:
            return [node]
        return [arm for one in several for arm in self._arms(one)]

    def _model(self, arms: Sequence[Schema], value: Any, default: Any) -> Schema | None:
        """Of the forms that are mappings of known keys the one that the value, or else the default, has."""
        models = [arm for arm in arms if "properties" in arm]
        given = value if value is not None else default
        if self._scenario is not None and not isinstance(value, Mapping):
            return None
        kind = given.get("kind") if isinstance(given, Mapping) else None
        fitting = [arm for arm in models if kind is not None and kind in _tags(arm)]
        return next(iter(fitting or models), None)

    def _about(self, arms: Sequence[Schema]) -> str:
        """The first sentence of a section's model."""
        text = next((str(arm["description"]) for arm in arms if "description" in arm), "")
        return text.partition("\n")[0]

    def _kind(self, arm: Schema) -> str:
        if "enum" in arm or "const" in arm:
            return "one of " + ", ".join(map(str, arm.get("enum", [arm.get("const")])))
        if "properties" in arm:
            tags = _tags(arm)
            return f"keys of kind {tags[0]}" if tags else "keys"
        if arm.get("type") == "array":
            items = [one for part in arm.get("prefixItems", [arm.get("items", {})]) for one in self._arms(part)]
            return "list of " + " or ".join(dict.fromkeys(map(self._kind, items)))
        if arm.get("type") == "object":
            return "mapping"
        return "path" if arm.get("format") == "path" else _WORDS.get(str(arm.get("type")), "keys")


def _tags(arm: Schema) -> list[str]:
    kind = arm.get("properties", {}).get("kind", {})
    return [str(tag) for tag in kind.get("enum", [kind["const"]] if "const" in kind else [])]


def _limits(arm: Schema) -> str:
    """A range such as ``>= 0 and < 1``; for a list that of its items."""
    if arm.get("type") == "array" and isinstance(arm.get("items"), Mapping):
        return _limits(arm["items"])
    bounds = [f"{sign} {arm[name]:,}" for name, sign in {**_LOWER, **_UPPER}.items() if name in arm]
    return " and ".join(bounds)


def _written(value: Any) -> str:
    """A value as it is written in YAML, on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, str) else shown(value)
