"""The platform from Python; the command line is a thin layer over these functions.

Everywhere below, ``options`` are the scenario's command-line shorthands (``agents=64`` for ``--agents 64``) or keys of
its ``world`` configuration, and ``overrides`` are the texts of ``--set``, such as ``"algorithm.epochs=4"``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from marl.config import nested
from marl.configuration import bound_layers, configure, is_served, said_layers, shipped
from marl.coordination.face import coordinated_face
from marl.envs.batched import BatchedEnv
from marl.envs.pettingzoo import ParallelFace
from marl.errors import UserError, nearest
from marl.evaluation.results import Results
from marl.evaluation.runner import PolicyBuilder, Progress
from marl.evaluation.runner import evaluate as evaluate_policies
from marl.plugins import trust_named_in
from marl.scenario import PlanRecorder, Replayed, Scenario, baselines_of, find_baseline, load_scenario, scenario_names
from marl.training import run, tuning
from marl.training.dry_run import Plan, device_of, plan
from marl.training.export import OPSET, Graph, export_onnx
from marl.training.language_policy import LearnedSpeakers, ServedSpeakers
from marl.training.policy import LearnedPolicy, load_policy, supervise
from marl.training.run_folder import CONFIG, read_config

__all__ = [
    "OPSET",
    "Graph",
    "Plan",
    "configure",
    "device_of",
    "evaluate",
    "export",
    "load",
    "make",
    "parallel_env",
    "plan",
    "policy_builder",
    "policy_builders",
    "replay",
    "run_folder_of",
    "scenario_of",
    "shipped",
    "train",
    "tune",
]

Echo = Callable[[str], None]


def make(scenario: str, preset: str | None = None, copies: int = 1, device: str = "cpu", **options: Any) -> BatchedEnv:
    """A batched world of ``copies`` copies. Raises ``UserError``."""
    trust_named_in([scenario, *_texts(options)])
    config = configure(scenario, preset=preset, options=options, overrides=[f"device={device}"])
    return load_scenario(scenario).make(config.world, copies, device_of(config))


def parallel_env(
    scenario: str,
    *,
    policy: LearnedPolicy | LearnedSpeakers | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    newcomers: bool = False,
    **options: Any,
) -> ParallelFace:
    """One copy of a scenario's world as a PettingZoo ``ParallelEnv``, as its policies see it. Raises ``UserError``.

    It can be pickled and copied: a world with snapshots continues where it was, another one has to be reset.

    Args:
        scenario: its name.
        policy: show what this policy was trained to see, with its coordination modules and what it is bound to
            (``Scenario.bound``); ``policy.act(observations, env=env)`` then does what ``evaluate`` would do. None: as
            the configuration says.
        preset: a preset's name, see ``configure``.
        overrides: as above.
        newcomers: slots are filled again after their agents left (``marl.envs.pettingzoo.ParallelFace``).
        options: as above.
    """
    trust_named_in([scenario, *overrides, *_texts(options)])
    found = load_scenario(scenario)
    base = [] if policy is None else [nested(key, attrgetter(key)(policy.config), "policy") for key in found.bound]
    config = configure(scenario, preset=preset, options=options, overrides=overrides, base=base)
    env = found.make(config.world, 1, device_of(config))
    coordination = config.coordination
    if policy is not None:
        if not isinstance(policy, LearnedPolicy):
            raise UserError(f"policy '{getattr(policy, 'name', policy)}' speaks, and a PettingZoo face shows numbers")
        policy.adapt(env)
        coordination = policy.config.coordination
    rebuild = partial(
        parallel_env,
        scenario,
        policy=policy,
        preset=preset,
        overrides=overrides,
        newcomers=newcomers,
        **options,
    )
    return coordinated_face(env, coordination, newcomers=newcomers, rebuild=rebuild, name=scenario)


def _texts(options: Mapping[str, Any]) -> list[str]:
    """The texts among options and within them, which the user has named."""
    found = []
    for value in options.values():
        if isinstance(value, Mapping):
            found += _texts(value)
        found += [text for text in (value if isinstance(value, list | tuple) else [value]) if isinstance(text, str)]
    return found


def train(
    scenario: str,
    *,
    preset: str | None = None,
    config: Path | str | None = None,
    system: str | None = None,
    overrides: Sequence[str] = (),
    out: Path | str | None = None,
    live: bool = False,
    echo: Echo = lambda _: None,
    **options: Any,
) -> Path:
    """Train, and return the run's folder. Raises ``UserError``.

    Args:
        preset, config: a preset's name, a configuration file, or both; see ``configure``.
        out: the folder, new or empty.
        live: show progress.
    """
    trust_named_in([scenario, system or "", *overrides, *_texts(options)])
    resolved = configure(scenario, preset=preset, config=config, system=system, options=options, overrides=overrides)
    return run.train(resolved, Path(out) if out is not None else None, echo, live)


def load(name: str, echo: Echo = lambda _: None) -> LearnedPolicy | LearnedSpeakers:
    """The learned policy that a run folder holds, or a shipped one (``scenario/name``).

    Args:
        echo: told of broken checkpoints that are passed over.

    Raises ``UserError``.
    """
    if (Path(name) / CONFIG).is_file():
        return load_policy(Path(name), echo)
    scenario_name, separator, policy = name.partition("/")
    if not separator or Path(name).is_dir() or name.startswith(("/", ".", "~")):
        raise UserError(f"policy '{name}' is neither a run folder nor a shipped policy 'scenario/name'")
    scenario = load_scenario(scenario_name)
    if policy not in shipped(scenario):
        raise UserError(f"{scenario_name} ships no policy '{policy}'{nearest(policy, shipped(scenario))}")
    assert scenario.checkpoints is not None
    return load_policy(scenario.checkpoints / policy, echo)


def export(name: str, path: Path | str, greedy: bool | None = None, echo: Echo = lambda _: None) -> list[Graph]:
    """Write a learned policy as ONNX graphs (``marl.training.export``). Raises ``UserError``.

    Args:
        name: as ``load`` takes it; with ``-safety`` behind it, the policy without its supervisor.
        path: of the file.
        greedy: the likeliest actions instead of sampled ones; None: as the policy is evaluated.
        echo: told of broken checkpoints that are passed over.
    """
    bare = name.endswith("-safety") and not Path(name).is_dir()
    policy = load(name.removesuffix("-safety") if bare else name, echo)
    if not isinstance(policy, LearnedPolicy):
        raise UserError(f"policy '{name}' speaks: an ONNX graph decides by numbers")
    return export_onnx(policy.supervised(False) if bare else policy, Path(path), greedy)


def evaluate(
    scenario: str,
    policies: Sequence[str] | Mapping[str, PolicyBuilder],
    *,
    preset: str | None = None,
    episodes: int = 1,
    seeds: Sequence[int] = range(16),
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
    echo: Echo = lambda _: None,
    save_plan: Path | str | None = None,
    **options: Any,
) -> Results:
    """Compare policies on the same instances, which training never meets. Raises ``UserError``.

    policies: names (a baseline, a run folder, a shipped ``scenario/name``), or builders by name.
    options: a list of values gives one set of instances for each of them, and all combinations of several such lists.
        Of a key that takes a list or a mapping by itself, such as a span, the list is its one value.
    save_plan: a file for the one episode that is then to be played (``Scenario.plans``).
    What a run's policy cannot do without (``Scenario.bound``) comes from the run's configuration where neither options
    nor overrides say it.
    """
    trust_named_in([scenario, *overrides, *_texts(options)])
    found = load_scenario(scenario)
    builders = policies if isinstance(policies, Mapping) else policy_builders(found, policies, echo)
    if not builders:
        raise UserError("no policy is named, so there is nothing to compare: name one at least")
    worlds = []
    device = torch.device("cpu")
    base = (
        [] if isinstance(policies, Mapping) else bound_layers(found, policies, said_layers(found, options, overrides))
    )
    for chosen in _combinations(found, options):
        config = configure(scenario, preset=preset, options=chosen, overrides=overrides, base=base)
        world, device = found.held_out(config.world), device_of(config)
        instances = found.instance(world)
        worlds.append(({**instances, "preset": config.preset} if config.preset else instances, world))
    if save_plan is None:
        return evaluate_policies(found, builders, worlds, seeds, episodes, device=device, progress=progress)
    if len(builders) * len(worlds) * len(seeds) * episodes != 1:
        raise UserError("--save-plan writes one episode: name one policy, and one instance with --seeds 0:1")
    watch = _Kept(found)
    results = evaluate_policies(found, builders, worlds, seeds, episodes, device=device, progress=progress, watch=watch)
    watch.recorder.write(Path(save_plan))
    return results


class _Kept:
    """Makes the recorder of a plan, and keeps it until the episode is over. Raises ``UserError`` without plan files."""

    recorder: PlanRecorder

    def __init__(self, scenario: Scenario):
        if scenario.plans is None:
            raise UserError(f"{scenario.name} has no plan files: leave --save-plan out")
        self._make = scenario.plans.recorder

    def __call__(self, env: BatchedEnv) -> PlanRecorder:
        self.recorder = self._make(env)
        return self.recorder


def replay(
    scenario: str, plan: Path | str, *, preset: str | None = None, overrides: Sequence[str] = (), **options: Any
) -> Replayed:
    """Validate and count a plan file, of any policy or tool, on the instance that options name. Raises ``UserError``.

    Args:
        options, overrides: as ``evaluate`` takes them; no lists of values.
    """
    trust_named_in([scenario, *overrides])
    found = load_scenario(scenario)
    if found.plans is None:
        raise UserError(f"{found.name} has no plan files that could be replayed")
    return found.plans.replay(
        Path(plan), configure(scenario, preset=preset, options=options, overrides=overrides).world
    )


def tune(
    scenario: str,
    tunable: str,
    *,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    search: Mapping[str, float] | None = None,
    out: Path | str | None = None,
    echo: Echo = lambda _: None,
    progress: tuning.OnGeneration = lambda done, total, score: None,
    **options: Any,
) -> tuning.Tuned:
    """Choose numbers of a scenario for one kind of instances (``marl list tunables``). Raises ``UserError``.

    Args:
        search: how long, see ``tuning.SearchConfig``.
        out: the folder, new or empty.
    """
    trust_named_in([scenario, *overrides, *_texts(options)])
    config = configure(scenario, preset=preset, options=options, overrides=overrides)
    chosen = tuning.SearchConfig.model_validate(dict(search or {}))
    return tuning.tune(config, tunable, chosen, Path(out) if out is not None else None, echo, progress)


def policy_builders(scenario: Scenario, names: Iterable[str], echo: Echo = lambda _: None) -> dict[str, PolicyBuilder]:
    """Policies by the names that a user knows them under. Raises ``UserError``, with the nearest known name."""
    builders: dict[str, PolicyBuilder] = {}
    for name in names:
        if name in builders:
            raise UserError(f"policy '{name}' is named twice")
        builders[name] = policy_builder(scenario, name, echo)
    return builders


def policy_builder(scenario: Scenario, name: str, echo: Echo = lambda _: None) -> PolicyBuilder:
    """One policy by its name: a baseline, a run folder, a shipped policy, or a served model. Raises ``UserError``.

    ``openai:URL,MODEL`` is a model behind an OpenAI-compatible server that speaks for all roles.
    ``NAME:key=value:key=value`` is a baseline with these options, where it has any; ``NAME+safety`` and
    ``NAME-safety`` are the same policy with the world's supervisor put on or taken away.
    """
    if is_served(name):
        return ServedSpeakers(name, echo).bind
    own = shipped(scenario)
    known = [*baselines_of(scenario), *(f"{scenario.name}/{policy}" for policy in own)]
    wanted, supervised = name, None
    if name not in known and name not in own and not Path(name).is_dir():
        for sign in "+-":
            if name.endswith(f"{sign}safety"):
                wanted, supervised = name.removesuffix(f"{sign}safety"), sign == "+"
    rule = find_baseline(scenario, wanted)
    if rule is not None:
        if supervised is False:
            raise UserError(f"policy '{name}': {wanted} has no supervisor that could be taken away")
        return supervise(rule) if supervised else rule
    if wanted in own or wanted in known:
        assert scenario.checkpoints is not None
        policy = load_policy(scenario.checkpoints / wanted.removeprefix(f"{scenario.name}/"), echo)
    elif Path(wanted).is_dir():
        policy = load(wanted, echo)
    else:
        raise UserError(
            f"policy '{wanted}' is no baseline, shipped policy or run folder{nearest(wanted.partition(':')[0], known)}"
        )
    trained_in = load_scenario(policy.config.scenario).name
    if trained_in != scenario.name:
        raise UserError(f"policy '{wanted}' was trained in {trained_in}, not in {scenario.name}")
    if supervised is None:
        return policy.bind
    if not isinstance(policy, LearnedPolicy):
        raise UserError(f"policy '{name}': +safety and -safety are for policies of tensor worlds")
    return policy.supervised(supervised).bind


def run_folder_of(policy: Path) -> Path:
    """The folder ``--init`` names: a run's, or that of a shipped policy ``scenario/name``. Raises ``UserError``."""
    if (policy / CONFIG).is_file():
        return policy
    name, _, own = str(policy).partition("/")
    if name in scenario_names():
        scenario = load_scenario(name)
        if own in shipped(scenario) and scenario.checkpoints is not None:
            return scenario.checkpoints / own
    raise UserError(f"--init {policy} is neither a run folder nor a shipped policy")


def scenario_of(policy: str) -> str:
    """The scenario of a run folder or of a shipped policy ``scenario/name``. Raises ``UserError``."""
    if (Path(policy) / CONFIG).is_file():
        return read_config(Path(policy)).scenario
    name, separator, _ = policy.partition("/")
    if separator and name in scenario_names():
        return name
    raise UserError(f"policy '{policy}' does not say its scenario: add --scenario NAME")


def _combinations(scenario: Scenario, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One set of options for each combination of listed values."""
    keys = {option.flag.removeprefix("--").replace("-", "_"): option.key for option in scenario.options}
    values = [
        value
        if isinstance(value, list | tuple) and not scenario.is_compound(keys.get(name, f"world.{name}"))
        else [value]
        for name, value in options.items()
    ]
    for name, listed in zip(options, values, strict=True):
        if not listed:
            raise UserError(f"'{name}' is an empty list, which leaves nothing to play: name one value at least")
    return [dict(zip(options, chosen, strict=True)) for chosen in itertools.product(*values)]
