"""Playing an environment with seeded random actions, and writing down what it did in hashes that can be compared."""

from __future__ import annotations

import copy
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pettingzoo import AECEnv, ParallelEnv

from marl.envs.factories import import_factory
from marl.testing.probes import digest, legal_action, mask_of
from marl.testing.report import Report

#: Label -> hash, such as {"agents": ..., "observation of walker_0": ...}.
Record = dict[str, str]

_SEED_STRIDE = 7919


@dataclass
class Moment:
    """What one ``reset`` (``actions`` is None) or ``step`` of a ``ParallelEnv`` gave.

    before: the agents that acted. after: ``agents`` afterwards. index: calls since the episode's reset.
    named: the returned dicts by what they hold. given: the hash of the actions before they were passed on.
    """

    episode: int
    index: int
    before: list[Any]
    actions: dict[Any, Any] | None
    returned: Any
    after: list[Any]
    named: dict[str, Any] = field(default_factory=dict)
    given: str = ""

    @property
    def where(self) -> str:
        return f"episode {self.episode}, " + ("reset" if self.actions is None else f"step {self.index}")

    def record(self, state: Any = None) -> Record:
        """Everything returned, as hashes."""
        out = {"agents": digest([str(agent) for agent in self.after])}
        for name, values in self.named.items():
            if isinstance(values, Mapping):
                out |= {f"{name} of {agent}": digest(value) for agent, value in values.items()}
            else:
                out[name] = digest(values)
        return out | ({} if state is None else {"state": digest(state)})


_RESET = ("observation", "info")
_STEP = ("observation", "reward", "termination", "truncation", "info")


def moments(
    env: ParallelEnv[Any, Any, Any], seed: int, steps: int, *, seed_all: bool = True, action_seed: int | None = None
) -> Iterator[Moment]:
    """Play ``steps`` steps of random legal actions, in as many episodes as that takes.

    Actions depend on the seed, the agent's name and the spaces only. seed_all: every episode is seeded, not only the
    first. action_seed: of the actions, else ``seed``. The next actions are chosen before a moment is given out, so its
    receiver may overwrite it.
    """
    samplers: dict[Any, Any] = {}
    drawn_from = seed if action_seed is None else action_seed
    episode, made = -1, 0
    agents: list[Any] = []
    actions: dict[Any, Any] = {}
    while made < steps:
        if not agents:
            episode += 1
            index = 0
            own = seed + _SEED_STRIDE * episode
            returned = env.reset(seed=own) if seed_all or episode == 0 else env.reset()
            moment = Moment(episode, 0, [], None, returned, list(env.agents))
        else:
            index += 1
            made += 1
            given = digest(actions)
            returned = env.step(actions)
            moment = Moment(episode, index, agents, actions, returned, list(env.agents), given=given)
        names = _RESET if moment.actions is None else _STEP
        if isinstance(returned, tuple) and len(returned) == len(names):
            moment.named = dict(zip(names, returned, strict=True))
        agents = moment.after
        actions = {}
        for agent in agents:
            if agent not in samplers:
                samplers[agent] = copy.deepcopy(env.action_space(agent))
                samplers[agent].seed(drawn_from + sum(map(ord, str(agent))))
            mask = mask_of(_entry(moment, "observation", agent), _entry(moment, "info", agent))
            actions[agent] = legal_action(samplers[agent], mask)
        yield moment
        if moment.actions is None and not agents:
            return


def _entry(moment: Moment, name: str, agent: Any) -> Any:
    values = moment.named.get(name)
    return values.get(agent) if isinstance(values, Mapping) else None


def parallel_trace(env: ParallelEnv[Any, Any, Any], seed: int, steps: int, *, seed_all: bool = True) -> list[Record]:
    """The hashes of all moments."""
    return [moment.record() for moment in moments(env, seed, steps, seed_all=seed_all)]


def aec_trace(env: AECEnv[Any, Any, Any], seed: int, steps: int) -> list[Record]:
    """The hashes of all turns of a turn-based environment."""
    records: list[Record] = []
    samplers: dict[Any, Any] = {}
    episode = 0
    env.reset(seed=seed)
    for _ in range(steps):
        if not env.agents:
            episode += 1
            env.reset(seed=seed + _SEED_STRIDE * episode)
            if not env.agents:
                break
        agent = env.agent_selection
        seen, reward, terminated, truncated, info = env.last()
        records.append(
            {
                "agents": digest([str(one) for one in env.agents]),
                "turn": digest(str(agent)),
                f"observation of {agent}": digest(seen),
                f"reward of {agent}": digest(reward),
                f"flags of {agent}": digest([bool(terminated), bool(truncated)]),
                f"info of {agent}": digest(info),
            }
        )
        if agent not in samplers:
            samplers[agent] = copy.deepcopy(env.action_space(agent))
            samplers[agent].seed(seed + sum(map(ord, str(agent))))
        over = terminated or truncated
        env.step(None if over else legal_action(samplers[agent], mask_of(seen, info)))
    return records


def difference(ours: list[Record], theirs: list[Record]) -> str | None:
    """The first place where two traces differ, in words; None if they are equal."""
    for call, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        for label in [*a, *(set(b) - set(a))]:
            if a.get(label) != b.get(label):
                return f"call {call}: {label}"
    return None if len(ours) == len(theirs) else f"call {min(len(ours), len(theirs))}: one of the two plays goes on"


# Another process


def factory_spec(factory: Callable[..., Any]) -> str | None:
    """``MODULE:FACTORY`` of a function that another process can import, else None."""
    module, name = getattr(factory, "__module__", None), getattr(factory, "__qualname__", None)
    if not module or not name or module == "__main__" or "<" in name:
        return None
    return f"{module}:{name}"


def name_of(factory: Callable[..., Any]) -> str:
    """How a report calls what a factory makes."""
    return factory_spec(factory) or str(getattr(factory, "__qualname__", factory))


def takes_copies(factory: Callable[..., Any]) -> bool:
    """Whether a factory makes batched worlds: it has a parameter ``copies``."""
    try:
        return "copies" in inspect.signature(factory).parameters
    except ValueError:  # Some built-in types have no signature.
        return False


def needs_arguments(factory: Callable[..., Any]) -> bool:
    """Whether a factory cannot be called without arguments."""
    try:
        inspect.signature(factory).bind()
    except TypeError:
        return True
    except ValueError:  # Some built-in types have no signature.
        return False
    return False


def compare_elsewhere(
    report: Report, spec: str | None, seed: int, steps: int, trace: Callable[[], list[Record]]
) -> None:
    """Report whether an environment plays the same in a new process as here.

    Args:
        report: gets the fault, or why this cannot be known.
        spec: ``module:function`` of the factory; None if it has no such name.
        seed: of the first reset.
        steps: of the trace.
        trace: plays here; not called without ``spec``.
    """
    if spec is None:
        report.skipped.append("determinism across processes: the factory is not a function of a module")
        return
    ours = trace()
    try:
        place = difference(ours, trace_elsewhere(spec, seed, steps))
    except RuntimeError as error:
        report.skipped.append(f"determinism across processes: {spec} does not run in a new process ({error})")
        return
    if place is not None:
        report.add("nondeterministic-across-processes", place, f"seed {seed} plays another episode in a new process")


def trace_elsewhere(spec: str, seed: int, steps: int, timeout_s: float = 600.0) -> list[Record]:
    """The trace of an environment made in a new process with another hash seed; ``RuntimeError`` if that fails."""
    with tempfile.TemporaryDirectory(prefix="marl-trace-") as folder:
        answer = Path(folder) / "trace.json"
        variables = {**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        program = "import sys; from marl.testing.trace import write_trace; write_trace(*sys.argv[1:])"
        command = [sys.executable, "-c", program, spec, str(seed), str(steps), str(answer)]
        run = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=timeout_s, check=False)
        if run.returncode or not answer.exists():
            words = run.stderr.strip().splitlines()[-1:] or [f"exit code {run.returncode}"]
            raise RuntimeError(words[0])
        records: list[Record] = json.loads(answer.read_text())
        return records


def write_trace(spec: str, seed: str, steps: str, answer: str) -> None:
    """What the new process runs: the trace of what ``spec`` makes, as JSON in the file ``answer``."""
    factory = import_factory(spec)
    if takes_copies(factory):
        # Not at the top: torch takes seconds to load, and the new process of a PettingZoo environment needs none.
        from marl.envs.pettingzoo import ParallelFace

        env: Any = ParallelFace(factory(copies=1), newcomers=True)
    else:
        env = factory()
    play = aec_trace if isinstance(env, AECEnv) else parallel_trace
    Path(answer).write_text(json.dumps(play(env, int(seed), int(steps))))
