"""MAPPO: proximal policy optimisation with a central critic; ``ippo`` is the same with local critics.

Yu et al., "The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games", NeurIPS 2022, arXiv 2103.01955.
Its five suggestions are the defaults: normalised values, agent-specific features in the critic's state (the world's
part), few epochs with large batches, a clip of at most 0.2, and no loss on slots without an acting agent. Unlike much
published code, a time limit bootstraps from the final state, advantages are normalised over the whole batch, and the
statistics of the value normaliser are buffers, updated once per batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from gymnasium import spaces
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from marl.config import Frozen
from marl.envs.batched import EnvSpec
from marl.errors import UserError
from marl.learning.advantages import gae, normalize
from marl.learning.learner import ClippedAdam, micro_batches, minibatches
from marl.learning.regularizers import masked_mean
from marl.learning.surrogates import approximate_kl, clip_fraction, ppo_clip
from marl.learning.value_losses import ValueNorm, clipped, huber, squared
from marl.policies.config import DEFAULT_NETWORK, NetworkConfig
from marl.policies.critic import Mixer
from marl.policies.heads import Head
from marl.policies.joint import Sharing, Unit
from marl.policies.joint_critic import CriticInput, JointCritic
from marl.rollout.batch import Batch, Decisions, columns, stretches
from marl.seeding import Stream, generator
from marl.systems.system import MakesPolicy, System, joint_policy

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class MappoConfig(Frozen):
    """Options of MAPPO and IPPO. Defaults: the table "MAPPO practice" of the literature, for cheap worlds."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    rollout: Annotated[int, Field(ge=1, le=4096)] = 64
    """Steps of each copy between two updates."""
    epochs: Annotated[int, Field(ge=1, le=100)] = 2
    """Passes over each batch."""
    minibatches: Annotated[int, Field(ge=1, le=1024)] = 2
    """Gradient steps of a pass."""
    micro_batch: Annotated[int, Field(ge=1)] = 16384
    """Agent-steps whose gradient is computed at once; changes speed and memory, not the result."""
    actor_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 5e-4
    """Learning rate of the policy."""
    critic_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 5e-4
    """Learning rate of the critic."""
    anneal: bool = False
    """Let both learning rates fall linearly to zero over the run."""
    gamma: Share = 0.99
    """Discount per step."""
    gae_lambda: Share = 0.95
    """Of generalised advantage estimation: 0 trusts the critic, 1 the rewards alone."""
    clip: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """How far a probability ratio counts beyond 1."""
    entropy: Annotated[float, Field(ge=0.0)] = 0.01
    """Weight of the entropy bonus."""
    value_loss: Literal["huber", "squared"] = "huber"
    """Loss of the critic."""
    huber_delta: Annotated[float, Field(gt=0.0)] = 10.0
    """Error above which the Huber loss is linear."""
    value_clip: Annotated[float, Field(gt=0.0)] | None = None
    """Clip of the value's change, in normalised units; null: none."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 10.0
    """Gradients are clipped to this norm."""
    value_norm: bool = True
    """Learn values in units of their running mean and standard deviation."""
    value_norm_beta: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """Memory of the value statistics, per update (the original's .99999 counts minibatch steps)."""
    advantage_norm: bool = True
    """Shift and scale the advantages of a batch to mean 0 and standard deviation 1."""
    target_kl: Annotated[float, Field(gt=0.0)] | None = None
    """Stop the epochs of an update when the approximate KL divergence of a minibatch exceeds this."""
    actor: NetworkConfig = DEFAULT_NETWORK
    critic: NetworkConfig = DEFAULT_NETWORK
    critic_input: CriticInput = "state"
    """What the critic sees: the shared state, or the observation of its agent."""
    critic_mixer: Mixer = "none"
    """How values of agents are put together."""
    critic_shared: bool = False
    """One value for all agents of a copy even where they earn differently; needs a state that they share."""
    sharing: Sharing = "group"
    """Which agents share weights."""
    agent_index: bool = False
    """Append the agent's place in its group to its observation, one-hot."""
    stretch: Annotated[int, Field(ge=1)] = 16
    """Steps of truncated back-propagation through time of recurrent networks."""
    greedy: bool = False
    """Act by the most probable action when evaluated, instead of sampling."""

    @model_validator(mode="after")
    def _divisible(self) -> MappoConfig:
        recurrent = "gru" in (self.actor.recurrent, self.critic.recurrent)
        if recurrent and self.rollout % self.stretch:
            raise ValueError(f"rollout={self.rollout} is not a multiple of stretch={self.stretch}")
        return self


class IppoConfig(MappoConfig):
    """MAPPO's options with a critic that sees the agent's own observation only."""

    critic_input: CriticInput = "observation"
    """What the critic sees: the shared state, or the observation of its agent."""


class Mappo:
    """Policy, critic and the update. All randomness comes from ``seed`` and the number of the update."""

    def __init__(
        self,
        spec: EnvSpec,
        observation_space: Mapping[str, spaces.Space[Any]],
        config: MappoConfig,
        seed: int,
        device: torch.device,
        policy: MakesPolicy = joint_policy,
    ):
        self.config, self._spec, self._seed = config, spec, seed
        self._value_loss = squared if config.value_loss == "squared" else huber(config.huber_delta)
        init = generator(seed, Stream.INIT)
        self.policy = policy(spec, observation_space, config, init).to(device)
        self.critic = JointCritic(
            spec,
            observation_space,
            config.critic,
            config.critic_input,
            config.critic_mixer,
            config.critic_shared,
            ValueNorm(beta=config.value_norm_beta) if config.value_norm else None,
            generator=init,
        ).to(device)
        self._actor_adam = ClippedAdam(self.policy.parameters(), config.actor_rate, config.max_grad_norm, config.anneal)
        self._critic_adam = ClippedAdam(
            self.critic.parameters(), config.critic_rate, config.max_grad_norm, config.anneal
        )
        recurrent = bool(self.policy.initial_hidden(1) or self.critic.initial_hidden(1))
        self._stretch = config.stretch if recurrent else 1
        if config.rollout % self._stretch:
            raise UserError(f"algorithm.rollout={config.rollout} is not a multiple of stretch={config.stretch}")
        # Agents whose losses do not depend on the slot they are in: the living can be moved together.
        self._exchangeable = not recurrent and self.policy.exchangeable and self.critic.independent

    def state(self) -> dict[str, object]:
        """Parameters, buffers and moments, as a tree of tensors."""
        return {
            "policy": dict(self.policy.state_dict()),
            "critic": dict(self.critic.state_dict()),
            "actor_adam": self._actor_adam.state(),
            "critic_adam": self._critic_adam.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.critic.load_state_dict(state["critic"])
        self._actor_adam.load_state(state["actor_adam"])
        self._critic_adam.load_state(state["critic_adam"])

    def update(self, batch: Batch, number: int, fraction: float) -> dict[str, float]:
        """Learn from one batch.

        number: of this update, keys its shuffles. fraction: the part of the run that is done, for schedules.
        Returns the figures of the update: means over its minibatches.
        """
        config = self.config
        for adam in (self._actor_adam, self._critic_adam):
            adam.schedule(fraction)
        advantage = gae(
            batch.reward, batch.value, batch.next_value, batch.terminated, batch.cut, config.gamma, config.gae_lambda
        )
        returns = advantage + batch.value
        norm = self.critic.value_norm
        if isinstance(norm, ValueNorm):
            norm.update(returns, batch.mask)
            target, old_value = norm.normalize(returns), norm.normalize(batch.value)
        else:
            target, old_value = returns, batch.value
        explained = _explained_variance(batch.value, returns, batch.mask)
        if config.advantage_norm:
            advantage = normalize(advantage, batch.mask)

        rows = Rows.of(batch, advantage, target, old_value, self._stretch, self._exchangeable)
        agents = self._stretch * self._spec.n_agents
        steps: list[dict[str, Tensor]] = []
        for epoch in range(config.epochs):
            shuffle = generator(self._seed, Stream.SHUFFLE, number, epoch)
            for part in minibatches(rows.count, config.minibatches, shuffle):
                steps.append(self._step(rows, part, max(config.micro_batch // agents, 1)))
                if config.target_kl is not None and float(steps[-1]["approximate_kl"]) > config.target_kl:
                    break
            else:
                continue
            break
        return {"explained_variance": float(explained), **_means(steps)}

    def _step(self, rows: Rows, part: Tensor, micro: int) -> dict[str, Tensor]:
        """One gradient step of actor and critic on the rows of a minibatch; its figures stay on the device."""
        config = self.config
        self._actor_adam.zero()
        self._critic_adam.zero()
        total = rows.mask[:, part].sum().clamp(min=1)
        sums: dict[str, Tensor] = {}
        largest = torch.zeros((), device=total.device)

        def add(figures: Mapping[str, Tensor]) -> None:
            for name, figure in figures.items():
                sums[name] = sums.get(name, torch.zeros((), device=total.device)) + figure.detach()

        for piece in micro_batches(part, micro):
            r = rows.take(piece)
            losses = torch.zeros((), device=total.device)
            for unit, head in self.policy.heads(r.observation, r.action_mask, _first(r.actor_hidden), r.start):
                mask = unit.take_agents(r.mask, 2)
                action = unit.take(self._spec, r.action, 2)
                assert isinstance(action, Tensor)
                log_ratio = (head.log_prob(action) - unit.take_agents(r.log_prob, 2)).masked_fill(~mask, 0.0)
                policy_loss, learned = self._policy_loss(unit, head, log_ratio, r, mask)
                entropy = (head.entropy() * mask).sum()
                losses = losses + policy_loss - config.entropy * entropy
                with torch.no_grad():
                    drift = (approximate_kl(log_ratio) * mask).sum()
                    add({"policy_loss": policy_loss, "entropy": entropy, "approximate_kl": drift, **learned})
                    largest = torch.maximum(largest, log_ratio.abs().max())
            value = self.critic(r.observation, r.state, r.mask, _first(r.critic_hidden), r.start)
            if config.value_clip is None:
                per_agent = self._value_loss(value, r.target)
            else:
                per_agent = clipped(self._value_loss, config.value_clip, value, r.old_value, r.target)
            critic_loss = (per_agent * r.mask).sum()
            add({"value_loss": critic_loss})
            torch.autograd.backward((losses + critic_loss) / total)
        figures = {name: value / total for name, value in sums.items()}
        figures["actor_grad_norm"] = self._actor_adam.step()
        figures["critic_grad_norm"] = self._critic_adam.step()
        figures["largest_log_ratio"] = largest
        return figures

    def _policy_loss(
        self, unit: Unit, head: Head, log_ratio: Tensor, r: Rows, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a unit's decisions, summed over ``mask``, and named figures summed in the same way."""
        clip = self.config.clip
        loss = (ppo_clip(log_ratio, unit.take_agents(r.advantage, 2), clip) * mask).sum()
        with torch.no_grad():
            return loss, {"clip_fraction": (clip_fraction(log_ratio, clip) * mask).sum()}


@dataclass(kw_only=True)
class Rows(Decisions):
    """Stretches of L steps of a batch, every column ``[L, R, N, *]``, and what they are to learn.

    actor_hidden, critic_hidden: at the stretch's beginning only, ``[1, R, N_u, H]``.
    advantage, target: float32; ``target``: of the critic, in its own units. old_value: what it said, in the same units.
    """

    advantage: Tensor
    target: Tensor
    old_value: Tensor

    @classmethod
    def of(
        cls, batch: Batch, advantage: Tensor, target: Tensor, old_value: Tensor, length: int, exchangeable: bool
    ) -> Rows:
        """Cut a batch into stretches of ``length`` steps.

        exchangeable: agents may change places, so that the living can be moved together and the dead cost nothing.
        """
        living = None
        if exchangeable and bool(batch.mask.any()) and not bool(batch.mask.all()):
            living = _packed(batch.mask)

        def cut(x: Tensor) -> Tensor:
            return stretches(x, length) if living is None else x.flatten(0, 2)[living].unsqueeze(0)

        rows = cls(
            **columns(Decisions(**columns(batch, Decisions)).map(cut)),
            advantage=cut(advantage),
            target=cut(target),
            old_value=cut(old_value),
        )
        for hidden in (rows.actor_hidden, rows.critic_hidden):
            hidden |= {name: x[:1] for name, x in hidden.items()}
        if living is not None:
            rows.mask.view(-1)[int(batch.mask.sum()) :] = False
        return rows

    @property
    def count(self) -> int:
        return self.mask.shape[1]

    def take(self, index: Tensor) -> Rows:
        """The rows of these numbers, int64 ``[R']``."""
        index = index.to(self.mask.device)
        return self.map(lambda x: x.index_select(1, index))


def _first(hidden: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x[0] for name, x in hidden.items()}


def _packed(mask: Tensor) -> Tensor:
    """Where the living of bool ``[T, B, N]`` stand, int64 ``[ceil(K / N), N]``; the last row is filled up with some."""
    living = mask.flatten().nonzero()[:, 0]
    agents = mask.shape[2]
    return torch.cat((living, living[:1].expand(-len(living) % agents))).view(-1, agents)


def _means(steps: list[dict[str, Tensor]]) -> dict[str, float]:
    """The figures of an update: means over its minibatches, read from the device at once."""
    table = torch.stack([torch.stack([step[name].double() for name in step]) for step in steps]).cpu()
    figures = dict(zip(steps[0], table.mean(0).tolist(), strict=True))
    del figures["largest_log_ratio"]
    first = list(steps[0]).index("largest_log_ratio")
    return figures | {"first_log_ratio": float(table[0, first]), "minibatch_steps": float(len(steps))}


def _explained_variance(value: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - variance of the error / variance of the returns, where ``mask``; 0 where the returns do not vary."""
    spread, error = _masked_variance(returns, mask), _masked_variance(returns - value, mask)
    return torch.where(spread > 0, 1.0 - error / spread, 0.0)


def _masked_variance(x: Tensor, mask: Tensor) -> Tensor:
    return masked_mean((x - masked_mean(x, mask)).square(), mask)


MAPPO = System(
    name="mappo",
    summary="PPO with a central critic",
    paper="arXiv 2103.01955",
    config=MappoConfig,
    build=Mappo,
)
IPPO = System(
    name="ippo",
    summary="PPO with local critics",
    paper="arXiv 2011.09533",
    config=IppoConfig,
    build=Mappo,
)
