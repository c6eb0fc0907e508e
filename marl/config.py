"""The one schema behind YAML presets, ``--set key=value`` and Python, and the one way to fill it in.

A run's configuration is a tree of pydantic models: the platform's part is here, ``world`` comes from the scenario and
``algorithm`` from the system. ``resolve`` lays partial configurations over one another, later ones winning, and
validates the result strictly: no unknown key, no silent conversion. What a user got wrong becomes one sentence with
the place, the value and what is allowed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from marl.config_errors import sentence, shown, source_of
from marl.errors import UserError
from marl.plugins import check_server
from marl.yaml_io import dump_yaml, parse_scalar, read_yaml

SCHEMA_VERSION: Literal[1] = 1
_MAX_DEPTH = 40
_MAX_BITS = 1024


class Frozen(BaseModel):
    """Base of configuration models: immutable, unknown keys refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GuidanceConfig(Frozen):
    """A planner's view in the observation, and a reward for following it (``marl.coordination.guidance``)."""

    enabled: bool = Field(default=True, description="add the plan's features to the observation")
    reward_weight: float = Field(default=0.01, ge=0, description="reward for reaching a sub-goal")


class IntentConfig(Frozen):
    """Announcing to neighbours what an agent will do next."""

    enabled: bool = Field(default=False, description="show agents their neighbours' intentions")
    horizon: int = Field(default=5, ge=1, le=64, description="moments that are announced")
    companions: int = Field(default=4, ge=1, le=32, description="nearest neighbours that are listened to")
    rounds: int = Field(default=1, ge=0, le=8, description="drafts that are exchanged before the decision")
    predictor: Literal["rollout", "learned"] = Field(
        default="rollout", description="the world's roll-out of an action, or that corrected by a network that learns"
    )
    delay: int = Field(default=0, ge=0, le=64, description="steps that messages are under way")
    loss: float = Field(default=0.0, ge=0, le=1, description="share of messages that never arrive")
    noise: float = Field(
        default=0.0, ge=0, le=100, description="standard deviation of errors of messages, in the world's scale"
    )


class SafetyConfig(Frozen):
    """Replacing actions whose prediction conflicts."""

    enabled: bool = Field(default=False, description="correct conflicting actions before the world executes them")
    penalty: float = Field(
        default=0.0, ge=0, description="price of a correction, taken off the corrected agent's reward"
    )
    margin: float = Field(
        default=0.0, description="room that an action has to leave, in the world's unit; more is stricter"
    )
    rule: str | None = Field(
        default=None,
        description="module:function that makes the supervisor of a world, which then judges in the place of the world",
    )
    early_penalty: float | None = Field(default=None, ge=0, description="penalty at the beginning of training")
    early_margin: float | None = Field(default=None, description="margin at the beginning of training")
    annealed: float = Field(
        default=0.5, gt=0, le=1, description="part of the training by which the early values have become the others"
    )


class CoordinationConfig(Frozen):
    """The modules between world and policy; each works in every world that offers what it needs."""

    guidance: GuidanceConfig = GuidanceConfig()
    intent: IntentConfig = IntentConfig()
    safety: SafetyConfig = SafetyConfig()
    modules: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="further modules, by name or as module:object, each with its options (marl.coordination.registry)",
    )


class CheckpointConfig(Frozen):
    """When checkpoints are written and how many stay. One is always written at the end."""

    every_iterations: int = Field(default=10, ge=1, description="iterations between two checkpoints")
    keep: int = Field(default=3, ge=1, description="newest checkpoints that are kept")


class EvaluationConfig(Frozen):
    """Evaluation while training, on instances that training never sees."""

    every_iterations: int = Field(default=0, ge=0, description="iterations between two evaluations; 0: none")
    episodes: int = Field(default=1, ge=1, description="episodes per seed")
    seeds: int = Field(default=16, ge=1, description="instances, one seed each")


class TrackingConfig(Frozen):
    """Where figures go besides ``metrics.csv``."""

    tensorboard: bool = Field(default=False, description="write TensorBoard events (needs the extra 'tracking')")


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):
        raise ValueError("it should be cpu, cuda or cuda:N")
    return name


World = TypeVar("World", bound=BaseModel)
Algorithm = TypeVar("Algorithm", bound=BaseModel)
Options = TypeVar("Options", bound=BaseModel)


class RunConfig(Frozen, Generic[World, Algorithm]):
    """Everything that a training run depends on. The same configuration gives the same run, bit for bit on a CPU."""

    schema_version: Literal[1] = Field(default=SCHEMA_VERSION, description="form of this configuration")
    scenario: str = Field(min_length=1, description="family of worlds, see 'marl list scenarios'")
    preset: str | None = Field(default=None, description="preset of the scenario that the run started from")
    system: str = Field(min_length=1, description="learning system, see 'marl list systems'")
    seed: int = Field(default=0, ge=0, lt=2**31, description="decides initial weights, worlds and sampling")
    device: Annotated[str, AfterValidator(_device)] = Field(default="cpu", description="cpu, cuda or cuda:N")
    total_steps: int = Field(default=10_000_000, ge=1, lt=2**53, description="length of training in agent-steps")
    copies: int = Field(default=64, ge=1, le=1_000_000, description="worlds stepped together")
    world: World = Field(description="options of the scenario")
    coordination: CoordinationConfig = CoordinationConfig()
    algorithm: Algorithm = Field(description="options of the system")
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()


AnyRunConfig = RunConfig[Any, Any]


class Layer(NamedTuple):
    """A partial configuration and the place to name in errors, such as a file or an option."""

    source: str
    values: Mapping[str, Any]


def read_layer(path: Path) -> Layer:
    """The partial configuration in a YAML file. Raises ``UserError``, also for servers that the user did not name."""
    values = read_yaml(path)
    for url in _servers(values):
        check_server(url, str(path))
    return Layer(str(path), values)


def _servers(values: Any) -> Iterator[str]:
    """The addresses in a configuration: they receive conversations, and a key from the environment."""
    for key, value in values.items() if isinstance(values, dict) else ():
        if key == "base_url":
            yield str(value)
        yield from _servers(value)


def assignment(text: str, source: str = "--set") -> Layer:
    """``a.b=value`` as a layer, the value read as YAML. Raises ``UserError``."""
    key, separator, value = text.partition("=")
    if not separator or not all(key.split(".")):
        raise UserError(f"{source} {shown(text)} must have the form key=value, such as {source} seed=7")
    return nested(key, parse_scalar(value, f"{source} {key}"), source)


def nested(key: str, value: Any, source: str) -> Layer:
    """A layer that sets one dotted key."""
    first, *rest = key.split(".")
    for part in reversed(rest):
        value = {part: value}
    return Layer(source, {first: value})


def resolve(
    scenario_config: type[World],
    system_config: type[Algorithm],
    layers: Iterable[Layer | Mapping[str, Any]],
    overrides: Sequence[str] = (),
) -> RunConfig[World, Algorithm]:
    """The run configuration that the layers make together.

    Args:
        layers: partial configurations, later ones winning key by key. Lists are replaced whole, and so are mappings
            whose ``kind`` changes, because the keys of another kind mean nothing to it.
        overrides: ``key=value`` assignments that win over all layers.

    Raises ``UserError`` in one sentence for whatever is wrong.
    """
    named = [layer if isinstance(layer, Layer) else Layer("the configuration", layer) for layer in layers]
    values, origin = laid([*named, *(assignment(text) for text in overrides)])
    version = values.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        place = source_of(["schema_version"], origin)
        raise UserError(f"{place} was made by a newer marl (schema_version {version}): upgrade marl to read it")
    model = run_config_model(scenario_config, system_config)
    try:
        # Strict validation of JSON rather than of Python objects: lists may become tuples, text may become paths and
        # enumerations, but "64" never becomes 64, nor true 1.
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        # Keys are the user's own text and may hold line breaks.
        raise UserError(" ".join(sentence(model, values, origin, error).split())) from None


def laid(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """What layers say together, later ones winning, and the source that each key came from last.

    Args:
        layers: partial configurations with their sources.
    """
    values: dict[str, Any] = {"world": {}, "algorithm": {}}
    origin: dict[tuple[str, ...], str] = {}
    for layer in layers:
        _merge(values, _plain(layer.values, layer.source), layer.source, origin, ())
    return values, origin


def read_options(model: type[Options], texts: Iterable[str], source: str) -> Options:
    """The model that ``key=value`` texts describe; what they leave out keeps its default. Raises ``UserError``.

    Args:
        source: what errors call the place, such as the name of the policy whose options these are.
    """
    values: dict[str, Any] = {}
    for text in texts:
        _merge(values, assignment(text, source).values, source, {}, ())
    return options_from(model, values, source)


def options_from(model: type[Options], given: Mapping[str, Any], source: str) -> Options:
    """The model that a partial mapping of options describes; what it leaves out keeps its default.

    Args:
        model: of the options.
        given: some of them.
        source: what errors call the place.

    Raises ``UserError``.
    """
    values = _plain(given, source)
    try:
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        origin: dict[tuple[str, ...], str] = {(str(key),): source for key in values}
        raise UserError(" ".join(sentence(model, values, origin, error).split())) from None


@lru_cache(maxsize=64)
def run_config_model(scenario_config: type[BaseModel], system_config: type[BaseModel]) -> type[AnyRunConfig]:
    """The class of run configurations for a scenario and a system."""
    return RunConfig[scenario_config, system_config]  # type: ignore[valid-type]  # classes as values


def dump(config: AnyRunConfig) -> str:
    """The resolved configuration as YAML; ``resolve`` reads it back as an equal configuration."""
    return dump_yaml(_plain(config, "the configuration"))


def config_hash(config: AnyRunConfig) -> str:
    """SHA-256 of the configuration's content, in hexadecimal."""
    text = json.dumps(_plain(config, "the configuration"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any, source: str, depth: int = 0) -> Any:
    """Models, paths, tuples, enumerations, arrays and NumPy scalars as plain data that JSON can hold."""
    if depth > _MAX_DEPTH:
        raise UserError(f"{source} is nested too deeply")
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name), source, depth + 1) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {_text(key, source): _plain(item, source, depth + 1) for key, item in value.items()}
    if isinstance(value, Enum):
        return _plain(value.value, source, depth + 1)
    if isinstance(value, list | tuple):
        return [_plain(item, source, depth + 1) for item in value]
    if isinstance(value, str | PurePath):
        return _text(str(value), source)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        if int(value).bit_length() > _MAX_BITS:
            raise UserError(f"{source} holds an integer that is too long")
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if callable(getattr(value, "tolist", None)):
        return _plain(value.tolist(), source, depth + 1)
    raise UserError(f"{shown(value)} in {source} is neither text, a number, a list nor a mapping")


def _text(value: Any, source: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"the key {shown(value)} in {source} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{shown(value)} in {source} is not valid Unicode") from None
    return value


def _merge(
    below: dict[str, Any],
    above: Mapping[str, Any],
    source: str,
    origin: dict[tuple[str, ...], str],
    path: tuple[str, ...],
) -> None:
    """Lay ``above`` over ``below`` in place, and note in ``origin`` which source each key came from last."""
    for key, value in above.items():
        place = (*path, key)
        origin[place] = source
        old = below.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("kind", old.get("kind")) == old.get("kind"):
            _merge(old, value, source, origin, place)
        else:
            for stale in [known for known in origin if len(known) > len(place) and known[: len(place)] == place]:
                del origin[stale]
            below[key] = {}
            if isinstance(value, dict):
                _merge(below[key], value, source, origin, place)
            else:
                below[key] = value
