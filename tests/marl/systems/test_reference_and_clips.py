"""Divergences from a reference, clips of two sides, and the two passes of a gradient, against definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from marl.learning.language.token_losses import Tokens
from marl.learning.language.token_trees import TokenRow
from marl.learning.surrogates import kl_estimate, ppo_clip
from marl.policies.language.tiny import TinyPolicy
from marl.policies.language.tokenizer import ChatTokenizer, word_tokenizer
from marl.policies.language.transformer import TransformerConfig
from marl.systems.language.gradient import Reinforcement
from marl.systems.language.likelihood import score
from marl.systems.language.options import LanguageConfig, Memory
from marl.systems.language.reference import Reference
from marl.systems.language.speakers import Unit

pytest.importorskip("tokenizers")


def test_clips_by_hand() -> None:
    ratio = torch.tensor([0.5, 0.75, 1.25, 1.35, 0.5, 1.35]).log()
    advantage = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0])
    assert ppo_clip(ratio, advantage, 0.2, 0.3).tolist() == pytest.approx([-0.5, -0.75, -1.25, -1.3, 0.8, 1.35])
    assert ppo_clip(ratio, advantage, 0.2).tolist() == pytest.approx([-0.5, -0.75, -1.2, -1.2, 0.8, 1.35])
    assert LanguageConfig(clip=0.1).clips == (0.1, 0.1)
    assert LanguageConfig(clip_low=0.2, clip_high=0.3).clips == (0.2, 0.3)


def test_estimators_by_hand_and_on_average() -> None:
    """Over the actions of pi, k1 and k3 have the mean of the true divergence, k2 only nearly."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    true = float((p * (p / q).log()).sum())
    mean = {k: float((p * kl_estimate(p.log(), q.log(), k)).sum()) for k in ("k1", "k2", "k3")}  # type: ignore[arg-type]
    assert [mean["k1"], mean["k3"]] == pytest.approx([true, true], abs=1e-6)
    assert mean["k2"] == pytest.approx(true, rel=0.05) and mean["k2"] != pytest.approx(true, abs=1e-5)
    one = [float(kl_estimate(torch.tensor(np.log(2.0)), torch.tensor(0.0), k)) for k in ("k1", "k2", "k3")]  # type: ignore[arg-type]
    assert one == pytest.approx([np.log(2.0), np.log(2.0) ** 2 / 2, 0.5 - 1 + np.log(2.0)])


def unit_of(seed: int) -> Unit:
    config = TransformerConfig(width=16, heads=2, kv_heads=1, hidden=16)
    tokenizer = ChatTokenizer(word_tokenizer(["a", "b", "c", "d"]))
    return Unit("all", ("a",), ("a",), TinyPolicy(tokenizer, config, torch.Generator().manual_seed(seed), 5))


def rows_of(seed: int) -> list[TokenRow]:
    """Rows that share beginnings, some of them equal, sampled by anything."""
    draw = np.random.default_rng(seed)
    ids = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6, 7], [1, 2, 3, 4, 5], [8, 2, 3], [1, 9, 9, 9]]
    rows = []
    for sequence in ids:
        learned = np.arange(len(sequence)) >= 2
        own = np.where(learned, draw.uniform(-4.0, -1.0, len(sequence)), 0.0)
        rows.append(TokenRow(sequence, learned, draw.normal() * learned, own, 0.5 * learned))
    return rows


def direct(unit: Unit, rows: list[TokenRow], config: LanguageConfig, reference: list[torch.Tensor]) -> torch.Tensor:
    """The loss row by row, by the definitions, with a gradient."""
    total = torch.zeros(())
    for row, other in zip(rows, reference, strict=True):
        token = torch.tensor([row.ids])
        length = token.shape[1]
        mask = torch.ones((1, length, length), dtype=torch.bool).tril()
        at = torch.arange(length - 1)
        logits = unit.model.logits_at("a", token, torch.arange(length)[None], mask, at)
        log_prob = torch.log_softmax(logits / config.temperature, -1).gather(1, token[0, 1:, None])[:, 0]
        own = torch.from_numpy(row.learned[1:])
        new, old = log_prob[own], torch.from_numpy(row.old[1:]).float()[own]
        weight = torch.from_numpy(row.weight[1:]).float()[own]
        ratio = (new - old).exp()
        low, high = config.clips
        total = total - torch.minimum(ratio * weight, ratio.clamp(1 - low, 1 + high) * weight).sum()
        if config.kl_in("loss"):
            assert row.share is not None
            share = torch.from_numpy(row.share[1:]).float()[own]
            d = new - other
            k = {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[config.kl.estimator]
            total = total + config.kl.weight * (share * k).sum()
    return total


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_two_passes_have_the_gradient_of_the_loss(estimator: str, weight: float) -> None:
    options = {"clip_low": 0.2, "clip_high": 0.4, "kl": {"weight": weight, "estimator": estimator}, "temperature": 1.3}
    config = LanguageConfig.model_validate(options)
    for seed in range(3):
        unit, twin, start = unit_of(seed), unit_of(seed), unit_of(seed + 10)
        rows, reference = rows_of(seed), Reference([unit], config)
        reference._weights = {"all": start.model.state_of("a")} if weight else {}
        learner = Reinforcement([unit], config, reference)
        learner.learn(unit, rows, 4.0, 1e-12, fresh=False)
        other = [score(start, [row], config) for row in rows]
        expected = torch.autograd.grad(direct(twin, rows, config, other) / 4.0, twin.model.parameters_of("a"))
        norm = float(torch.stack([g.norm() for g in expected]).norm())
        clip = min(1.0, config.max_grad_norm / norm)
        for parameter, gradient in zip(unit.model.parameters_of("a"), expected, strict=True):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, clip * gradient, atol=1e-5 + 1e-4 * float(gradient.abs().max()))


def test_a_recipe_may_couple_rows() -> None:
    """A pairwise loss of whole rows: its gradient through packed trees is that of the definition."""

    def pairs(tokens: Tokens, config: LanguageConfig, memory: Memory) -> torch.Tensor:
        rows = torch.zeros(int(tokens.row.max()) + 1).index_add(0, tokens.row, tokens.log_prob)
        return -torch.nn.functional.logsigmoid(rows[0] - rows[1])

    config, rows = LanguageConfig(max_grad_norm=1e9), rows_of(0)[:2]
    unit, twin = unit_of(0), unit_of(0)
    Reinforcement([unit], config, Reference([unit], config), pairs).learn(unit, rows, 1.0, 1e-12, fresh=False)
    scores = []
    for row in rows:
        token = torch.tensor([row.ids])
        length = token.shape[1]
        mask = torch.ones((1, length, length), dtype=torch.bool).tril()
        logits = twin.model.logits_at("a", token, torch.arange(length)[None], mask, torch.arange(length - 1))
        log_prob = torch.log_softmax(logits, -1).gather(1, token[0, 1:, None])[:, 0]
        scores.append(log_prob[torch.from_numpy(row.learned[1:])].sum())
    expected = torch.autograd.grad(
        -torch.nn.functional.logsigmoid(scores[0] - scores[1]), twin.model.parameters_of("a")
    )
    for parameter, gradient in zip(unit.model.parameters_of("a"), expected, strict=True):
        assert parameter.grad is not None and torch.allclose(parameter.grad, gradient, atol=1e-5)


def test_the_reference_is_where_reinforcement_began_and_scoring_leaves_the_weights_alone() -> None:
    config = LanguageConfig.model_validate({"kl": {"weight": 0.1}})
    unit = unit_of(0)
    reference = Reference([unit], config)
    reference.begin()
    began = score(unit, rows_of(0), config)
    with torch.no_grad():
        for parameter in unit.model.parameters_of("a"):
            parameter += 0.1
    reference.begin()  # later calls change nothing
    present = score(unit, rows_of(0), config)
    assert torch.equal(reference.score(unit, rows_of(0)), began) and not torch.equal(present, began)
    assert torch.equal(score(unit, rows_of(0), config), present)
    unwanted = Reference([unit], LanguageConfig())
    unwanted.begin()
    assert unwanted.state() == {}
