"""Learned policies outside training: bound to a world for evaluation, or asked for single decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.config import AnyRunConfig, CoordinationConfig
from marl.coordination.pipeline import Memory, Pipeline
from marl.coordination.safety import METRICS as SAFETY_METRICS
from marl.coordination.safety import Safety
from marl.envs.abilities import Adapts
from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.envs.spaces import BitWindow
from marl.errors import UserError
from marl.policies.base import Baseline, BoundPolicy
from marl.policies.joint import JointPolicy, Unit, noise
from marl.scenario import load_scenario
from marl.seeding import Stream, fold, fold_int
from marl.systems.registry import load_system
from marl.training.checkpoint import CheckpointStore
from marl.training.language_policy import LearnedSpeakers
from marl.training.run_folder import read_config


class PipelinePolicy:
    """A joint policy at the end of a world's coordination pipeline (``BoundPolicy`` and ``Accounts``)."""

    def __init__(self, pipeline: Pipeline, policy: JointPolicy, greedy: bool):
        self._pipeline, self._policy, self._greedy = pipeline, policy, greedy
        self._memory: Memory | None = None
        self._accounted: tuple[TimeStep, TimeStep] | None = None
        self.metrics = pipeline.metrics

    def account(self, timestep: TimeStep) -> TimeStep:
        seen = self._pipeline.view(timestep)
        self._accounted = (timestep, seen)
        return seen

    def act(self, timestep: TimeStep) -> Tree:
        if self._accounted is not None and self._accounted[0] is timestep:
            seen = self._accounted[1]
        else:
            seen = self._pipeline.view(timestep)
        if self._memory is None:
            self._memory = self._pipeline.begin(self._policy, seen)
        decision = self._pipeline.act(self._policy, seen, self._memory, self._greedy)
        self._memory = decision.memory
        return decision.executed


class SupervisedRule:
    """A rule whose actions the world's supervisor corrects (``BoundPolicy`` and ``Accounts``)."""

    metrics = SAFETY_METRICS

    def __init__(self, rule: BoundPolicy, safety: Safety):
        self._rule, self._safety = rule, safety

    def account(self, timestep: TimeStep) -> TimeStep:
        return self._safety.account(timestep)

    def act(self, timestep: TimeStep) -> Tree:
        proposed = self._rule.act(timestep)
        assert isinstance(proposed, Tensor)
        return self._safety.correct(timestep, proposed).executed


def is_greedy(config: AnyRunConfig) -> bool:
    """The policies of a run take their likeliest actions when they are evaluated: the option ``greedy``, if any."""
    return bool(getattr(config.algorithm, "greedy", False))


def supervise(rule: Baseline) -> Baseline:
    """A baseline under the world's supervisor; binding it raises ``UserError`` where the world has none."""
    return lambda env: SupervisedRule(rule(env), Safety(env))


class LearnedPolicy:
    """A policy as a run left it.

    ``bind(env)`` gives the policy of all agents of a batched world of the same scenario; ``act(observations)`` decides
    for one agent or a dict of them, in the form that the scenario's ``parallel_env`` shows.
    """

    def __init__(self, name: str, config: AnyRunConfig, state: Mapping[str, Tensor], modules: Mapping[str, Any]):
        self.name, self.config = name, config
        self._state, self._modules = state, modules
        self._single: _Single | None = None

    def bind(self, env: BatchedEnv) -> PipelinePolicy:
        """Raises ``UserError`` if the world shows agents something else than what the policy was trained on."""
        if isinstance(env, Adapts):
            env.adapt(self.config.world)
        pipeline = Pipeline(env, self.config.coordination)
        pipeline.load_learned(self._modules)
        return PipelinePolicy(pipeline, self._network(env, pipeline.observation_space), is_greedy(self.config))

    def supervised(self, enabled: bool) -> LearnedPolicy:
        """The same policy with the supervisor put on or taken away."""
        coordination = self.config.coordination
        safety = coordination.safety.model_copy(update={"enabled": enabled})
        return self.coordinated(coordination.model_copy(update={"safety": safety}))

    def coordinated(self, coordination: CoordinationConfig) -> LearnedPolicy:
        """The same policy with other options of the modules, such as late messages."""
        changed = self.config.model_copy(update={"coordination": coordination})
        return LearnedPolicy(self.name, changed, self._state, self._modules)

    def _network(self, env: BatchedEnv, observation_space: Mapping[str, spaces.Space[Any]]) -> JointPolicy:
        system = load_system(self.config.system)
        policy = system.policy(env.spec, observation_space, self.config.algorithm, torch.Generator())
        try:
            policy.load_state_dict(self._state)
        except RuntimeError:
            raise UserError(
                f"policy '{self.name}' does not fit this world: it was trained with other observations, actions or "
                f"groups of agents; evaluate it with the world options in its config.yaml"
            ) from None
        return policy.to(env.device).eval()

    def act(self, observations: Any, seed: int = 0) -> Any:
        """The action of one agent, or ``{agent: action}`` for a dict of agents.

        observations: one agent's observation, or a dict of them by agent name, as ``parallel_env`` returns them.
        Recurrent state is kept by agent name until ``reset``. Sampling depends on ``seed`` and the number of the call.
        """
        if self._single is None:
            scenario = load_scenario(self.config.scenario)
            env = scenario.make(self.config.world, 1, torch.device("cpu"))
            space = Pipeline(env, self.config.coordination).observation_space
            self._single = _Single(self._network(env, space), space, is_greedy(self.config))
            env.close()
        return self._single.act(observations, seed)

    def reset(self) -> None:
        """Forget recurrent state and the number of calls: a new episode begins."""
        if self._single is not None:
            self._single.reset()


class _Single:
    """Decisions for agents by name, outside any world."""

    def __init__(self, policy: JointPolicy, space: Mapping[str, spaces.Space[Any]], greedy: bool):
        self._policy, self._space, self._greedy = policy, space, greedy
        self._unit_of = {policy.spec.agents[agent]: unit for unit in policy.units for agent in unit.index}
        self.reset()

    def reset(self) -> None:
        self._calls = 0
        self._hidden: dict[str, Tensor] = {}

    @torch.no_grad()
    def act(self, observations: Any, seed: int) -> Any:
        named = observations if self._is_by_agent(observations) else {"": observations}
        by_unit: dict[str, list[str]] = {}
        for agent in named:
            by_unit.setdefault(self._unit(agent).name, []).append(agent)
        actions: dict[str, Any] = {}
        for unit_name, agents in by_unit.items():
            actions |= self._decide(unit_name, agents, named, fold_int(fold_int(seed, Stream.POLICY), self._calls))
        self._calls += 1
        return {agent: actions[agent] for agent in named} if named is observations else actions[""]

    def _is_by_agent(self, observations: Any) -> bool:
        if not isinstance(observations, Mapping):
            return False
        return not any(
            isinstance(one, spaces.Dict) and set(observations) == set(one.spaces) for one in self._space.values()
        )

    def _unit(self, agent: str) -> Unit:
        if agent in self._unit_of:
            return self._unit_of[agent]
        if len(self._policy.units) == 1:  # shared by all: a world of another size has agents that training had not
            return self._policy.units[0]
        raise UserError(f"agent '{agent}' is not one of the policy's agents: {', '.join(self._unit_of)}")

    def _decide(self, unit_name: str, agents: list[str], observations: Mapping[str, Any], key: int) -> dict[str, Any]:
        unit = next(unit for unit in self._policy.units if unit.name == unit_name)
        space = self._space[unit.group]
        seen = _stacked([observations[agent] for agent in agents], space, agents[0])
        head, hidden = self._policy.decide(unit, seen, self._stacked_hidden(unit, agents), agents)
        keys = fold(torch.tensor(key), torch.tensor([_number(agent, i) for i, agent in enumerate(agents)]))
        action = head.mode() if self._greedy else head.sample(noise(keys, head.noise_shape))
        if hidden is not None:
            self._hidden |= dict(zip(agents, hidden, strict=True))
        discrete = not action.is_floating_point()
        return {agent: int(a) if discrete else a.numpy() for agent, a in zip(agents, action, strict=True)}

    def _stacked_hidden(self, unit: Unit, agents: list[str]) -> Tensor | None:
        size = self._policy.hidden_size(unit)
        if size == 0:
            return None
        return torch.stack([self._hidden.get(agent, torch.zeros(size)) for agent in agents])


def _number(agent: str, place: int) -> int:
    """A number that keeps agents' random draws apart: the digits at the end of the name, else the place."""
    digits = agent[len(agent.rstrip("0123456789")) :]
    return int(digits) if digits else place


def _stacked(observations: list[Any], space: spaces.Space[Any], agent: str) -> Tree:
    """Observations of n agents, as the PettingZoo face shows them, as a tree of ``[n, *]``."""
    if isinstance(space, spaces.Dict):
        for seen in observations:
            if not isinstance(seen, Mapping) or set(seen) != set(space.spaces):
                raise UserError(f"the observation of agent '{agent}' must be a dict with {', '.join(space.spaces)}")
        return {
            name: _stacked([seen[name] for seen in observations], part, agent) for name, part in space.spaces.items()
        }
    array = torch.from_numpy(np.stack([np.asarray(seen) for seen in observations]))
    if isinstance(space, BitWindow):
        array = space.pack(array)
    if array.shape[1:] != space.shape:
        raise UserError(
            f"an observation of agent '{agent}' has shape {tuple(array.shape[1:])}, the policy expects {space.shape}"
        )
    return array


def load_policy(path: Path, echo: Callable[[str], None] = lambda _: None) -> LearnedPolicy | LearnedSpeakers:
    """The policy of a run folder's newest whole checkpoint. Raises ``UserError`` if there is none."""
    config = read_config(path)
    tree, _, _ = CheckpointStore(path, keep=1).latest(echo)
    if load_system(config.system).kind == "language":
        return LearnedSpeakers(path.name, config, tree["algorithm"])
    return LearnedPolicy(path.name, config, tree["algorithm"]["policy"], tree.get("modules", {}))
