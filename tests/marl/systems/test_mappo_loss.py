"""MAPPO's whole loss, its gradients and its figures against plain numpy; worlds whose state the critic leaves out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tiny_scenario import make_tiny, tiny_config
from torch import Tensor

from marl.config import AnyRunConfig
from marl.coordination.pipeline import Pipeline
from marl.rollout.batch import Batch
from marl.rollout.collector import Collector
from marl.systems.mappo import Mappo, _explained_variance
from marl.testing.worlds import TinyWorld

EXACT = {"epochs": 1, "minibatches": 1, "actor_rate": 1e-12, "critic_rate": 1e-12, "max_grad_norm": 1e9}


def played(config: AnyRunConfig, env: Any = None, steps: int = 16) -> tuple[Mappo, Batch]:
    """A learner that has moved away from what it played, and that."""
    env = make_tiny(config.world, config.copies, torch.device("cpu")) if env is None else env
    pipeline = Pipeline(env, config.coordination)
    learner = Mappo(env.spec, pipeline.observation_space, config.algorithm, 0, torch.device("cpu"))
    collector = Collector(pipeline, learner.policy, learner.critic)
    collector.reset(0)
    batch = collector.collect(steps)[0]
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in [*learner.policy.parameters(), *learner.critic.parameters()]:
            parameter += 0.15 * torch.randn_like(parameter)
    return learner, batch


def by_hand(learner: Mappo, batch: Batch) -> dict[str, Any]:
    """Every number of one update with one minibatch, from the definitions, in float64."""
    c = learner.config
    reward, value, after = (x.double().numpy() for x in (batch.reward, batch.value, batch.next_value))
    dead, cut, mask = (x.numpy() for x in (batch.terminated, batch.cut, batch.mask))
    advantage, trace = np.zeros_like(reward), np.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        delta = reward[t] + c.gamma * after[t] * ~dead[t] - value[t]
        trace = delta + c.gamma * c.gae_lambda * ~cut[t] * trace
        advantage[t] = trace
    target = returns = advantage + value
    mean, deviation = 0.0, 1.0
    if c.value_norm:  # the first batch alone: its own mean and deviation
        mean = returns[mask].mean()
        deviation = np.sqrt(max((returns[mask] ** 2).mean() - mean**2, 1e-2))
        target = (returns - mean) / deviation
    old_value = (value - mean) / deviation
    advantage = (advantage - advantage[mask].mean()) / (advantage[mask].std() + 1e-5)
    with torch.no_grad():
        ((_, head),) = learner.policy.heads(batch.observation, batch.action_mask, batch.actor_hidden, batch.start)
        scores = head.log_probs.double().numpy()  # type: ignore[attr-defined]
        predicted = learner.critic(batch.observation, batch.state, batch.mask, batch.critic_hidden, batch.start)
    log = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    assert isinstance(batch.action, Tensor)
    taken = np.take_along_axis(log, batch.action.numpy()[..., None], -1)[..., 0]
    shift = taken - batch.log_prob.double().numpy()
    ratio = np.exp(shift)
    surrogate = np.minimum(ratio * advantage, np.clip(ratio, 1 - c.clip, 1 + c.clip) * advantage)
    entropy = -(np.exp(log) * log).sum(-1)
    v = predicted.double().numpy()

    def error(x: np.ndarray) -> np.ndarray:
        e = np.abs(x - target)
        return np.where(e <= c.huber_delta, e**2 / 2, c.huber_delta * (e - c.huber_delta / 2))

    critic = error(v)
    if c.value_clip is not None:
        critic = np.maximum(critic, error(old_value + np.clip(v - old_value, -c.value_clip, c.value_clip)))
    return {
        "policy_loss": -surrogate[mask].mean(),
        "entropy": entropy[mask].mean(),
        "value_loss": critic[mask].mean(),
        "approximate_kl": (ratio - 1 - shift)[mask].mean(),
        "clip_fraction": (np.abs(ratio - 1) > c.clip)[mask].mean(),
        "actor": -surrogate[mask].mean() - c.entropy * entropy[mask].mean(),
        "critic": critic[mask].mean(),
    }


@pytest.mark.parametrize(
    "algorithm",
    [
        {"entropy": 0.5},
        {"entropy": 0.0, "value_norm": False, "huber_delta": 0.05},
        {"entropy": 0.02, "value_clip": 0.05, "critic_input": "observation"},
    ],
    ids=["entropy", "huber", "clipped value"],
)
def test_figures_of_an_update_are_those_by_hand(algorithm: dict[str, Any]) -> None:
    world = {"mortal": True, "slip": 0.3, "agents": 3}
    learner, batch = played(tiny_config(world=world, algorithm={**EXACT, **algorithm}))
    assert 0 < int(batch.mask.sum()) < batch.mask.numel()
    twin = copy.deepcopy(learner)
    found = learner.update(batch, 0, 0.0)
    expected = by_hand(twin, batch)
    for name in ("policy_loss", "entropy", "value_loss", "approximate_kl", "clip_fraction"):
        assert found[name] == pytest.approx(expected[name], rel=2e-4, abs=1e-6), name
    assert expected["clip_fraction"] > 0.05


@pytest.mark.parametrize("entropy", [0.0, 0.5])
def test_gradients_are_those_of_the_loss_by_hand(entropy: float) -> None:
    """Along a random direction the losses of plain numpy change as the gradients say: also the entropy bonus's sign."""
    algorithm = {**EXACT, "entropy": entropy, "value_norm": False}
    config = tiny_config(world={"agents": 3, "masks": False}, algorithm=algorithm)
    learner, batch = played(config)
    twin = copy.deepcopy(learner)
    learner.update(batch, 0, 0.0)  # the gradients stay, the steps are of no size
    for part, module, other in (
        ("actor", learner.policy, twin.policy),
        ("critic", learner.critic, twin.critic),
    ):
        direction = [torch.randn_like(p) for p in module.parameters()]
        pairs = zip(module.parameters(), direction, strict=True)
        slope = sum(float((p.grad * d).sum()) for p, d in pairs if p.grad is not None)
        sides, step = [], 1e-3
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for p, d in zip(other.parameters(), direction, strict=True):
                    p += sign * step * d
            sides.append(by_hand(twin, batch)[part])
            with torch.no_grad():
                for p, d in zip(other.parameters(), direction, strict=True):
                    p -= sign * step * d
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(slope, rel=0.02, abs=2e-4), part


class NarrowState(TinyWorld):
    """Its state is one vector per copy, of fewer numbers than it has agents."""

    def __init__(self, width: int, **options: Any):
        self._width = width
        super().__init__(8, 4, state="shared", **options)

    def _state_space(self, agents: int) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self._width,), np.float32)

    def central_state(self, who: Tensor) -> Tensor:
        state = super().central_state(who)
        assert state is not None
        return state[..., : self._width]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_local_critics_leave_out_a_state_smaller_than_the_number_of_agents(width: int) -> None:
    config = tiny_config("ippo", algorithm={"epochs": 1, "minibatches": 1})
    learner, batch = played(config, NarrowState(width, mortal=True, slip=0.3))
    assert batch.state.shape == (16, 8, width) and not batch.mask.all()  # type: ignore[union-attr]
    other = copy.deepcopy(learner)
    figures = learner.update(batch, 0, 0.0)
    batch.state = None
    assert other.update(batch, 0, 0.0) == figures


def test_explained_variance_by_hand() -> None:
    """Half of the error is left; nothing counts that is not alive; returns that do not vary explain nothing."""
    returns, value = torch.tensor([1.0, 3.0, 99.0]), torch.tensor([2.0, 2.0 + 2.0**0.5, -7.0])
    alive = torch.tensor([True, True, False])
    spread, error = 1.0, ((-1.0 - (1.0 - 2.0**0.5)) / 2) ** 2
    assert float(_explained_variance(value, returns, alive)) == pytest.approx(1.0 - error / spread, rel=1e-5)
    assert float(_explained_variance(value, torch.full((3,), 4.0), alive)) == 0.0
