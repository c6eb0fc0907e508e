"""Arguments of a call against the JSON schema of its tool: read in its types, and refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jsonschema

if TYPE_CHECKING:
    from scenarios.agent_hierarchy.tools import Tool

#: What does not fit, in a few words.
Misfit = str
_MAX_DIGITS = 9
_MAX_REASON = 200
_NO_VALUE = object()


def fitted(tool: Tool, arguments: Mapping[str, Any], bare: bool = False) -> dict[str, Any] | Misfit:
    """The arguments in the types that the tool's schema asks for, or why they do not fit.

    Texts become numbers and numbers texts where the schema takes nothing else: models write ``"3"`` and ``3`` alike.

    Args:
        tool: that is called.
        arguments: as they were written.
        bare: values are texts without a type; what is no text by the schema is read as JSON.
    """
    missing = [name for name in tool.parameters if name in tool.needed and name not in arguments]
    if missing:
        return f"missing argument {missing[0]!r} of {tool.name}"
    surplus = [name for name in arguments if name not in tool.parameters]
    if surplus and not tool.open:
        takes = ", ".join(tool.parameters) or "no arguments"
        return f"surplus argument {surplus[0]!r}: {tool.name} takes {takes}"
    ordered = [*(name for name in tool.parameters if name in arguments), *surplus]
    found: dict[str, Any] = {}
    for name in ordered:
        value, schema = arguments[name], tool.parameters.get(name, {})
        value = _of_own(value, schema, tool, bare) if tool.whole is not None else _of_ours(value, schema)
        if value is _NO_VALUE:
            return f"wrong argument {name!r} of {tool.name}"
        found[name] = value
    return _misfit(tool, found) or found


def _misfit(tool: Tool, arguments: Mapping[str, Any]) -> Misfit | None:
    """The worst fault that the schema finds."""
    if tool.whole is None:
        return None
    fault = jsonschema.exceptions.best_match(tool.validator.iter_errors(dict(arguments)))
    if fault is None:
        return None
    place = ".".join(map(str, fault.absolute_path))
    said = f"wrong argument {place!r} of {tool.name}" if place else f"wrong arguments of {tool.name}"
    return f"{said}: {fault.message}"[:_MAX_REASON]


def _of_ours(value: Any, schema: Mapping[str, Any]) -> Any:
    """A value of a tool of this package: a text, a number or a truth value, and never an empty text."""
    kind = schema["type"]
    if kind == "string":
        value = _as_text(value)
        fits = isinstance(value, str) and value != "" and ("enum" not in schema or value in schema["enum"])
        return value if fits else _NO_VALUE
    if isinstance(value, str):
        value = _from_text(value, kind)
    if kind == "integer":
        return value if type(value) is int and abs(value) < 10**_MAX_DIGITS else _NO_VALUE
    if kind == "number":
        return float(value) if type(value) in (int, float) and abs(value) < 10**_MAX_DIGITS else _NO_VALUE
    return value if type(value) is bool else _NO_VALUE


def _as_text(value: Any) -> Any:
    """Numbers and truth values as JSON writes them; everything else as it is."""
    return json.dumps(value) if type(value) in (int, float, bool) else value


def _from_text(text: str, kind: str) -> Any:
    if kind == "boolean":
        return {"true": True, "false": False}.get(text)
    try:
        return (int if kind == "integer" else float)(text[: _MAX_DIGITS + 3])
    except ValueError:
        return None


def _of_own(value: Any, schema: Mapping[str, Any], tool: Tool, bare: bool) -> Any:
    """A value in one of the types that a schema names; what does not fit is left to the validator."""
    kinds = set(_kinds(schema, tool.whole or {}, 0))
    if isinstance(value, str) and "string" not in kinds and (kinds or bare):
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return read if not kinds or _kind(read) & kinds else value
    if kinds == {"string"}:
        return _as_text(value)
    return int(value) if kinds == {"integer"} and type(value) is float and value.is_integer() else value


def _kind(value: Any) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    names: dict[type, set[str]] = {
        int: {"integer", "number"},
        float: {"number"},
        str: {"string"},
        list: {"array"},
        dict: {"object"},
    }
    return names.get(type(value), {"null"})


def _kinds(schema: Any, whole: Mapping[str, Any], depth: int) -> Iterator[str]:
    """The types that a schema may take, as far as it names them."""
    if not isinstance(schema, Mapping) or depth > 8:
        return
    kind = schema.get("type")
    yield from [kind] if isinstance(kind, str) else kind if isinstance(kind, list) else []
    for value in [*schema.get("enum", []), *([schema["const"]] if "const" in schema else [])]:
        yield from _kind(value)
    for several in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(several, []):
            yield from _kinds(part, whole, depth + 1)
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = whole
        for step in reference[2:].split("/"):
            target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        yield from _kinds(target, whole, depth + 1)
