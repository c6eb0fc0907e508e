"""Rows of tokens that a step of the gradient is taken on, out of conversations and their advantages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from marl.learning.language.group_norm import groups
from marl.learning.language.token_trees import TokenRow
from marl.rollout.language.token_batch import TokenBatch
from marl.rollout.language.turns import Conversation
from marl.systems.language.options import Advantages


class UnitRows(NamedTuple):
    """What some weights learn from a batch.

    numbers: of the rows in the batch. rows: these, with the weight of each token. normaliser: what the sum over their
    tokens is divided by.
    """

    numbers: list[int]
    rows: list[TokenRow]
    normaliser: float


def token_row(
    conversation: Conversation,
    weight: np.ndarray | float,
    share: np.ndarray | float | None = None,
    sampled: bool = True,
) -> TokenRow:
    """A conversation as a row to learn from.

    Args:
        conversation: with the ids and log-probabilities of its turns.
        weight: float ``[own tokens]``, of its own tokens in their order, or one number for all of them.
        share: likewise, their parts of a mean over tokens; None: nothing but the weight counts.
        sampled: by the weights that learn from it, so that its log-probabilities mean something.
    """
    transcript = conversation.transcript
    learned = np.zeros(len(transcript.ids), dtype=bool)
    for start, end in transcript.spans:
        learned[start:end] = True

    def spread(values: np.ndarray | float) -> np.ndarray:
        column = np.zeros(len(transcript.ids))
        column[learned] = values
        return column

    shares = None if share is None else spread(share)
    old = np.asarray(transcript.log_probs) if sampled else np.full(len(transcript.ids), np.nan)
    return TokenRow(transcript.ids, learned, spread(weight), old, shares)


def unit_rows(
    batch: TokenBatch,
    advantages: Advantages,
    roles: Collection[int],
    loss: Literal["token", "turn"],
    everything: bool = False,
) -> UnitRows:
    """The rows that some roles learn from.

    Rows that do not count are left out, and so are those whose advantages are all 0 unless ``everything`` is asked for.

    Args:
        batch: of rows of all roles.
        advantages: of these rows.
        roles: numbers of the roles that learn.
        loss: ``LanguageConfig.loss``, what the loss is a mean over.
        everything: rows without any advantage have a gradient too, such as that of the divergence from a reference.
    """
    mine = torch.tensor([int(agent) in roles for agent in batch.agent])
    weight = advantages.weight * mine
    share = weight[batch.turn_row]
    if loss == "turn":
        share = share / (batch.turns_of_row[batch.turn_row] * batch.turn_length.clamp(min=1))
        normaliser = float(weight.sum())
    else:
        normaliser = float((weight * batch.tokens_of_row).sum())
    lengths, ends = batch.turn_length, batch.turns_of_row.cumsum(0).tolist()
    value = advantages.row
    compared = None if value is None else groups(batch.group, batch.agent).of
    rows, numbers = [], []
    for number in weight.nonzero().squeeze(1).tolist():
        conversation = batch.rows[number]
        turns = slice(ends[number] - len(conversation.transcript.spans), ends[number])
        shares = share[turns].repeat_interleave(lengths[turns])
        if advantages.token is None:
            weights = shares * advantages.turn[turns].repeat_interleave(lengths[turns])
        else:
            weights = shares * advantages.token[number]
        if everything or bool(weights.any()):
            row = token_row(conversation, weights.numpy(), shares.numpy())
            if value is not None and compared is not None:
                row = replace(row, group=int(compared[number]), value=float(value[number]))
            rows.append(row)
            numbers.append(number)
    return UnitRows(numbers, rows, max(normaliser, 1.0))


def per_token(batch: TokenBatch, advantages: Advantages) -> list[Tensor]:
    """Advantages of each row's own tokens."""
    if advantages.token is not None:
        return list(advantages.token)
    everything = advantages.turn.repeat_interleave(batch.turn_length)
    ends = batch.tokens_of_row.to(torch.int64).cumsum(0)
    return list(torch.tensor_split(everything, ends[:-1].tolist()))
