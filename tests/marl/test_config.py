"""The configuration schema: layers, overrides, one-sentence errors, YAML limits, round trips, fuzzing."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from marl.config import (
    AnyRunConfig,
    Frozen,
    Layer,
    assignment,
    config_hash,
    dump,
    nested,
    read_layer,
    resolve,
)
from marl.errors import UserError
from marl.yaml_io import MAX_BYTES, dump_yaml, parse_scalar, parse_yaml, read_yaml


class Random(Frozen):
    kind: Literal["random"] = "random"
    density: float = Field(default=0.2, ge=0, lt=1)


class Maze(Frozen):
    kind: Literal["maze"] = "maze"
    loops: int = Field(default=0, ge=0)


Generator = Annotated[Random | Maze, Field(discriminator="kind")]


class World(Frozen):
    map: Path | None = None
    agents: int = Field(default=8, ge=1, le=1000)
    generator: Generator = Random()
    mixture: tuple[Generator, ...] = ()
    collision: Literal["soft", "priority"] = "soft"
    title: str = ""


class Algorithm(Frozen):
    learning_rate: float = Field(default=1e-3, gt=0)
    hidden: tuple[int, ...] = (64, 64)
    batch: int = 8
    minibatches: int = 2

    @model_validator(mode="after")
    def _divisible(self) -> Algorithm:
        if self.minibatches < 1 or self.batch % self.minibatches:
            raise ValueError(f"batch = {self.batch} does not divide into minibatches = {self.minibatches}")
        return self


BASE = Layer("base.yaml", {"scenario": "grid", "system": "mappo"})


def make(*layers: Layer | dict[str, Any], overrides: list[str] | None = None) -> AnyRunConfig:
    return resolve(World, Algorithm, [BASE, *layers], overrides or [])


def test_later_layers_win_key_by_key() -> None:
    config = make(
        {"world": {"agents": 16, "title": "preset"}, "copies": 4},
        {"world": {"agents": 32}},
        overrides=["copies=2", "algorithm.hidden=[8, 8]", "coordination.guidance.enabled=false"],
    )
    assert (config.world.agents, config.world.title, config.copies) == (32, "preset", 2)
    assert config.algorithm.hidden == (8, 8)
    assert config.coordination.guidance.enabled is False
    assert config.seed == 0


def test_another_kind_replaces_a_mapping_and_the_same_kind_extends_it() -> None:
    maze = {"world": {"generator": {"kind": "maze", "loops": 3}}}
    assert make(maze, {"world": {"generator": {"kind": "random"}}}).world.generator == Random()
    assert make(maze, {"world": {"generator": {"kind": "maze"}}}).world.generator == Maze(loops=3)


def test_plain_python_values_are_accepted() -> None:
    class Collision(enum.Enum):
        SOFT = "soft"

    config = make({"world": {"map": Path("a.map"), "agents": np.int64(5), "collision": Collision.SOFT}})
    assert (config.world.map, config.world.agents, config.world.collision) == (Path("a.map"), 5, "soft")


ERRORS = [
    ("world.agentz=3", "unknown key 'world.agentz' in --set; did you mean 'world.agents'?"),
    ("sead=3", "unknown key 'sead' in --set; did you mean 'seed'?"),
    ("checkpoint.kep=3", "unknown key 'checkpoint.kep' in --set; did you mean 'checkpoint.keep'?"),
    ("checkpoint.zz=3", "unknown key 'checkpoint.zz' in --set; known: every_iterations, keep"),
    ("world.agents=0", "'world.agents' is 0 in --set: it should be greater than or equal to 1"),
    ("world.agents=true", "'world.agents' is True in --set: it should be a valid integer"),
    ("world.agents='3'", "'world.agents' is '3' in --set: it should be a valid integer"),
    ("world.collision=sof", "'world.collision' is 'sof' in --set: it should be 'soft' or 'priority'"),
    ("world.generator={kind: rndom}", "unknown kind 'rndom' for 'world.generator' in --set; did you mean 'random'?"),
    (
        "world.mixture=[{kind: maze, lops: 1}]",
        "unknown key 'world.mixture.0.lops' in --set; did you mean 'world.mixture.0.loops'?",
    ),
    ("algorithm.minibatches=3", "'algorithm' in --set: batch = 8 does not divide into minibatches = 3"),
    ("algorithm.learning_rate=.inf", "'algorithm.learning_rate' is inf in --set: it should be a finite number"),
    ("device=gpu", "'device' is 'gpu' in --set: it should be cpu, cuda or cuda:N"),
    ("seed=-1", "'seed' is -1 in --set: it should be greater than or equal to 0"),
    ("seed=2147483648", "'seed' is 2147483648 in --set: it should be less than 2147483648"),
    ("world=3", "'world' is 3 in --set: it should be a mapping"),
    ("seed", "--set 'seed' must have the form key=value, such as --set seed=7"),
    ("a..b=2", "--set 'a..b=2' must have the form key=value, such as --set seed=7"),
    (
        "a\nb=9",
        "unknown key 'a b' in --set; known: algorithm, checkpoint, coordination, copies, device, evaluation, "
        "preset, scenario, schema_version, seed, system, total_steps, tracking, world",
    ),
    ("schema_version=9", "--set was made by a newer marl (schema_version 9): upgrade marl to read it"),
    ("world.title=\udc80", "'\\udc80' in --set is not valid Unicode"),
]


@pytest.mark.parametrize(("override", "sentence"), ERRORS)
def test_each_mistake_gets_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        make(overrides=[override])
    assert str(error.value) == sentence


def test_the_file_of_a_faulty_key_is_named(tmp_path: Path) -> None:
    preset, own = tmp_path / "preset.yaml", tmp_path / "own.yaml"
    preset.write_text("world: {agentz: 4}\n")
    own.write_text("copies: 0\n")
    with pytest.raises(UserError, match=r"unknown key 'world.agentz' in .*preset\.yaml; did you mean 'world.agents'"):
        make(read_layer(preset))
    with pytest.raises(UserError, match=r"'copies' is 0 in .*own\.yaml: it should be greater"):
        make(read_layer(own), {"world": {"agents": 3}})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match="'scenario' is missing in the configuration"):
        resolve(World, Algorithm, [{"system": "mappo"}])


def test_deep_nesting_is_refused() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(UserError, match="nested too deeply"):
        make({"world": {"title": deep}})


def test_scalars_follow_yaml_1_2() -> None:
    words = ["1e-3", "1e6", "1.5e3", "no", "on", "0:16", "2024-01-01", "010", "null", "", "true", "-7", "1_000", ".5"]
    values = [0.001, 1_000_000, 1500, "no", "on", "0:16", "2024-01-01", "010", None, None, True, -7, 1000, 0.5]
    read = [parse_scalar(word, "--set") for word in words]
    assert read == values
    assert [type(x) for x in read] == [type(x) for x in values]
    assert parse_yaml("[" + ", ".join(words[:-5]) + "]", "x") == values[:-5]
    assert parse_scalar("@home: #1", "--set") == "@home: #1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2", "line 2 cannot be read: the key 'a' comes twice"),
        ("a: &x 1\nb: *x", "aliases are not allowed"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("1: 2", "the key 1 is not text"),
        ("<<: {a: 1}\n!!set {}: 1", "cannot be read"),
        ("- 1\n- 2", "must hold 'key: value' pairs at its top, not a list"),
        ("a: [1, 2", "cannot be read"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "9" * 1000, "the number is too long"),
        ("# " + "x" * MAX_BYTES, "is larger than"),
        ("a: \x00", "cannot be read"),
    ],
)
def test_hostile_yaml_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert reason in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, reason in [(binary, "is not UTF-8"), (tmp_path / "none.yaml", "No such file"), (tmp_path, "directory")]:
        with pytest.raises(UserError, match=reason):
            read_yaml(path)
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_dump_round_trips(tmp_path: Path) -> None:
    config = make(
        overrides=[
            "world.title='1e-3'",
            "algorithm.learning_rate=1e-5",
            "world.map=a b.map",
            "world.mixture=[{kind: maze}]",
        ]
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump(config))
    again = resolve(World, Algorithm, [read_layer(path)])
    assert again == config
    assert config_hash(again) == config_hash(config)
    assert config_hash(make()) != config_hash(config)


def test_assignment_and_nested_build_the_same_layer() -> None:
    assert assignment("a.b=3") == nested("a.b", 3, "--set") == Layer("--set", {"a": {"b": 3}})


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(TEXT, PLAIN, max_size=4))
def test_yaml_round_trips_any_plain_data(data: dict[str, Any]) -> None:
    again = parse_yaml(dump_yaml(data), "x") or {}
    assert again == data


TOP = st.sampled_from(["scenario", "seed", "device", "world", "algorithm", "coordination", "checkpoint", "total_steps"])
INNER = st.sampled_from(
    ["agents", "generator", "kind", "mixture", "title", "map", "hidden", "batch", "guidance", "keep"]
)
KEYS = TOP | INNER
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=3)
    | st.sampled_from(["random", "maze", "soft", "cpu", 1, 2, 0.5]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS | st.text(max_size=4) | st.integers(), inner, max_size=4)
        | st.tuples(inner)
    ),
    max_leaves=16,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.dictionaries(KEYS | st.text(max_size=5), JUNK, max_size=5), max_size=3),
    st.lists(st.builds("{}={}".format, KEYS, st.text(max_size=20)) | st.text(max_size=12), max_size=3),
)
def test_any_junk_gives_a_configuration_or_one_sentence(layers: list[dict[str, Any]], overrides: list[str]) -> None:
    try:
        config = make(*layers, overrides=overrides)
    except UserError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 500
    else:
        assert resolve(World, Algorithm, [parse_yaml(dump(config), "x")]) == config
