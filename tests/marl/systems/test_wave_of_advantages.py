"""ReMax, DGPO, RiskPO, InfoPO and AdaCoT against sums in plain Python, and what each cannot do without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from recipe_batches import CONTEXT, ROLES, Case, case

from marl.errors import UserError
from marl.learning.language.group_norm import group_norm
from marl.learning.language.token_trees import TokenRow
from marl.learning.rewards import risk_advantage
from marl.rollout.language.token_batch import token_batch
from marl.systems import adacot, infopo, mathforge, remax, riskpo
from marl.systems.language.options import Context


def alone(seed: int, groups: int = 4, size: int = 8) -> Case:
    """Episodes of the planner alone."""
    return case(seed, groups=groups, size=size, mute=1.0)


# ReMax


def test_remax_compares_with_the_greedy_episode_of_the_task() -> None:
    made = case(3)
    greedy = [replace(episode, learn=False, greedy=True) for episode in case(8).episodes[::4]]
    batch = token_batch([*made.episodes, *greedy], ROLES, tuple(ROLES))
    assert batch.aside is not None and len(batch.rows) == len(made.rows)
    beside = case(8).rows
    found = remax.advantages(batch, remax.RemaxConfig(), CONTEXT)
    for i, row in enumerate(made.rows):
        task = [r for r in beside if r.group == row.group and r.episode % 4 == 0]
        own = [r.total() for r in task if r.agent == row.agent] or [r.total() for r in task if r.level == 0]
        want = row.total() - float(np.mean(own))
        assert torch.allclose(found.turn[batch.turn_row == i], torch.tensor(want, dtype=torch.float32), atol=1e-5)


def test_remax_needs_a_constant_scale() -> None:
    with pytest.raises(UserError, match=r"algorithm\.scale=null: ReMax has no group"):
        remax.player(lambda: None, {}, remax.RemaxConfig(scale=None))  # type: ignore[arg-type,return-value]  # not reached


def test_a_greedy_baseline_is_unbiased_and_lowers_the_variance() -> None:
    """A softmax bandit whose questions pay amounts of their own: the mean gradient is REINFORCE's."""
    draw, logits = torch.Generator().manual_seed(0), torch.tensor([0.3, -0.2, 0.1])
    probability = logits.softmax(0)
    reward = torch.tensor([1.0, 0.0, 0.5]) + 3.0 * torch.randn(4000, 1, generator=draw)
    action = torch.multinomial(probability, 4000, replacement=True, generator=draw)
    earned = reward.gather(1, action.unsqueeze(1)).squeeze(1)
    slope = torch.eye(3)[action] - probability
    plain = slope * earned.unsqueeze(1)
    based = slope * (earned - reward[:, int(probability.argmax())]).unsqueeze(1)
    exact = probability * (torch.tensor([1.0, 0.0, 0.5]) - (probability * torch.tensor([1.0, 0.0, 0.5])).sum())
    assert torch.cosine_similarity(based.mean(0), exact, dim=0) > 0.99
    assert based.var(0).sum() < 0.1 * plain.var(0).sum()


# MathForge


def test_absolute_advantages_of_every_mixed_group_add_up_to_its_size() -> None:
    sums, standard = [], []
    for right in range(1, 8):
        reward = torch.tensor([1.0] * right + [0.0] * (8 - right))
        key = torch.zeros(8, dtype=torch.int64)
        sums.append(float(group_norm(reward, key, eps=1e-4, deviation="mean").advantage.abs().sum()))
        standard.append(float(group_norm(reward, key).advantage.abs().sum()))
    assert sums == pytest.approx([8.0] * 7, abs=0.01)
    assert min(standard) < 5.4 and max(standard) == pytest.approx(8.0, abs=0.01)


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_harder_questions_weigh_more_and_those_of_one_mind_nothing(temperature: float) -> None:
    made = alone(1)
    batch = made.batch
    batch.success[8:16] = 1.0
    batch.cost[8:16] = 0.0
    batch.closed[:], batch.turn_reward[:], batch.turn_invalid[:] = 1.0, 0.0, 0.0
    config = mathforge.DgpoConfig(question_temperature=temperature)
    found = mathforge.advantages(batch, config, CONTEXT)
    reward = [float(s * max(0.0, 1 - 0.03 * c)) for s, c in zip(batch.success, batch.cost, strict=True)]
    groups = [reward[i : i + 8] for i in range(0, 32, 8)]
    mixed = [np.mean(np.abs(np.array(g) - np.mean(g))) > 0 for g in groups]
    weights = np.array([np.exp(-np.mean(g) / temperature) * m for g, m in zip(groups, mixed, strict=True)])
    weights *= sum(mixed) / weights.sum()
    assert mixed[1] is np.False_ and found.weight[8:16].sum() == 0.0
    for i, value in enumerate(reward):
        group = np.array(groups[i // 8])
        deviation = np.mean(np.abs(group - group.mean())) + 1e-4
        want = weights[i // 8] * (value - group.mean()) / deviation if mixed[i // 8] else 0.0
        assert found.turn[batch.turn_row == i].tolist() == pytest.approx([want] * int(batch.turns_of_row[i]), abs=1e-3)


# RiskPO


def test_risk_rises_with_the_score_up_to_zero_and_more_steeply_below() -> None:
    score = torch.linspace(-2.0, 3.0, 101)
    found = risk_advantage(score, 0.0, 1.0, 0.2, 0.8, 1.5)
    assert bool((found.diff() >= -1e-6).all()) and found.max() == pytest.approx(0.0, abs=1e-6)
    assert found[score >= 1.0].abs().max() < 1e-6
    by_hand = {-1.0: (1.5 * -5.0 - 1 / 0.6) / 2.5, 0.0: -1 / 0.6 / 2.5, 0.5: -0.5 / 0.6 / 2.5}
    for at, want in by_hand.items():
        assert float(risk_advantage(torch.tensor([at]), 0.0, 1.0, 0.2, 0.8, 1.5)) == pytest.approx(want, abs=1e-5)


def test_bundles_are_the_jth_answers_to_tasks_that_follow_each_other() -> None:
    batch = alone(2).batch
    found = riskpo.bundles(batch, riskpo.RiskConfig(bundle=2)).tolist()
    assert found == [*range(8), *range(8), *range(8, 16), *range(8, 16)]
    with pytest.raises(UserError, match=r"algorithm\.bundle=3 does not divide the 4 tasks of an update"):
        riskpo.bundles(batch, riskpo.RiskConfig(bundle=3))
    with pytest.raises(ValueError, match=r"lower=0\.9 is not below upper=0\.8"):
        riskpo.RiskConfig(lower=0.9)


def test_quantiles_are_followed_from_update_to_update() -> None:
    context, config = Context(0.0, 0), riskpo.RiskConfig(bundle=2, quantile_rate=0.5)
    scores = []
    for seed in (2, 3):
        made = alone(seed)
        rewards = [row.total() for row in made.rows]
        scores.append(np.array([rewards[i] + rewards[i + 8] for i in (*range(8), *range(16, 24))]))
        before = context.memory.get("quantiles", torch.tensor(np.quantile(scores[-1], [0.2, 0.8]))).double().numpy()
        found = riskpo.advantages(made.batch, config, context)
        below = [(scores[-1] < quantile).mean() for quantile in before]
        after = before + 0.5 * (np.array([0.2, 0.8]) - below)
        assert context.memory["quantiles"].tolist() == pytest.approx(after.tolist(), abs=1e-4)
        want = risk_advantage(torch.tensor(scores[-1]), after[0], after[1], 0.2, 0.8, 1.5) / scores[-1].std()
        assert found.turn[made.batch.turn_row == 0][0] == pytest.approx(float(want[0]), abs=1e-4)
        assert found.turn.max() <= 0.0


# InfoPO


class Told:
    """Finds any counterfactual turn equally improbable."""

    def __init__(self, log_prob: float):
        self.log_prob = log_prob
        self.rows: list[tuple[str, TokenRow]] = []

    def score(self, rows: Sequence[tuple[str, TokenRow]]) -> list[torch.Tensor]:
        self.rows = list(rows)
        return [torch.full((int(row.learned.sum()),), self.log_prob) for _, row in rows]

    def spell(self, text: str) -> tuple[int, ...]:
        return (9,)


def heard_between(made: Case, heard: int) -> None:
    """Rows of two marks and some words heard before each turn; what is said is as probable as its turn's number."""
    for conversation in made.batch.rows:
        spans = conversation.transcript.spans
        ids, log_probs, moved = [], [], []
        for number, (start, end) in enumerate(spans):
            ids += [1, *[4] * heard, 2]
            log_probs += [0.0] * (heard + 2)
            moved.append(type(spans[0])(len(ids), len(ids) + end - start))
            ids += [3] * (end - start)
            log_probs += [-0.5 * (number + 1)] * (end - start)
        conversation.transcript.ids, conversation.transcript.log_probs = ids, log_probs
        conversation.transcript.spans = moved


def test_information_is_what_the_next_turn_gained_by_what_was_heard() -> None:
    made, models = alone(4), Told(-2.0)
    heard_between(made, 3)
    gain = infopo.information(made.batch, models, "silence")
    at = 0
    for row in made.batch.rows:
        count = len(row.transcript.spans)
        for number in range(count):
            want = 0.0 if number == count - 1 else -0.5 * (number + 2) + 2.0
            assert float(gain[at + number]) == pytest.approx(want)
        at += count
    first = models.rows[0][1]
    before = made.batch.rows[0].transcript.spans
    pair = next(row.transcript.spans for row in made.batch.rows if len(row.transcript.spans) > 1)
    assert first.ids[pair[0].end : pair[1].start] == [1, 9, 9, 9, 2] and before
    assert first.learned.nonzero()[0].tolist() == list(range(pair[1].start, pair[1].end))
    heard_between(made, 0)  # nothing was heard, so nothing is overwritten
    assert not infopo.information(made.batch, models, "silence").any()


@pytest.mark.parametrize("tied", [True, False])
def test_information_counts_where_outcomes_are_alike(tied: bool) -> None:
    made, models = alone(5, groups=1), Told(-1.2)
    heard_between(made, 2)
    batch = made.batch
    batch.success[:] = torch.tensor([1.0] * 8 if tied else [1.0, 0.0] * 4)
    batch.cost[:], batch.turn_reward[:], batch.turn_invalid[:] = 0.0, 0.0, 0.0
    found = infopo.advantages(batch, infopo.InfoConfig(), Context(0.5, 0, models=models))
    assert found.figures["gate"] == pytest.approx(0.5 if tied else 1 / (1 + np.exp(10.0)), abs=1e-6)
    gain = infopo.information(batch, models, "x") / batch.turn_length
    told = gain != 0
    weight = batch.turn_length[told].double()
    mean = (gain[told] * weight).sum() / weight.sum()
    deviation = (((gain[told] - mean).square() * weight).sum() / weight.sum()).sqrt()
    z = ((gain - mean) / deviation).where(told, 0.0)
    outcome = torch.zeros(8) if tied else torch.tensor([1.0, -1.0] * 4)
    most = max(float(outcome.std(unbiased=False)), 1.0)
    scale = min(1.0, most / float(z[told].std(unbiased=False)))
    want = outcome[batch.turn_row] + 0.5 * np.exp(-0.5) * found.figures["gate"] * z * scale
    assert torch.allclose(found.turn.double(), want.double(), atol=2e-4)


# AdaCoT


def measured(made: Case, needed: Sequence[float]) -> None:
    object.__setattr__(made.batch, "measured", tuple({"optimal_calls": value} for value in needed))


def test_penalties_of_missing_and_overdoing() -> None:
    made = alone(6, groups=1)
    batch = made.batch
    batch.calls[:] = torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 0.0, 1.0])
    measured(made, [0, 1, 0, 1, 1, 2, 0, 0])
    legal = torch.tensor([row.legal for row in made.rows])
    config = adacot.AdacotConfig(miss=0.5, over=0.25, malformed=0.125)
    found = adacot.penalty(batch, config)
    assert torch.equal(found, torch.tensor([0.0, 0.5, 0.25, 0.0, 0.25, 0.0, 0.0, 0.25]) + 0.125 * (1 - legal))
    masked = adacot.advantages(batch, adacot.AdacotConfig(mask=True), CONTEXT)
    plain = adacot.advantages(batch, adacot.AdacotConfig(), CONTEXT)
    assert masked.token is not None and plain.token is None and plain.figures["call_rate"] == pytest.approx(5 / 8)
    for row, token in enumerate(masked.token):
        turns = batch.turn_row == row
        want = plain.turn[turns].repeat_interleave(batch.turn_length[turns])
        assert token[0] == 0.0 and torch.equal(token[1:], want[1:])


def test_adacot_needs_a_world_that_knows_what_a_question_takes() -> None:
    with pytest.raises(UserError, match="this system needs the metric 'optimal_calls'"):
        adacot.advantages(case(0).batch, adacot.AdacotConfig(), CONTEXT)
