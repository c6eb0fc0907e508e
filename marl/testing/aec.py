"""Conformance of a turn-based PettingZoo ``AECEnv``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pettingzoo import AECEnv

from marl.testing.probes import (
    digest,
    global_generators,
    legal_action,
    mask_of,
    probe_flags,
    probe_info,
    probe_mask,
    probe_observation,
    probe_reward,
    told,
)
from marl.testing.report import Report
from marl.testing.trace import aec_trace, compare_elsewhere, difference, factory_spec, name_of

Env: TypeAlias = AECEnv[Any, Any, Any]


def check_aec(
    factory: Callable[[], Env], steps: int = 500, seeds: Sequence[int] = (0, 1), spec: str | None = None
) -> Report:
    """Values, flags, masks and turns of every step, determinism in this process and in another, and ``close``.

    Arguments and faults as in ``check_parallel``; ``steps`` counts turns.
    """
    report = Report(spec or name_of(factory))
    made: list[Env] = []
    try:
        for seed in seeds:
            made.append(factory())
            with global_generators(seed + 1) as used:
                _inspect(report, made[-1], seed, steps)
            if used:
                report.add("global-randomness", f"seed {seed}", f"{' and '.join(used)} drawn from or seeded")
        _determinism(report, factory, made, seeds[0], steps, spec or factory_spec(factory))
    except Exception as error:
        report.add("raises", f"turn {report.steps}", told(error))
    for env in made:
        try:
            env.close()
            env.close()
        except Exception as error:
            report.add("close-twice", "close()", told(error))
    return report


def _inspect(report: Report, env: Env, seed: int, steps: int) -> None:
    possible = set(getattr(env, "possible_agents", ()))
    samplers: dict[Any, Any] = {}
    kept: tuple[Any, str] | None = None
    ended: set[Any] = set()
    episode = -1
    for turn in range(steps):
        if not getattr(env, "agents", None):
            episode += 1
            env.reset(seed=seed + episode)
            ended = set()
            if not env.agents:
                report.add("agents", f"episode {episode}, reset", "no agents after reset")
                return
        agent = env.agent_selection
        where = f"episode {episode}, turn {turn}, {agent}"
        if agent not in env.agents:
            report.add("agent-selection", where, "it is not in agents")
            return
        if possible and not set(env.agents) <= possible:
            report.add("agents", where, "an agent is not in possible_agents")
        if env.action_space(agent) is not env.action_space(agent):
            report.add("space-changes", where, "action_space makes a new space at each call")
        seen, reward, terminated, truncated, info = env.last()
        if kept is not None and digest(kept[0]) != kept[1]:
            report.add("returned-data-reused", where, "the observation of the turn before has changed")
        kept = (seen, digest(seen))
        over = bool(terminated) or bool(truncated)
        probe_reward(report, where, reward)
        probe_flags(report, where, terminated, truncated)
        probe_info(report, where, info)
        if seen is not None:
            probe_observation(report, where, seen, env.observation_space(agent))
        mask = mask_of(seen, info)
        if mask is not None and not over:
            probe_mask(report, where, mask, env.action_space(agent))
        if agent in ended:
            report.add("agent-revived", where, "it had ended in this episode")
        if agent not in samplers:
            samplers[agent] = copy.deepcopy(env.action_space(agent))
            samplers[agent].seed(seed + len(samplers))
        env.step(None if over else legal_action(samplers[agent], mask))
        if over:
            ended.add(agent)
            if agent in env.agents:
                report.add("agent-stays", where, "an agent that ended must leave agents at its last turn")
        report.steps += 1


def _determinism(
    report: Report, factory: Callable[[], Env], made: list[Env], seed: int, steps: int, spec: str | None
) -> None:
    made += [factory(), factory()]
    with global_generators(seed + 2):
        reference = aec_trace(made[-2], seed, steps)
    with global_generators(seed + 3):
        place = difference(reference, aec_trace(made[-1], seed, steps))
        again = difference(reference, aec_trace(made[-1], seed, steps))
    if place is not None:
        report.add("nondeterministic", place, f"a new environment with seed {seed} plays another episode")
        return
    if again is not None:
        report.add("reset-not-clean", again, f"after other episodes, reset(seed={seed}) does not start the same one")
    compare_elsewhere(report, spec, seed, steps, lambda: reference)
