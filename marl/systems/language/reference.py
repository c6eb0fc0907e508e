"""The reference policy: the weights that reinforcement began with, which go on scoring what is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from marl.learning.language.token_trees import TokenRow
from marl.systems.language.likelihood import score
from marl.systems.language.options import LanguageConfig
from marl.systems.language.speakers import Unit


class Reference:
    """A copy of the weights of every unit that learns, made by ``begin`` and part of a run's state.

    With adapters the copy is of these alone. Nothing is copied unless the options give the divergence a price, or a
    recipe's loss needs it (``needed``).
    """

    def __init__(self, units: Sequence[Unit], config: LanguageConfig, needed: bool = False):
        self._units, self._config, self._needed = units, config, needed
        self._weights: dict[str, dict[str, Tensor]] = {}

    @property
    def wanted(self) -> bool:
        return self._needed or self._config.kl.weight > 0.0

    @property
    def in_loss(self) -> bool:
        """Whether the loss of tokens reads it."""
        return self._needed or self._config.kl_in("loss")

    def begin(self) -> None:
        """Remember the present weights, the first time that it is called in a run."""
        if self.wanted and not self._weights:
            self._weights = {unit.name: _copy(unit.model.state_of(unit.key)) for unit in self._units}

    def score(self, unit: Unit, rows: Sequence[TokenRow]) -> Tensor:
        """Log-probabilities of all learned tokens of rows under the reference, float ``[E]``."""
        with self._speaking(unit):
            return score(unit, rows, self._config)

    @contextmanager
    def _speaking(self, unit: Unit) -> Iterator[None]:
        """The unit's model has the reference's weights in here."""
        present = _copy(unit.model.state_of(unit.key))
        unit.model.load_state_of(unit.key, self._weights[unit.name])
        try:
            yield
        finally:
            unit.model.load_state_of(unit.key, present)

    def state(self) -> dict[str, Any]:
        return self._weights

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._weights = {name: dict(weights) for name, weights in state.items()}


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
