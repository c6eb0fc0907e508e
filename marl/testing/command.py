"""What ``marl check`` does with what it is given: a scenario, or ``MODULE:FACTORY``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pettingzoo import AECEnv, ParallelEnv

from marl import api
from marl.envs.batched import BatchedEnv
from marl.envs.factories import import_object
from marl.errors import UserError, nearest
from marl.plugins import file_hint, is_reference, trust
from marl.scenario import Scenario, load_scenario, scenario_names
from marl.testing.aec import check_aec
from marl.testing.batched import check_batched
from marl.testing.parallel import check_parallel
from marl.testing.probes import told
from marl.testing.report import Report
from marl.testing.trace import needs_arguments, takes_copies

#: Copies of a scenario's world that are compared: simulators have a process for each.
_BATCHES = (1, 2, 5)


def cli_check(
    spec: str, steps: int = 500, preset: str | None = None, options: Mapping[str, Any] | None = None
) -> Report:
    """Check a scenario's world, or what ``MODULE:FACTORY`` makes: a ``ParallelEnv``, an ``AECEnv``, or, where the
    factory takes ``copies``, a ``BatchedEnv``.

    Args:
        spec: a scenario's name, ``MODULE:SCENARIO`` or ``MODULE:FACTORY``; modules of the present folder are found.
        steps: of each of the plays that are compared; of batched worlds at most 200.
        preset: of a scenario; by default its own.
        options: of a scenario, by their Python names, such as ``{"agents": 8}`` for ``--agents 8``.

    Raises ``UserError`` if it cannot be imported or is something else. What the environment itself raises is a finding.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if not is_reference(spec):
        if spec not in scenario_names():
            hint = file_hint(spec) or nearest(spec, scenario_names())
            raise UserError(
                f"'{spec[:80]}' is no scenario, and names no factory: write MODULE:FACTORY, such as "
                f"my_package.world:parallel_env{hint}"
            )
        return _check_scenario(spec, load_scenario(spec), steps, preset, options)
    factory = import_object(spec)
    if isinstance(factory, Scenario):
        trust(spec)
        return _check_scenario(spec, factory, steps, preset, options)
    if preset is not None:
        raise UserError(f"'{spec}' is no scenario, so it has no preset '{preset}': leave --preset out")
    if not callable(factory):
        raise UserError(f"'{spec}' is not callable: name a Scenario, or a function or class that makes an environment")
    try:
        return _check_factory(spec, factory, steps)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        # Of the environment, or of its making; the checks themselves catch what they can go on after.
        report = Report(spec)
        report.add("raises", "making the environment", told(error))
        return report


def _check_scenario(
    spec: str, scenario: Scenario, steps: int, preset: str | None, options: Mapping[str, Any] | None
) -> Report:
    world = api.configure(spec, preset=preset, options=options).world

    def make(copies: int, device: torch.device | str = "cpu") -> BatchedEnv:
        return scenario.make(world, copies, torch.device(device))

    report = check_batched(make, min(steps, 200), batches=_BATCHES, make_on=make)
    report.subject = spec if preset is None else f"{spec} ({preset})"
    if scenario.environment is not None:
        report.subject = ", ".join(str(value) for value in scenario.instance(world).values())
        within = check_parallel(scenario.environment(world), steps)
        report.findings += within.findings
        report.skipped += within.skipped
        report.steps += within.steps
    return report


def _check_factory(spec: str, factory: Callable[..., Any], steps: int) -> Report:
    if takes_copies(factory):
        _only_copies(spec, factory)
        return check_batched(lambda copies: factory(copies=copies), steps=min(steps, 200), spec=spec)
    if needs_arguments(factory):
        raise UserError(
            f"'{spec}' needs arguments: name a function that makes an environment without any, or a Scenario"
        )
    env = factory()
    kind = type(env)
    if isinstance(env, BatchedEnv):
        raise UserError(f"'{spec}' makes a BatchedEnv: name a function with the parameter 'copies'")
    if isinstance(env, ParallelEnv | AECEnv):
        env.close()
        check = check_parallel if isinstance(env, ParallelEnv) else check_aec
        return check(factory, steps, spec=spec)
    raise UserError(f"'{spec}' makes a {kind.__name__}, which is neither a PettingZoo environment nor a BatchedEnv")


def _only_copies(spec: str, factory: Callable[..., Any]) -> None:
    try:
        inspect.signature(factory).bind(copies=1)
    except TypeError as error:
        raise UserError(
            f"'{spec}' takes 'copies' but not that alone ({error}): name its Scenario, or a function of 'copies' only"
        ) from None
