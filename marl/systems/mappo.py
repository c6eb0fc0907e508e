"""MAPPO: proximal policy optimisation with a central critic; ``ippo`` is the same with local critics.

Yu et al., "The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games", NeurIPS 2022, arXiv 2103.01955.
Its five suggestions are the defaults: normalised values, agent-specific features in the critic's state (the world's
part), few epochs with large batches, a clip of at most 0.2, and no loss on slots without an acting agent. Unlike much
published code, a time limit bootstraps from the final state, advantages are normalised over the whole batch, and the
statistics of the value normaliser are buffers, updated once per batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
from marl.rollout.batch import Batch
from marl.rollout.rows import Rows, first_step
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
    """Policy, critic and the update. All randomness comes from ``seed`` and the number of the update.

    Other systems are made of it by overriding ``reward``, ``advantages``, ``policy_loss`` or ``critic_loss``, or by an
    ``update`` of their own out of ``prepare``, ``learn`` and ``log_ratios``.

    stretch: steps of a row, more than 1 for recurrent networks. exchangeable: no loss depends on the slot that an agent
    is in, so that the living can be moved together.
    """

    def __init__(
        self,
        spec: EnvSpec,
        observation_space: Mapping[str, spaces.Space[Any]],
        config: MappoConfig,
        seed: int,
        device: torch.device,
        policy: MakesPolicy = joint_policy,
    ):
        self.config, self.spec, self.seed = config, spec, seed
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
        self.actor_adam = ClippedAdam(self.policy.parameters(), config.actor_rate, config.max_grad_norm, config.anneal)
        self.critic_adam = ClippedAdam(
            self.critic.parameters(), config.critic_rate, config.max_grad_norm, config.anneal
        )
        recurrent = bool(self.policy.initial_hidden(1) or self.critic.initial_hidden(1))
        self.stretch = config.stretch if recurrent else 1
        if config.rollout % self.stretch:
            raise UserError(f"algorithm.rollout={config.rollout} is not a multiple of stretch={config.stretch}")
        self.exchangeable = not recurrent and self.policy.exchangeable and self.critic.independent

    def state(self) -> dict[str, object]:
        """Parameters, buffers and moments, as a tree of tensors."""
        return {
            "policy": dict(self.policy.state_dict()),
            "critic": dict(self.critic.state_dict()),
            "actor_adam": self.actor_adam.state(),
            "critic_adam": self.critic_adam.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.critic.load_state_dict(state["critic"])
        self.actor_adam.load_state(state["actor_adam"])
        self.critic_adam.load_state(state["critic_adam"])

    def update(self, batch: Batch, number: int, fraction: float) -> dict[str, float]:
        """Learn from one batch; returns the figures of the update: means over its minibatches.

        Args:
            batch: a rollout.
            number: of this update, keys its shuffles.
            fraction: the part of the run that is done, for schedules.
        """
        self.schedule(fraction)
        rows, figures = self.prepare(batch)
        return figures | means(self.learn(rows, number))

    def schedule(self, fraction: float) -> None:
        """Take the learning rates of a moment; fraction: the part of the run that is done."""
        for adam in (self.actor_adam, self.critic_adam):
            adam.schedule(fraction)

    def reward(self, batch: Batch) -> Tensor:
        """What is learned to earn, float32 ``[T, B, N]``."""
        return batch.reward

    def advantages(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Advantages of what was done and the returns that the critic learns, in units of reward ``[T, B, N]``."""
        config = self.config
        reward = self.reward(batch)
        advantage = gae(
            reward, batch.value, batch.next_value, batch.terminated, batch.cut, config.gamma, config.gae_lambda
        )
        return advantage, advantage + batch.value

    def prepare(self, batch: Batch) -> tuple[Rows, dict[str, float]]:
        """The batch as rows of normalised advantages and targets, and figures; updates the value's statistics."""
        advantage, returns = self.advantages(batch)
        norm = self.critic.value_norm
        if isinstance(norm, ValueNorm):
            norm.update(returns, batch.mask)
            target, old_value = norm.normalize(returns), norm.normalize(batch.value)
        else:
            target, old_value = returns, batch.value
        explained = _explained_variance(batch.value, returns, batch.mask)
        if self.config.advantage_norm:
            advantage = normalize(advantage, batch.mask)
        if self.critic.source == "observation":
            # It may be one vector per copy, which does not move with agents that are packed together.
            batch = replace(batch, state=None)
        rows = Rows.of(batch, advantage, target, old_value, self.stretch, self.exchangeable)
        return rows, {"explained_variance": float(explained)}

    def learn(
        self, rows: Rows, number: int, units: Sequence[Unit] | None = None, critic: bool = True
    ) -> list[dict[str, Tensor]]:
        """All epochs over the rows; returns the figures of every step, on the device (``means``).

        Args:
            rows: of ``prepare``.
            number: of the update, keys the shuffles.
            units: whose policies learn; None: all.
            critic: it learns, too.
        """
        config, steps = self.config, list[dict[str, Tensor]]()
        for epoch in range(config.epochs):
            shuffle = generator(self.seed, Stream.SHUFFLE, number, epoch)
            for part in minibatches(rows.count, config.minibatches, shuffle):
                steps.append(self._step(rows, part, self.policy.units if units is None else units, critic))
                if config.target_kl is not None and float(steps[-1]["approximate_kl"]) > config.target_kl:
                    return steps
        return steps

    def log_ratios(self, rows: Rows, units: Sequence[Unit] | None = None) -> Iterator[tuple[Unit, Head, Tensor]]:
        """Per unit its heads and log(new / old probability) of what was done, ``[L, R, N_u]``, 0 where nobody acted.

        Args:
            rows: some or all of ``prepare``'s.
            units: None: all.
        """
        hidden = first_step(rows.actor_hidden)
        for unit, head in self.policy.heads(rows.observation, rows.action_mask, hidden, rows.start, units):
            action = unit.take(self.spec, rows.action, 2)
            assert isinstance(action, Tensor)
            log_ratio = head.log_prob(action) - unit.take_agents(rows.log_prob, 2)
            yield unit, head, log_ratio.masked_fill(~unit.take_agents(rows.mask, 2), 0.0)

    def policy_loss(
        self, unit: Unit, head: Head, log_ratio: Tensor, rows: Rows, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a unit's decisions, summed over ``mask``, and named figures summed in the same way.

        Args:
            unit: whose.
            head: its distributions ``[L, R, N_u]``.
            log_ratio: of the decisions, ``[L, R, N_u]``.
            rows: all of these rows' columns, of all agents (``unit.take_agents``).
            mask: bool ``[L, R, N_u]``.
        """
        clip = self.config.clip
        loss = (ppo_clip(log_ratio, unit.take_agents(rows.advantage, 2), clip) * mask).sum()
        with torch.no_grad():
            return loss, {"clip_fraction": (clip_fraction(log_ratio, clip) * mask).sum()}

    def critic_loss(self, value: Tensor, rows: Rows) -> Tensor:
        """The loss of every value ``[L, R, N]``; values are in the critic's own units."""
        if self.config.value_clip is None:
            return self._value_loss(value, rows.target)
        return clipped(self._value_loss, self.config.value_clip, value, rows.old_value, rows.target)

    def _step(self, rows: Rows, part: Tensor, units: Sequence[Unit], critic: bool) -> dict[str, Tensor]:
        """One gradient step of actors and critic on the rows of a minibatch; its figures stay on the device."""
        config = self.config
        self.actor_adam.zero()
        self.critic_adam.zero()
        everybody = rows.mask[:, part]
        total = everybody.sum().clamp(min=1)
        acting = torch.stack([unit.take_agents(everybody, 2).sum() for unit in units]).sum().clamp(min=1)
        sums: dict[str, Tensor] = {}
        largest = torch.zeros((), device=total.device)
        for piece in micro_batches(part, max(config.micro_batch // (self.stretch * self.spec.n_agents), 1)):
            r = rows.take(piece)
            losses = torch.zeros((), device=total.device)
            for unit, head, log_ratio in self.log_ratios(r, units):
                mask = unit.take_agents(r.mask, 2)
                policy_loss, learned = self.policy_loss(unit, head, log_ratio, r, mask)
                entropy = (head.entropy() * mask).sum()
                losses = losses + policy_loss - config.entropy * entropy
                with torch.no_grad():
                    drift = (approximate_kl(log_ratio) * mask).sum()
                    _add(sums, {"policy_loss": policy_loss, "entropy": entropy, "approximate_kl": drift, **learned})
                    largest = torch.maximum(largest, log_ratio.abs().max())
            losses = losses / acting
            if critic:
                value = self.critic(r.observation, r.state, r.mask, first_step(r.critic_hidden), r.start)
                critic_loss = (self.critic_loss(value, r) * r.mask).sum()
                _add(sums, {"value_loss": critic_loss})
                losses = losses + critic_loss / total
            torch.autograd.backward(losses)
        figures = {name: value / (total if name == "value_loss" else acting) for name, value in sums.items()}
        figures["actor_grad_norm"] = self.actor_adam.step()
        if critic:
            figures["critic_grad_norm"] = self.critic_adam.step()
        figures["largest_log_ratio"] = largest
        return figures


def _add(sums: dict[str, Tensor], figures: Mapping[str, Tensor]) -> None:
    for name, figure in figures.items():
        sums[name] = sums.get(name, torch.zeros((), device=figure.device)) + figure.detach()


def means(steps: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The figures of an update: means over the steps that have them, read from the device at once.

    Args:
        steps: of ``Mappo.learn``.
    """
    names = list(dict.fromkeys(name for step in steps for name in step))
    table = torch.stack([torch.stack([step[name].double() for step in steps if name in step]).mean() for name in names])
    first = steps[0]["largest_log_ratio"].double()
    *figures, first_log_ratio = torch.cat((table, first.unsqueeze(0))).tolist()
    named = dict(zip(names, figures, strict=True))
    del named["largest_log_ratio"]
    return named | {"first_log_ratio": first_log_ratio, "minibatch_steps": float(len(steps))}


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
    claim=(
        "PPO with a central critic, normalised values and few epochs is as good as off-policy methods in cooperative "
        "games."
    ),
    formula=(
        "delta_t = r_t + gamma V_{t+1} - V_t, A_t = sum (gamma lambda)^n delta_{t+n}; loss = -mean min(rho A, "
        "clip(rho, 1 - e, 1 + e) A) - w H; V of the shared state"
    ),
)
IPPO = System(
    name="ippo",
    summary="PPO with local critics",
    paper="arXiv 2011.09533",
    config=IppoConfig,
    build=Mappo,
    claim="the same with critics of an agent's own observation, for want of a state.",
    formula="as MAPPO, V of the agent's observation",
)
