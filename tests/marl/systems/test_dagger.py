"""DAgger: its loss by hand, who acts and who advises, and that advice in one's own states is what helps."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_scenario import TINY, make_tiny, tiny_config
from torch import Tensor

from marl.config import AnyRunConfig
from marl.coordination.pipeline import Pipeline
from marl.envs.batched import TimeStep
from marl.errors import UserError
from marl.policies.heads import Categorical, MultiCategorical
from marl.rollout.collector import Collector
from marl.systems.dagger import Dagger
from marl.training.tensor_trainer import _expert


class Always:
    """An expert that always advises the same action, and remembers what it was shown."""

    def __init__(self, action: int):
        self.action, self.seen = action, 0

    def act(self, timestep: TimeStep) -> Tensor:
        self.seen += 1
        return torch.full(timestep.alive.shape, self.action)


def learner_of(config: AnyRunConfig, copies: int, expert: Always) -> tuple[Dagger, Collector]:
    env = make_tiny(config.world, copies, torch.device("cpu"))
    pipeline = Pipeline(env, config.coordination)
    learner = Dagger(env.spec, pipeline.observation_space, config.algorithm, 0, torch.device("cpu"))
    collector = Collector(pipeline, learner.policy, learner.critic, expert=expert)
    collector.reset(0)
    return learner, collector


def config_of(**algorithm: object) -> AnyRunConfig:
    return tiny_config("dagger", algorithm={"expert": "always", "epochs": 1, "minibatches": 1, **algorithm})


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_the_loss_is_the_experts_negative_log_likelihood(temperature: float) -> None:
    """However boldly the learner acts, it is judged by its scores themselves."""
    actor = {"hidden": [16], "temperature": temperature}
    learner, collector = learner_of(config_of(actor=actor), 4, Always(1))
    batch, _ = collector.collect(8)
    assert not torch.equal(batch.action, batch.expert)  # type: ignore[arg-type]
    ((_, head),) = learner.policy.heads(batch.observation, None, {}, batch.start)
    assert isinstance(head, Categorical)
    scores = head.log_probs.detach() * temperature
    expected = -torch.log_softmax(scores, -1)[..., 1].mean()
    figures = learner.update(batch, 0, 0.0)
    assert figures["policy_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert figures["agreement"] == pytest.approx(float((scores.argmax(-1) == 1).float().mean()))


def test_the_learner_acts_and_the_expert_is_asked_once_a_step() -> None:
    expert = Always(0)
    learner, collector = learner_of(config_of(), 2, expert)
    batch, _ = collector.collect(8)
    assert expert.seen == 8
    assert bool((batch.expert == 0).all()) and len(batch.action.unique()) > 1  # type: ignore[union-attr]
    for number in range(30):
        figures = learner.update(batch, number, 0.0)
    assert figures["agreement"] == 1.0


def test_an_unknown_expert_is_named() -> None:
    scenario = dataclasses.replace(TINY, baselines={"always": lambda env: Always(1)})
    env = make_tiny(config_of().world, 1, torch.device("cpu"))
    assert isinstance(_expert(scenario, config_of(), env), Always)
    assert _expert(scenario, tiny_config(), env) is None
    with pytest.raises(UserError, match="no baseline 'alwys'; did you mean 'always'"):
        _expert(scenario, config_of(expert="alwys"), env)


def test_several_choices_agree_where_all_of_them_do() -> None:
    """Of 24 agents, one dead one and one living one have the expert's first choice alone."""
    generator = torch.Generator().manual_seed(0)
    head = MultiCategorical(torch.randn(2, 3, 4, 5, generator=generator), [3, 2])
    expert = head.mode().clone()
    expert[0, 1, 2, 1] = 1 - expert[0, 1, 2, 1]
    expert[1, 2, 3, 1] = 1 - expert[1, 2, 3, 1]
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1, 2, 3] = False
    learner: Any = SimpleNamespace(spec=None, config=SimpleNamespace(actor=SimpleNamespace(temperature=1.0)))
    unit: Any = SimpleNamespace(take=lambda spec, tree, dim: tree)
    rows: Any = SimpleNamespace(expert=expert)
    loss, figures = Dagger.policy_loss(learner, unit, head, torch.zeros(2, 3, 4), rows, mask)
    assert float(figures["agreement"]) == 24 - 2
    assert float(loss) == pytest.approx(-float(head.log_prob(expert)[mask].sum()), rel=1e-5)
