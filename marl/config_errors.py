"""The one sentence for a configuration that cannot be: the place, the value, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from marl.errors import nearest


def sentence(
    model: type[BaseModel], values: dict[str, Any], origin: Mapping[tuple[str, ...], str], error: ValidationError
) -> str:
    """The one sentence for a failed validation. Unknown keys come first: they are often why others are missing."""
    errors = error.errors(include_url=False)
    worst = min(errors, key=lambda item: item["type"] != "extra_forbidden")
    path = _path(values, worst)
    name, place = ".".join(map(str, path)), source_of(path, origin)
    kind, context = worst["type"], worst.get("ctx", {})
    if kind == "extra_forbidden":
        siblings = sorted(_fields(model, worst["loc"][:-1]))
        prefix = "".join(f"{part}." for part in path[:-1])
        return f"unknown key '{name}' in {place}" + nearest(str(path[-1]), siblings).replace("'", f"'{prefix}", 1)
    if kind == "missing":
        return f"'{name}' is missing in {place}"
    at = _at(values, path)
    if kind == "union_tag_invalid":
        expected = str(context.get("expected_tags", "")).replace("'", "").split(", ")
        discriminator = str(context.get("discriminator", "")).strip("'")
        return f"unknown {discriminator} {shown(context.get('tag'))} for '{name}' in {place}" + nearest(
            str(context.get("tag")), expected
        )
    if kind == "union_tag_not_found":
        return f"'{name}' in {place} must say its {str(context.get('discriminator', 'kind')).strip(chr(39))}"
    if kind == "too_short" and not at:
        return f"'{name}' in {place} is empty: it needs one entry at least"
    allowed = worst["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    allowed = allowed.replace("Input should", "it should", 1).replace("an object", "a mapping")
    # A validator of a whole model has judged how its keys go together: its message names them, the value would not.
    subject = f"'{name}' is {shown(at)}" if not isinstance(at, dict) or kind == "dict_type" else f"'{name}'"
    return f"{subject} in {place}: {allowed[:1].lower()}{allowed[1:]}" if path else f"{place}: {allowed}"


def _path(values: Any, error: ErrorDetails) -> tuple[str | int, ...]:
    """The keys that lead to a fault; pydantic's location also holds names of union members, which are left out."""
    path: list[str | int] = []
    location = error["loc"]
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if isinstance(values, dict) and part in values:
            values = values[str(part)]
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        elif not (last and error["type"] == "missing"):
            continue
        path.append(part)
    return tuple(path)


def _at(values: Any, path: Iterable[str | int]) -> Any:
    for part in path:
        values = values[part]
    return values


def source_of(path: Sequence[str | int], origin: Mapping[tuple[str, ...], str]) -> str:
    """The source that set the key at ``path``, or the nearest key above it."""
    for length in range(len(path), 0, -1):
        source = origin.get(tuple(map(str, path[:length])))
        if source is not None:
            return source
    return "the configuration"


def _fields(model: type[BaseModel], location: Sequence[str | int]) -> set[str]:
    """The keys that are known where ``location`` leads, starting from ``model``."""
    models = {model}
    for part in location:
        below = {m for owner in models if part in owner.model_fields for m in models_in(owner.model_fields[str(part)])}
        # A part that is no field names the member of a union (by class or by tag), or counts a list's items.
        named = {m for m in models if m.__name__ == part or part in _literals(m)}
        models = below or named or models
    return {name for m in models for name in m.model_fields}


def models_in(field: Any) -> Iterator[type[BaseModel]]:
    """The model classes in an annotation such as ``list[A | B] | None``."""
    annotation = getattr(field, "annotation", field)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def _literals(model: type[BaseModel]) -> set[Any]:
    """The tags of a union's member: the values of its literal fields."""
    return {
        value
        for field in model.model_fields.values()
        if isinstance(field.annotation, type(Literal[0]))
        for value in get_args(field.annotation)
    }


def shown(value: Any) -> str:
    """A value as errors quote it: on one line, and not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
