"""Random configurations of the real scenarios and systems, from their own schemas: right, borderline and wrong values.

A configuration gives a run plan or a ``UserError`` of one line; nothing else, and nothing is started.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from marl.api import configure, plan
from marl.config import run_config_model
from marl.errors import UserError
from marl.scenario import load_scenario
from marl.systems.registry import load_system
from marl.yaml_io import dump_yaml

#: Scenario and system of each kind of run.
RUNS = [
    ("lifelong_mapf", "mappo"),
    ("lifelong_mapf", "ippo"),
    ("lifelong_mapf", "es"),
    ("cav_merging", "mappo"),
    ("agent_hierarchy", "mappo"),
    ("agent_hierarchy", "m_grpo"),
    ("agent_hierarchy", "gigpo"),
    ("agent_hierarchy", "poad"),
]
_WRONG = st.sampled_from(
    [None, True, -1, 0, 1, 3, 7, 1.5, 1e300, float("nan"), 2**40, 2**70, "", "x", "none", [], [1], {}, {"kind": "x"}]
)
_SMALL = st.integers(1, 6)
_SMALL_RUN = {"copies": 8, "total_steps": 1000}


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values that an annotation asks for, mostly small."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values_of(arguments[0])
    if origin in (Union, types.UnionType):
        return st.one_of([values_of(each) for each in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (list, tuple):
        inner = [each for each in arguments if each is not Ellipsis]
        return st.lists(values_of(inner[0]) if inner else _SMALL, min_size=1, max_size=3)
    if origin is dict:
        return st.dictionaries(st.sampled_from(["planner", "north", "fresh", "x"]), values_of(arguments[1]), max_size=2)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return model_values(annotation)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: _SMALL,
        float: st.floats(0.01, 1.0) | _SMALL,
        str: st.sampled_from(["maze", "planner_workers", "merge", "x", "planner"]),
        Path: st.sampled_from(["nowhere", "/dev/null", "."]),
        type(None): st.none(),
    }
    return simple.get(annotation, _WRONG)


def _field(field: FieldInfo) -> st.SearchStrategy[Any]:
    right = values_of(field.annotation)
    edges = []
    for rule in field.metadata:
        for name, step in (("ge", -1), ("le", 1), ("gt", 0), ("lt", 0)):
            bound = getattr(rule, name, None)
            if isinstance(bound, int | float):
                edges += [bound + step, *([bound] if abs(bound) <= 64 else [])]
    kinds = [right] * 12 + [_WRONG] + ([st.sampled_from(edges)] if edges else [])
    return st.sampled_from(kinds).flatmap(lambda chosen: chosen)


def model_values(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """A few keys of a model with values near what they may be, and now and then a key that it does not know."""
    fields = {name: _field(field) for name, field in model.model_fields.items()}
    tags = {name: values for name, values in fields.items() if name == "kind"}
    others = st.sampled_from(sorted(fields)) if fields else st.nothing()

    def some(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        chosen: dict[str, st.SearchStrategy[Any]] = {name: fields[name] for name in names} | tags
        return st.fixed_dictionaries(chosen)

    known = st.lists(others, max_size=3, unique=True).flatmap(some)
    unknown = st.tuples(known, st.sampled_from(["agentz", "", "kind", "seed"]), _WRONG).map(
        lambda parts: {**parts[0], parts[1]: parts[2]}
    )
    return st.sampled_from([known] * 9 + [unknown]).flatmap(lambda chosen: chosen)


def _layer(run: tuple[str, str]) -> st.SearchStrategy[tuple[tuple[str, str], dict[str, Any]]]:
    scenario, system = run
    model = run_config_model(load_scenario(scenario).config, load_system(system).config)
    return st.tuples(st.just(run), model_values(model))


CONFIGURATIONS = st.sampled_from(RUNS).flatmap(_layer)


def attempt_plan(file: Path, run: tuple[str, str], values: dict[str, Any]) -> bool:
    """Whether a file with these values gives a plan; else it must give one sentence. The rest is a small run."""
    scenario, system = run
    file.write_text(dump_yaml(values), encoding="utf-8")
    small = [f"{key}={value}" for key, value in _SMALL_RUN.items() if key not in values]
    try:
        made = plan(configure(scenario, config=file, system=system, overrides=small))
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 900
        return False
    assert made.iterations >= 1 and made.agent_steps_per_iteration >= 1
    return True
