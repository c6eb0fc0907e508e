"""The critic of systems that estimate values of tokens or turns, and the advantages that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from marl.learning.language.turn_advantages import token_gae
from marl.learning.learner import ClippedAdam, OptimisedNetwork
from marl.policies.joint_critic import CriticInput
from marl.policies.language.base import Span
from marl.policies.language.critic import TokenCritic
from marl.policies.language.tokenizer import ChatTokenizer
from marl.policies.language.transformer import TransformerConfig
from marl.rollout.language.token_batch import TokenBatch
from marl.rollout.language.turns import Conversation
from marl.seeding import Stream, generator
from marl.systems.language.options import LanguageConfig


class CriticConfig(LanguageConfig):
    """Options of systems with a critic."""

    credit: Literal["token", "turn"] = "token"
    """What has a value: each token, or each turn as a whole."""
    critic_input: CriticInput = "observation"
    """What the critic reads: the agent's own conversation; or with it what had been said, when it was called, in all
    conversations that are open above it, down from the user's question (``state``: a central critic)."""
    critic: TransformerConfig = TransformerConfig(width=64, layers=2, heads=2, kv_heads=2, hidden=192)
    """Sizes of the critic."""
    critic_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Learning rate of the critic."""
    gamma: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Discount per turn."""
    gae_lambda: Annotated[float, Field(ge=0.0, le=1.0)] = 0.95
    """Of generalised advantage estimation: 0 trusts the critic, 1 the rewards alone."""
    critic_rows: Annotated[int, Field(ge=1)] = 128
    """Rows whose values are computed at once; changes memory, not the result."""


class Critic(OptimisedNetwork):
    """Values of the rows of all agents. tokenizer: of the policies. seed: of the initial weights."""

    def __init__(self, config: CriticConfig, tokenizer: ChatTokenizer, seed: int):
        self._config, self._tokenizer = config, tokenizer
        self._network = TokenCritic(config.critic, tokenizer.size, generator(seed, Stream.INIT, 1))
        self._adam = ClippedAdam(self._network.parameters(), config.critic_rate, config.max_grad_norm)

    def advantages(self, batch: TokenBatch, now: Tensor, at_end: Tensor) -> tuple[list[Tensor], dict[str, float]]:
        """Advantages of each row's own tokens, normalised over the batch; the critic learns from the same rows.

        Args:
            batch: the rows.
            now: float ``[U]``, earned at once by each turn.
            at_end: float ``[R]``, earned at the end of each row.
        """
        before = [self._above(row) for row in batch.rows]
        read = [[*above, *row.transcript.ids] for above, row in zip(before, batch.rows, strict=True)]
        order = sorted(range(len(read)), key=lambda row: len(read[row]))
        found: list[Tensor] = [torch.zeros(0)] * len(order)
        total = float(batch.turn_length.sum() if self._config.credit == "token" else len(batch.turn_row))
        error = 0.0
        self._adam.zero()
        for first in range(0, len(order), self._config.critic_rows):
            part = order[first : first + self._config.critic_rows]
            ids = [read[row] for row in part]
            longest = max(map(len, ids))
            values = self._network(torch.tensor([row + [0] * (longest - len(row)) for row in ids]))
            losses = []
            for place, row in enumerate(part):
                earned = now[batch.turn_row == row]
                earned[-1] += at_end[row]
                own = self._of_row(batch.rows[row].transcript.spans, values[place, len(before[row]) :], earned)
                found[row] = own[0]
                losses.append(own[1])
            loss = torch.stack(losses).sum() / max(total, 1.0)
            torch.autograd.backward(loss)
            error += float(loss.detach())
        norm = float(self._adam.step())
        everything = torch.cat(found)
        mean, deviation = everything.mean(), everything.std(unbiased=False) + 1e-5
        figures = {"value_loss": error, "critic_grad_norm": norm}
        return [(advantage - mean) / deviation for advantage in found], figures

    def _above(self, row: Conversation) -> list[int]:
        """Ids of what the critic reads before a row's own."""
        central = self._config.critic_input == "state" and row.above
        return self._tokenizer.prompt(row.above)[:-1] if central else []  # without the mark that asks for a turn

    def _of_row(self, spans: Sequence[Span], value: Tensor, earned: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages of a row's own tokens, and the critic's squared error on it.

        spans: its turns. value: float ``[L]``, of the states after each of its tokens. earned: float, of each turn.
        """
        config = self._config
        if config.credit == "turn":
            before = value[torch.tensor([start - 1 for start, _ in spans])]
            ends = torch.ones(len(spans), dtype=torch.bool)
            advantage = token_gae(before.detach(), earned, ends, config.gamma, config.gae_lambda)
            target = advantage + before.detach()
            lengths = torch.tensor([end - start for start, end in spans])
            return advantage.repeat_interleave(lengths), 0.5 * (before - target).square().sum()
        spoken = [span for span in spans if span.end > span.start]
        places = torch.tensor([place - 1 for start, end in spoken for place in range(start, end)], dtype=torch.int64)
        ends = torch.tensor([place == end - 1 for start, end in spoken for place in range(start, end)]) > 0
        before = value[places]
        rewards = torch.zeros(len(places))
        if spoken:
            # A turn for which no room was left has no token: what it earns belongs to the last one that has.
            turn = torch.tensor([end > start for start, end in spans]).cumsum(0) - 1
            rewards[ends] = torch.zeros(len(spoken)).index_add_(0, turn.clamp(min=0), earned)
        advantage = token_gae(before.detach(), rewards, ends, config.gamma, config.gae_lambda)
        target = advantage + before.detach()
        return advantage, 0.5 * (before - target).square().sum()
