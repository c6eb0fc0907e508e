"""POAD and MAPPO on texts against plain numpy: backups of tokens and turns, and what their critics read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from recipe_batches import CONTEXT, case

from marl.policies.language.base import Span
from marl.policies.language.tokenizer import ChatTokenizer, word_tokenizer
from marl.rollout.language.turns import TurnPlayer
from marl.scenario import load_scenario
from marl.systems.language.critic import Critic, CriticConfig
from marl.systems.language.options import Context
from marl.systems.poad import TurnCriticConfig, advantages
from scenarios.agent_hierarchy.config import HierarchyConfig

pytest.importorskip("tokenizers")
SMALL = {"critic": {"width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 16}}
TOKENIZER = ChatTokenizer(word_tokenizer(["a", "b", "c"]))


class Counting(torch.nn.Module):
    """A critic whose value after L tokens is sin(L): numbers that the oracle knows. It notes what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(1))
        self.read: list[list[int]] = []

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        self.read += token.tolist()
        return torch.arange(1.0, token.shape[1] + 1).sin().expand(token.shape) + 0 * self.anything


def counting(config: CriticConfig) -> Critic:
    critic = Critic(config, TOKENIZER, 0)
    critic._network = Counting()  # type: ignore[assignment]
    return critic


def backed_up(value: Sequence[float], reward: Sequence[float], gamma: float, lam: float) -> list[float]:
    """Plain GAE of a row that ends."""
    result, trace, later = [], 0.0, 0.0
    for v, r in reversed(list(zip(value, reward, strict=True))):
        trace = r + gamma * later - v + gamma * lam * trace
        result.append(trace)
        later = v
    return result[::-1]


@pytest.mark.parametrize("credit", ["token", "turn"])
@pytest.mark.parametrize("seed", range(4))
def test_advantages_are_backed_up_from_what_turns_and_rows_earn(seed: int, credit: str) -> None:
    made = case(seed)
    config = CriticConfig.model_validate({"credit": credit, "gamma": 0.9, "gae_lambda": 0.8, **SMALL})
    found = advantages(made.batch, config, Context(0.0, 0, counting(config))).token
    expected = []
    for row, conversation in zip(made.rows, made.batch.rows, strict=True):
        earned = np.array(row.now())
        earned[-1] += row.final()
        spans = conversation.transcript.spans
        if credit == "turn":
            turns = backed_up([np.sin(start) for start, _ in spans], earned.tolist(), 0.9, 0.8)
            expected.append(np.repeat(turns, row.lengths))
            continue
        tokens, trace, later = [], 0.0, 0.0
        for turn in reversed(range(len(spans))):
            for place in reversed(range(*spans[turn])):
                last, v = place == spans[turn].end - 1, np.sin(place)
                # Within a turn nothing is discounted; its last token earns and leads to the next turn.
                gamma, r = (0.9, earned[turn]) if last else (1.0, 0.0)
                trace = r + gamma * later - v + gamma * 0.8 * trace
                tokens.append(trace)
                later = v
        expected.append(np.array(tokens[::-1]))
    everything = np.concatenate(expected)
    assert found is not None
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one.numpy(), (other - everything.mean()) / (everything.std() + 1e-5), atol=1e-4)


def test_a_turn_without_tokens_earns_for_the_one_before() -> None:
    made = case(0, groups=1, size=1, mute=1.0)
    (row,) = made.batch.rows
    critic = counting(CriticConfig.model_validate(SMALL))
    end = len(row.transcript.ids)
    with_empty = critic._of_row(
        [*row.transcript.spans, type(row.transcript.spans[0])(end, end)],
        torch.zeros(end),
        torch.tensor([*[0.0] * len(row.turns), 1.0]),
    )[0]
    without = critic._of_row(
        row.transcript.spans, torch.zeros(end), torch.tensor([*[0.0] * (len(row.turns) - 1), 1.0])
    )[0]
    assert torch.equal(with_empty, without) and float(without[-1]) == 1.0


@pytest.fixture(scope="module")
def played() -> Any:
    """Episodes of the hierarchy, spoken by its demonstrator, as a batch with the tokenizer."""
    from marl.policies.language.scripted import ScriptedPolicy
    from marl.rollout.language.token_batch import token_batch

    world = load_scenario("agent_hierarchy").language(HierarchyConfig())  # type: ignore[misc]
    tokenizer = ChatTokenizer(word_tokenizer(world.vocabulary or ()))
    teacher = ScriptedPolicy(world.expert, tokenizer)
    episodes = TurnPlayer(world.make, dict.fromkeys(world.roles, teacher)).play(range(6), 0)
    return token_batch(episodes, {role: i for i, role in enumerate(world.roles)}, world.roles), episodes, tokenizer


@pytest.mark.parametrize("source", ["state", "observation"])
def test_a_central_critic_reads_the_open_conversations_above(played: Any, source: str) -> None:
    batch, episodes, tokenizer = played
    config = TurnCriticConfig.model_validate({"critic_input": source, "critic_rows": 1000, **SMALL})
    critic = Critic(config, tokenizer, 0)
    critic._network = network = Counting()  # type: ignore[assignment]
    critic.advantages(batch, torch.zeros(len(batch.turn_row)), torch.zeros(len(batch.rows)))
    read = {tuple(token for token in row if token != tokenizer.pad) for row in network.read}
    for row in batch.rows:
        own = row.transcript.ids
        if source == "observation" or row.caller is None:
            assert tuple(own) in read
            continue
        caller = next(c for e in episodes for c in e.conversations if row in e.conversations and c.agent == row.caller)
        # The caller's ids up to the call that opened this conversation: with it, they are what the critic reads.
        heard = tokenizer.prompt(row.above)[:-1]
        assert caller.transcript.ids[: len(heard)] == heard and heard[-1] == tokenizer.end
        assert row.above[-1]["content"].split()[0] == "ask" and (*heard, *own) in read


def test_what_is_above_decides_the_value(played: Any) -> None:
    """Same conversation, other caller: a central critic may tell them apart, a local one cannot."""
    batch, _, tokenizer = played
    sub = next(row for row in batch.rows if row.caller is not None)
    for source, differs in (("state", True), ("observation", False)):
        critic = Critic(TurnCriticConfig.model_validate({"critic_input": source, **SMALL}), tokenizer, 0)
        with torch.no_grad():
            critic._network.head.weight.normal_(generator=torch.Generator().manual_seed(0))
        values = []
        for above in (sub.above, sub.above[:1]):
            before = critic._above(type(sub)(sub.number, sub.agent, sub.caller, sub.level, above=above))
            value = critic._network(torch.tensor([[*before, *sub.transcript.ids]]))[0, len(before) :]
            values.append(value)
        assert torch.allclose(*values) is not differs


def test_defaults_say_which_critic_is_which() -> None:
    assert (CriticConfig().credit, CriticConfig().critic_input) == ("token", "observation")
    assert (TurnCriticConfig().credit, TurnCriticConfig().critic_input) == ("turn", "state")
    assert CONTEXT.critic is None


@pytest.mark.parametrize("credit", ["token", "turn"])
def test_the_critics_loss_is_half_its_squared_error_a_value(credit: str) -> None:
    """Its target is the advantage and the value itself, so that the error is the advantage; a mean of values."""
    made = case(2)
    config = CriticConfig.model_validate({"credit": credit, "gamma": 0.9, "gae_lambda": 0.8, **SMALL})
    critic = counting(config)
    squares, count = 0.0, 0
    for row, conversation in zip(made.rows, made.batch.rows, strict=True):
        earned = torch.tensor(row.now())
        earned[-1] += row.final()
        spans = conversation.transcript.spans
        value = torch.arange(1.0, len(conversation.transcript.ids) + 1).sin().requires_grad_()
        advantage, loss = critic._of_row(spans, value, earned)
        before = [start - 1 for start, _ in spans] if credit == "turn" else [p - 1 for s in spans for p in range(*s)]
        own = backed_up(np.sin([start for start, _ in spans]).tolist(), earned.tolist(), 0.9, 0.8)
        error = torch.tensor(own) if credit == "turn" else advantage.detach()
        assert float(loss.detach()) == pytest.approx(0.5 * float(error.square().sum()), rel=1e-4)
        (slope,) = torch.autograd.grad(loss, value)
        assert torch.allclose(slope[before], -error, atol=1e-5)  # downhill is towards the target
        squares, count = squares + 0.5 * float(error.square().sum()), count + len(before)
    now = torch.tensor([each for row in made.rows for each in row.now()])
    figures = critic.advantages(made.batch, now, torch.tensor([row.final() for row in made.rows]))[1]
    assert figures["value_loss"] == pytest.approx(squares / count, rel=1e-4)


def test_what_is_earned_before_the_first_token_belongs_to_the_first_turn_that_has_one() -> None:
    critic = counting(CriticConfig.model_validate({"gamma": 0.5, "gae_lambda": 1.0, **SMALL}))
    found = critic._of_row([Span(2, 2), Span(2, 4), Span(6, 7)], torch.zeros(8), torch.tensor([1.0, 2.0, 8.0]))[0]
    assert found.tolist() == [1 + 2 + 0.5 * 8, 1 + 2 + 0.5 * 8, 8.0]
