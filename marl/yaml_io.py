"""YAML as configuration files use it: plain data, read within limits and written so that it reads back the same.

Scalars follow YAML 1.2's core schema, where ``1e-3`` is a number and ``no``, ``1:30`` and ``2024-01-01`` are text (in
PyYAML's 1.1 it is the other way round); a number like ``1e6`` without a fraction is an integer. Refused are aliases and
tags (no expansion, no objects), keys that are not text or come twice, and files larger than ``MAX_BYTES``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from marl.errors import UserError
from marl.files import read_text

MAX_BYTES = 250_000
_MAX_DEPTH = 50
_MAX_DIGITS = 400

_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_RESOLVERS = (
    ("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", _BOOL, list("tTfF")),
    ("tag:yaml.org,2002:int", _INT, list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    """``SafeLoader`` with the scalars above and without aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the name is PyYAML's

    def fetch_flow_collection_start(self, token: Any) -> None:
        # The scanner's time grows with the brackets that are open, and it reads far ahead of the composer.
        if self.flow_level >= _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=self.get_mark())
        return bool(super().add_indent(column))

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # types-PyYAML leaves it out
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def mapping(self, node: Any) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is not text", problem_mark=key_node.start_mark)
            if key in result:
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' comes twice", problem_mark=key_node.start_mark)
            result[key] = self.construct_object(value_node, deep=True)
        return result

    def integer(self, node: Any) -> int:
        return _integer(node.value, node.start_mark)

    def number(self, node: Any) -> int | float:
        text = node.value.replace("_", "").lower()
        if text.endswith(("inf", "nan")):
            return float(text.replace(".", ""))
        value = float(text)
        # 1e6 is how people write a count; beyond 2**53 a float no longer says which integer is meant.
        return int(value) if "e" in text and value.is_integer() and abs(value) < 2**53 else value


def _integer(text: str, mark: Any) -> int:
    if len(text) > _MAX_DIGITS:
        raise yaml.MarkedYAMLError(problem="the number is too long", problem_mark=mark)
    return int(text.replace("_", ""))


class _Dumper(yaml.SafeDumper):
    """``SafeDumper`` that quotes whatever the loader above would not read back as text, and uses no aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {  # noqa: RUF012 - the name is PyYAML's
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
_Loader.yaml_constructors = {
    "tag:yaml.org,2002:null": _Loader.construct_yaml_null,
    "tag:yaml.org,2002:bool": _Loader.construct_yaml_bool,
    "tag:yaml.org,2002:int": _Loader.integer,
    "tag:yaml.org,2002:float": _Loader.number,
    "tag:yaml.org,2002:str": _Loader.construct_yaml_str,
    "tag:yaml.org,2002:seq": lambda loader, node: [loader.construct_object(item, deep=True) for item in node.value],
    "tag:yaml.org,2002:map": _Loader.mapping,
    None: _Loader.construct_undefined,
}


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML document. Raises ``UserError`` that names ``source`` and, where known, the line."""
    if len(text) > MAX_BYTES:
        raise UserError(f"{source} is larger than {MAX_BYTES:,} bytes")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}, line {mark.line + 1}" if mark is not None and mark.line else source
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "not valid YAML"
        raise UserError(f"{place} cannot be read: {' '.join(str(reason).split())}") from None
    except RecursionError:
        raise UserError(f"{source} cannot be read: it is nested too deeply") from None


def parse_scalar(text: str, source: str) -> Any:
    """The value of a command-line word: a YAML scalar, or a list, mapping or quoted text in YAML's flow style."""
    if text[:1] in ("[", "{", '"', "'"):
        return parse_yaml(text, source)
    if not text.isprintable():
        return text
    for tag, pattern, _ in _RESOLVERS:
        if pattern.match(text):
            return _Loader.yaml_constructors[tag](_Loader(""), yaml.ScalarNode(tag, text))
    return text


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping. Raises ``UserError``."""
    value = parse_yaml(read_text(path, MAX_BYTES), str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold 'key: value' pairs at its top, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"'{str(value)[:40]}'"


def dump_yaml(data: dict[str, Any]) -> str:
    """YAML that ``read_yaml`` reads back as ``data`` (text, numbers, booleans, None, lists and mappings of them)."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=120)
    return text
