"""Learned policies outside training: bound to a world for evaluation, or asked for single decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from marl.config import AnyRunConfig, CoordinationConfig, Layer, resolve
from marl.coordination.pipeline import Memory, Pipeline
from marl.coordination.safety import METRICS as SAFETY_METRICS
from marl.coordination.safety import Safety
from marl.envs.abilities import Adapts
from marl.envs.batched import BatchedEnv, TimeStep, Tree
from marl.envs.pettingzoo import ParallelFace
from marl.errors import UserError
from marl.policies.base import Baseline, BoundPolicy
from marl.policies.joint import JointPolicy
from marl.scenario import load_scenario
from marl.systems.registry import load_system
from marl.training.acting import ByName, OnFace
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
        self._single: ByName | None = None
        self._on_face: tuple[ParallelFace, OnFace] | None = None

    def bind(self, env: BatchedEnv) -> PipelinePolicy:
        """Raises ``UserError`` if the world shows agents something else than what the policy was trained on."""
        self.adapt(env)
        pipeline = Pipeline(env, self.config.coordination)
        pipeline.load_learned(self._modules)
        return PipelinePolicy(pipeline, self.network(env, pipeline.observation_space), is_greedy(self.config))

    def __reduce__(self) -> tuple[Any, ...]:
        # The class of a configuration is made for its scenario and system, and found by their names.
        return _restored, (self.name, self.config.model_dump(mode="json"), dict(self._state), dict(self._modules))

    def adapt(self, env: BatchedEnv) -> None:
        """Let a world show what the policy was trained to see, where it can choose. Before ``bind`` and ``reset``."""
        if isinstance(env, Adapts):
            env.adapt(self.config.world)

    def supervised(self, enabled: bool) -> LearnedPolicy:
        """The same policy with the supervisor put on or taken away."""
        coordination = self.config.coordination
        safety = coordination.safety.model_copy(update={"enabled": enabled})
        return self.coordinated(coordination.model_copy(update={"safety": safety}))

    def coordinated(self, coordination: CoordinationConfig) -> LearnedPolicy:
        """The same policy with other options of the modules, such as late messages."""
        changed = self.config.model_copy(update={"coordination": coordination})
        return LearnedPolicy(self.name, changed, self._state, self._modules)

    def network(self, env: BatchedEnv, observation_space: Mapping[str, spaces.Space[Any]]) -> JointPolicy:
        """The networks with their weights, for a world that shows this. Raises ``UserError`` if they do not fit."""
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

    def act(self, observations: Any, infos: Any = None, seed: int = 0, env: ParallelFace | None = None) -> Any:
        """The action of one agent, or ``{agent: action}`` for a dict of agents, as ``action_space`` has it.

        Recurrent state is kept by agent name until ``reset``. What ``evaluate`` would do on the same observations; also
        where it samples, if ``infos`` has the ``key`` that environments of this platform show. Without a key sampling
        depends on ``seed`` and the number of the call.
        Raises ``UserError`` for an observation that does not fit, for a mask that is missing, and without ``env`` where
        it is needed.

        Args:
            observations: one agent's observation, or a dict of them by agent name, as a ``ParallelEnv`` returns them;
                ``{"observation": ..., "action_mask": ...}`` is one, too.
            infos: one agent's info, or a dict of them, with ``action_mask`` where the world has masks.
            seed: of sampled actions.
            env: the environment that the observations are of, made by ``marl.parallel_env(..., policy=self)``. Policies
                with a supervisor (``coordination.safety``) or intents have to ask it; masks and keys are known there.
                All living agents decide at once, and only they.
        """
        if env is not None:
            return self._player(env).act(observations)
        coordination = self.config.coordination
        asks = [name for name in ("safety", "intent") if getattr(coordination, name).enabled]
        if asks:
            raise UserError(
                f"policy '{self.name}' asks its world before it acts (coordination.{asks[0]}): make the environment by "
                f"marl.parallel_env('{self.config.scenario}', policy=policy) and call policy.act(observations, env=env)"
            )
        if self._single is None:
            scenario = load_scenario(self.config.scenario)
            with closing(scenario.make(self.config.world, 1, torch.device("cpu"))) as env_:
                space = Pipeline(env_, coordination).observation_space
                masks = env_.reset(0).action_mask
                masked = frozenset(masks if isinstance(masks, dict) else () if masks is None else env_.spec.groups)
                self._single = ByName(self.network(env_, space), space, masked, is_greedy(self.config))
        return self._single.act(observations, infos, seed)

    def _player(self, face: ParallelFace) -> OnFace:
        if self._on_face is None or self._on_face[0] is not face:
            if getattr(face.pipeline, "config", None) != self.config.coordination:
                raise UserError(
                    f"the environment has not the coordination modules of policy '{self.name}': make it by "
                    f"marl.parallel_env('{self.config.scenario}', policy=policy)"
                )
            face.pipeline.load_learned(self._modules)

            def network(pipeline: Pipeline) -> JointPolicy:
                return self.network(face.env, pipeline.observation_space)

            self._on_face = face, OnFace(network, face, is_greedy(self.config))
        return self._on_face[1]

    def reset(self) -> None:
        """Forget recurrent state and the number of calls: a new episode begins (an ``env`` tells it by itself)."""
        if self._single is not None:
            self._single.reset()


def _restored(
    name: str, values: dict[str, Any], state: Mapping[str, Tensor], modules: Mapping[str, Any]
) -> LearnedPolicy:
    scenario, system = load_scenario(values["scenario"]), load_system(values["system"])
    config = resolve(scenario.config, system.config, [Layer("a copied policy", values)])
    return LearnedPolicy(name, config, state, modules)


def load_policy(path: Path, echo: Callable[[str], None] = lambda _: None) -> LearnedPolicy | LearnedSpeakers:
    """The policy of a run folder's newest whole checkpoint. Raises ``UserError`` if there is none."""
    config = read_config(path)
    tree, _, _ = CheckpointStore(path, keep=1).latest(echo)
    if load_system(config.system).kind == "language":
        return LearnedSpeakers(path.name, config, tree["algorithm"])
    return LearnedPolicy(path.name, config, tree["algorithm"]["policy"], tree.get("modules", {}))
