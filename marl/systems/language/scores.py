"""What recipes may ask the models beside advantages: how probable a text would have been elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from marl.errors import UserError
from marl.learning.language.token_trees import TokenRow
from marl.policies.language.tokenizer import ChatTokenizer
from marl.systems.language.likelihood import score
from marl.systems.language.options import LanguageConfig
from marl.systems.language.speakers import Speakers, Unit


class Scores:
    """The present weights of a run, asked without gradients (``marl.systems.language.options.Scoring``)."""

    def __init__(self, speakers: Speakers, config: LanguageConfig):
        self._speakers, self._config = speakers, config
        self._units: Mapping[str, Unit] = {role: unit for unit in speakers.units for role in unit.roles}

    def score(self, rows: Sequence[tuple[str, TokenRow]]) -> list[Tensor]:
        """Log-probabilities of the learned tokens of each row, under the weights of the role that it stands with."""
        found: list[Tensor] = [torch.zeros(0)] * len(rows)
        for unit in self._speakers.units:
            own = [i for i, (role, _) in enumerate(rows) if self._units[role] is unit]
            flat = score(unit, [rows[i][1] for i in own], self._config)
            parts = torch.split(flat, [int(rows[i][1].learned.sum()) for i in own])
            for i, part in zip(own, parts, strict=True):
                found[i] = part
        return found

    def spell(self, text: str) -> tuple[int, ...]:
        """The ids of a text. Raises ``UserError`` where policies are not of kind tiny, whose words are known here."""
        tokenizer: ChatTokenizer | None = self._speakers.tokenizer
        if tokenizer is None:
            raise UserError("this system overwrites what was heard, in ids: it needs policies of kind tiny")
        return tokenizer.text_ids(text)
