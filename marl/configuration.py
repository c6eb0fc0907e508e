"""How a run's configuration comes about: what is laid over what, and which keys come from the runs that are judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from marl.config import AnyRunConfig, Layer, assignment, nested, read_layer, resolve
from marl.coordination.registry import check_modules
from marl.errors import UserError, nearest
from marl.scenario import Scenario, load_scenario
from marl.systems.registry import load_system
from marl.systems.system import System
from marl.training.run_folder import CONFIG, read_config


def configure(
    scenario: str,
    *,
    preset: str | None = None,
    config: Path | str | None = None,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | Sequence[Layer] = (),
) -> AnyRunConfig:
    """The run configuration, from what is said below to what is said above it:

    the defaults of platform, scenario and system; the preset (the scenario's default one if there is neither preset
    nor file); ``base``, keys and their values; what the system switches on (``System.settings``); the file;
    ``system``; the options; the overrides. Raises ``UserError``.
    """
    found = load_scenario(scenario)
    layers = run_layers(
        scenario, preset=preset, config=config, system=system, options=options, overrides=overrides, base=base
    )
    resolved: AnyRunConfig = resolve(found.config, system_of(layers).config, layers)
    check_modules(resolved.coordination)
    world = found.coordinated(resolved.world, resolved.coordination)
    return resolved if world == resolved.world else resolved.model_copy(update={"world": world})


def run_layers(
    scenario: str,
    *,
    preset: str | None = None,
    config: Path | str | None = None,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | Sequence[Layer] = (),
) -> list[Layer]:
    """What ``configure``, whose arguments these are, lays over the defaults, later ones winning."""
    found = load_scenario(scenario)
    names = found.preset_names()
    if preset is None and config is None and found.default_preset in names:
        preset = found.default_preset
    layers = [Layer("the command", {"scenario": scenario}), Layer("the defaults", {"system": found.system})]
    if preset is not None:
        if preset not in names:
            raise UserError(f"{scenario} has no preset '{preset}'{nearest(preset, names)}")
        layers.append(read_layer(found.presets / f"{preset}.yaml"))
        layers.append(Layer("the preset", {"preset": preset}))
    if isinstance(base, Mapping):
        base = [nested(key, value, "the scenario's benchmark") for key, value in base.items()]
    layers += base
    modules = len(layers)
    if config is not None:
        layers.append(read_layer(Path(config)))
    files = len(layers) + 1
    if system is not None:
        layers.append(Layer("--system", {"system": system}))
    layers += said_layers(found, options or {}, overrides)
    layers.insert(modules, _settings(system_of(layers)))
    layers = give_way(layers, files, found.gives_way)
    for layer in layers:
        if layer.values.get("scenario", scenario) != scenario:
            raise UserError(
                f"{layer.source} is for scenario '{layer.values['scenario']}', not for '{scenario}': name that one"
            )
    return layers


def _settings(system: System) -> Layer:
    """What a system switches on, as one layer."""
    values: dict[str, Any] = {}
    for key, value in system.settings.items():
        *above, last = key.split(".")
        inner = values
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return Layer(f"system {system.name}", values)


def system_of(layers: Sequence[Layer]) -> System:
    """The system that layers choose in the end. Raises ``UserError``."""
    return load_system(str([layer.values["system"] for layer in layers if "system" in layer.values][-1]))


def give_way(layers: Sequence[Layer], files: int, keys: Mapping[str, Sequence[str]]) -> list[Layer]:
    """The layers without what gives way to a later one.

    Args:
        layers: partial configurations, later ones winning.
        files: how many of the first of them were written for many uses (presets, files): only those give way.
        keys: a dotted key -> the dotted keys that give way where it is set.
    """
    kept = list(layers)
    for key, others in keys.items():
        for number, layer in enumerate(layers):
            if _at(layer.values, key.split(".")) is not None:
                kept[: min(number, files)] = [_without(lower, others) for lower in kept[: min(number, files)]]
    return kept


def _without(layer: Layer, keys: Sequence[str]) -> Layer:
    values = layer.values
    for key in keys:
        values = _cut(values, key.split("."))
    return Layer(layer.source, values)


def _cut(values: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """``values`` without the entry at the end of ``path``."""
    first, *rest = path
    inner = values.get(first)
    if not rest:
        return {name: value for name, value in values.items() if name != first}
    return {**values, first: _cut(inner, rest)} if isinstance(inner, Mapping) else values


def said_layers(scenario: Scenario, options: Mapping[str, Any], overrides: Sequence[str]) -> list[Layer]:
    """What options and overrides set, in their order."""
    return [
        *(layer for name, value in options.items() for layer in option_layers(scenario, name, value)),
        *(assignment(text) for text in overrides),
    ]


def bound_layers(scenario: Scenario, policies: Iterable[str], said: Sequence[Layer]) -> list[Layer]:
    """The keys that the runs among some policies are bound to (``Scenario.bound``), with the values of their runs.

    Args:
        scenario: the world that they are judged in.
        policies: as ``policy_builders`` takes them.
        said: what the user says; keys in it are left out.

    Raises ``UserError`` if two runs differ in a key.
    """
    values: dict[str, Any] = {}
    owner: dict[str, str] = {}
    policies = list(policies)
    configs = {name: read_config(folder) for name in policies if (folder := folder_of(scenario, name)) is not None}
    for key in scenario.bound:
        if any(_at(layer.values, key.split(".")) is not None for layer in said):
            continue
        for name, config in configs.items():
            if config.scenario != scenario.name:
                continue
            value = attrgetter(key)(config)
            if key in values and values[key] != value:
                raise UserError(
                    f"policy '{name}' was trained with another {key} than '{owner[key]}': judge them one by one, "
                    f"or say which it is with --set {key}=..."
                )
            values[key], owner[key] = value, name
    served = next((name for name in policies if is_served(name)), None)
    for key, value in scenario.served.items() if served is not None else ():
        if key not in values and all(_at(layer.values, key.split(".")) is None for layer in said):
            values[key], owner[key] = value, str(served)
    return [nested(key, value, f"the configuration of {owner[key]}") for key, value in values.items()]


def is_served(policy: str) -> bool:
    """Whether a policy's name means a served model, ``openai:URL,MODEL``."""
    return policy.startswith("openai:")


def folder_of(scenario: Scenario, policy: str) -> Path | None:
    """The folder of a run or shipped policy; None for anything else, such as a baseline."""
    own = policy.removeprefix(f"{scenario.name}/")
    if scenario.checkpoints is not None and own in shipped(scenario):
        return scenario.checkpoints / own
    return Path(policy) if (Path(policy) / CONFIG).is_file() else None


def option_layers(scenario: Scenario, name: str, value: Any) -> list[Layer]:
    """What one option of a scenario sets. name: as in Python, ``goal_weight`` for ``--goal-weight``."""
    flag = "--" + name.replace("_", "-")
    for option in scenario.options:
        if option.flag == flag:
            if value is True and option.switch:
                return [nested(key, chosen, flag) for key, chosen in option.switch.items()]
            return [nested(key, chosen, flag) for key, chosen in {option.key_of(value): value, **option.also}.items()]
    known = [option.flag for option in scenario.options]
    if name in scenario.config.model_fields:
        return [nested(f"world.{name}", value, name)]
    raise UserError(f"{scenario.name} has no option '{flag}'{nearest(flag, known)}")


def shipped(scenario: Scenario) -> list[str]:
    """The names of the policies that come with a scenario."""
    if scenario.checkpoints is None or not scenario.checkpoints.is_dir():
        return []
    return sorted(path.parent.name for path in scenario.checkpoints.glob(f"*/{CONFIG}"))


def _at(values: Any, keys: Sequence[str]) -> Any:
    """What a partial configuration says below some keys, one in the other; None if it says nothing."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
