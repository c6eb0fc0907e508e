"""The parts of a tensor world and of its training, each measured alone.

Worlds are driven by recorded random legal actions, so that drawing them takes no time, and always from the same start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from marl.bench.clock import Stopwatch
from marl.config import AnyRunConfig, CoordinationConfig
from marl.coordination.pipeline import Pipeline
from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.envs.random_play import random_actions
from marl.errors import UserError
from marl.policies.joint import Drawn
from marl.rollout.batch import Batch
from marl.rollout.collector import Collector
from marl.scenario import Scenario
from marl.systems.registry import load_system
from marl.systems.system import Evolves
from marl.training.progress import PhaseClock

#: Names of the parts, in the order of their rows.
PARTS = ("world", "guidance", "intent", "safety", "policy", "update", "end")
_MODULES = ("guidance", "intent", "safety")
_SEED = 0


@dataclass
class Part:
    """One thing to measure.

    steps: agent-steps (or what ``unit`` names) of one repeat. run: does a repeat; returns its seconds.
    bytes_per_step: what has to move through memory at the least, where known. notes: more for the row's ``work``,
    asked for when all repeats are done. close: releases what the part held.
    """

    name: str
    steps: Callable[[], float]
    run: Callable[[], float]
    unit: str = "agent-steps"
    bytes_per_step: float | None = None
    notes: Callable[[], dict[str, Any]] = dict
    close: Callable[[], None] = lambda: None


class _Replay:
    """A policy that repeats recorded actions, or records random ones."""

    def __init__(self, env: BatchedEnv):
        self._env, self._step = env, 0
        self.recording = True
        self.actions: list[Tree] = []

    def initial_hidden(self, copies: int) -> dict[str, Tensor]:
        """None: it remembers nothing that a learner sees."""
        return {}

    def rewind(self) -> None:
        """Back to the first action."""
        self._step = 0

    def draw(self, timestep: TimeStep, hidden: dict[str, Tensor], start: Tensor, greedy: bool) -> Drawn:
        """The next action; drafts (``greedy``) do not count as decisions."""
        if self.recording and self._step == len(self.actions):
            self.actions.append(random_actions(self._env, timestep))
        action = self.actions[self._step]
        self._step += not greedy
        return Drawn(action, timestep.reward, hidden, None)


class WorldParts:
    """Makes the parts of one configuration.

    steps: of all copies in one repeat. Raises ``UserError`` if the configuration cannot be built.
    """

    def __init__(self, scenario: Scenario, config: AnyRunConfig, steps: int):
        self._scenario, self._config = scenario, config
        self._device = torch.device(config.device)
        self._watch = Stopwatch(self._device)
        self._steps = steps

    def parts(self, wanted: tuple[str, ...]) -> Iterator[Part]:
        """The parts of those names that this world has."""
        if "world" in wanted:
            yield from self._worlds()
        for module in _MODULES:
            if module in wanted:
                yield from self._coordinated(module)
        if {"policy", "update", "end"} & set(wanted):
            env = self._make()
            try:
                training = _Training(self._config, env, self._watch)
            except UserError:
                env.close()
                raise
            yield from training.parts(wanted)

    def _make(self) -> BatchedEnv:
        return self._scenario.make(self._config.world, self._config.copies, self._device)

    def _replayed(self, name: str, env: BatchedEnv, pipeline: Pipeline) -> tuple[Part, _Replay]:
        """Decide, step, look: over and over, from one start."""
        policy = _Replay(env)
        steps = min(self._steps, env.spec.horizon)

        def play() -> float:
            policy.rewind()
            timestep = pipeline.view(env.reset(_SEED))
            memory = pipeline.begin(policy, timestep)
            began = self._watch.now()
            for _ in range(steps):
                decision = pipeline.act(policy, timestep, memory)
                timestep, memory = pipeline.view(env.step(decision.executed)), decision.memory
            return self._watch.now() - began

        play()
        policy.recording = False
        moved = _bytes(pipeline.view(env.reset(_SEED))) + _bytes(policy.actions[0]) + self._state_bytes(env)
        slots = env.copies * env.spec.n_agents
        return Part(name, lambda: steps * slots, play, bytes_per_step=moved / slots, close=env.close), policy

    def _worlds(self) -> Iterator[Part]:
        """The world that is looked at, and the world alone where it can be had."""
        env = self._make()
        nothing = CoordinationConfig.model_validate({name: {"enabled": False} for name in _MODULES})
        seen, policy = self._replayed("world with observations", env, Pipeline(env, nothing))

        def step() -> float:
            env.reset(_SEED)
            began = self._watch.now()
            for action in policy.actions:
                env.step(action)
            return self._watch.now() - began

        seen.run = step
        alone = self._scenario.benchmark.alone
        if alone is not None:
            move = alone(env)

            def advance() -> float:
                env.reset(_SEED)
                began = self._watch.now()
                for action in policy.actions:
                    assert isinstance(action, Tensor)
                    move(action)
                return self._watch.now() - began

            moved = _bytes(policy.actions[0]) + self._state_bytes(env)
            slots = env.copies * env.spec.n_agents
            yield Part("world alone", seen.steps, advance, bytes_per_step=moved / slots)
        yield seen

    def _coordinated(self, module: str) -> Iterator[Part]:
        """World and observations with one coordination module, where the world has it."""
        own = getattr(self._config.coordination, module).model_dump() | {"enabled": True}
        switches = {name: {"enabled": False} for name in _MODULES} | {module: own}
        env = self._make()
        try:
            pipeline = Pipeline(env, CoordinationConfig.model_validate(switches))
        except UserError:
            env.close()
            return
        yield self._replayed(f"world with {module}", env, pipeline)[0]

    def _state_bytes(self, env: BatchedEnv) -> int:
        measure = self._scenario.benchmark.state_bytes
        return 0 if measure is None else measure(env)


class _Training:
    """Networks and learner of the configured system, on one world."""

    def __init__(self, config: AnyRunConfig, env: BatchedEnv, watch: Stopwatch):
        self._env, self._watch, self._config = env, watch, config
        self._pipeline = Pipeline(env, config.coordination, config.seed)
        self._algorithm = load_system(config.system).algorithm(
            env.spec, self._pipeline.observation_space, config.algorithm, config.seed, torch.device(config.device)
        )
        if isinstance(self._algorithm, Evolves):
            raise UserError(
                f"system '{config.system}' plays whole episodes, and what is measured are rollouts: measure another "
                f"--system, or leave the parts policy, update and end out"
            )
        self._clock = PhaseClock()
        self._collector = Collector(self._pipeline, self._algorithm.policy, self._algorithm.critic, self._clock.phase)
        self._collector.reset(_SEED)
        self._rollout: int = config.algorithm.rollout
        self._updates = 0
        self._batch = self._collect()
        #: Agent-steps of a rollout, and the bytes that each of them holds.
        self._steps = self._rollout * env.copies * env.spec.n_agents
        self._held = sum(_bytes(column) for column in vars(self._batch).values()) / self._steps
        self._epochs: int = getattr(config.algorithm, "epochs", 1)
        self._sizes: dict[str, Any] = {"rollout": self._rollout, "epochs": self._epochs}

    def _collect(self) -> Batch:
        return self._collector.collect(self._rollout)[0]

    def _update(self, batch: Batch) -> None:
        self._algorithm.update(batch, self._updates, 0.0)
        self._updates += 1

    def parts(self, wanted: tuple[str, ...]) -> Iterator[Part]:
        """Policy and critic, update, and the whole; the last of them closes the world."""
        makers = {"policy": self._decisions, "update": self._updating, "end": self._end_to_end}
        chosen = [name for name in makers if name in wanted]
        for name in chosen:
            part = makers[name]()
            if name == chosen[-1]:
                part.close = self._env.close
            yield part

    def _decisions(self) -> Part:
        slots = self._env.copies * self._env.spec.n_agents
        seen = self._pipeline.view(self._env.reset(_SEED))
        moved = (_bytes(seen.observation) + _bytes(seen.state)) / slots + 16  # action, log-probability, value
        repeats = max(1, min(self._rollout, 16))

        def decide() -> float:
            hidden = self._algorithm.policy.initial_hidden(self._env.copies)
            valued = self._algorithm.critic.initial_hidden(self._env.copies)
            start = torch.ones_like(seen.alive)
            began = self._watch.now()
            for _ in range(repeats):
                self._algorithm.policy.draw(seen, hidden, start, False)
                self._algorithm.critic.value(seen.observation, seen.state, seen.alive, valued, start)
            return self._watch.now() - began

        return Part("policy and critic", lambda: repeats * slots, decide, bytes_per_step=moved)

    def _updating(self) -> Part:
        def learn() -> float:
            began = self._watch.now()
            self._update(self._batch)
            return self._watch.now() - began

        moved = self._held * self._epochs
        return Part("update", lambda: self._steps, learn, bytes_per_step=moved, notes=lambda: self._sizes)

    def _end_to_end(self) -> Part:
        self._collector.reset(_SEED)

        def both() -> float:
            began = self._watch.now()
            batch = self._collect()
            with self._clock.phase("update"):
                self._update(batch)
            return self._watch.now() - began

        spent = self._clock.cpu if self._env.device.type == "cpu" else self._clock.wall

        def shares() -> dict[str, Any]:
            total = max(sum(spent.values()), 1e-9)
            return self._sizes | {"shares": {name: seconds / total for name, seconds in spent.items()}}

        spent.clear()
        moved = self._held * (1 + self._epochs)
        return Part("end to end", lambda: self._steps, both, bytes_per_step=moved, notes=shares)


def _bytes(tree: Any) -> int:
    """Bytes of all tensors in a tree of dicts and tuples."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(map(_bytes, tree.values()))
    return sum(map(_bytes, tree)) if isinstance(tree, tuple) else 0
