"""What the units below the first role do with a store of batches (``Exchange``): put, take, and follow another process.

On the side ``main``, or without sides, batches go in as they are made; on the side ``sub``, or without sides, they are
taken out and learned from.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from marl.rollout.language.token_batch import TokenBatch
from marl.rollout.language.turns import Episode
from marl.systems.language.exchange import Exchange, Stored
from marl.systems.language.gradient import Reinforcement
from marl.systems.language.imitation import demonstrated
from marl.systems.language.rows import UnitRows
from marl.systems.language.speakers import Unit


class Decoupled:
    """Learns through a store. reinforcement: takes the steps on what comes out of it."""

    def __init__(self, exchange: Exchange, reinforcement: Reinforcement):
        self._exchange, self._reinforcement = exchange, reinforcement
        self._joined = False

    def put(self, unit: Unit, batch: TokenBatch, own: UnitRows, reward: Tensor, rate: float) -> None:
        """Hand over a unit's rows of a batch. reward: float ``[R]``, of all rows of the batch."""
        exchange = self._exchange
        if own.rows or exchange.side is None:
            stored = Stored(exchange.versions[unit.name], own.normaliser, rate, own.rows)
            exchange.put(unit, batch, own.numbers, reward, stored)

    def update(self, shown: Sequence[Episode], replayed: float) -> dict[str, float]:
        """Learn from a store of this process, or take over what the other process has learned. Returns figures.

        Args:
            shown: demonstrations to imitate in the same gradient step, with the weight ``replayed``.
        """
        exchange = self._exchange
        figures: dict[str, float] = {}
        exchange.sign()
        for unit in exchange.units:
            if exchange.side is None:
                figures |= self.learn(unit, shown, replayed)
            else:
                exchange.hold_back(unit)
                exchange.receive(unit)
                figures[f"weights_version_{unit.name}"] = float(exchange.versions[unit.name])
            figures |= exchange.figures(unit)
        return figures

    def learn(self, unit: Unit, shown: Sequence[Episode] = (), replayed: float = 0.0) -> dict[str, float]:
        """One update from the unit's batches in the store; nothing if too few wait. Returns figures."""
        exchange = self._exchange
        taken = exchange.take(unit)
        if not taken:
            return {}
        rows = [row for stored in taken for row in stored.rows]
        version = exchange.versions[unit.name]
        fresh = all(stored.version == version for stored in taken)
        normaliser = sum(stored.normaliser for stored in taken)
        figures = {f"lag_{unit.name}": float(version - min(stored.version for stored in taken))}
        figures[f"tokens_{unit.name}"] = float(sum(stored.tokens for stored in taken))
        imitated = demonstrated(shown, unit, normaliser * replayed, 1)
        learned = self._reinforcement.learn(unit, rows, normaliser, taken[-1].rate, fresh, imitated)
        if not learned:
            return figures
        figures |= learned
        exchange.versions[unit.name] += 1
        exchange.publish(unit)
        return figures

    def follow(self) -> dict[str, float]:
        """On the side ``sub`` of a shared store: learn from what waits there. Returns figures; none if nothing does."""
        exchange = self._exchange
        if not self._joined:
            for unit in exchange.units:
                version = exchange.versions[unit.name]
                if not exchange.receive(unit, version or -1) and version == 0:
                    return {}  # nobody has said yet what to start from
            self._joined = True
        figures: dict[str, float] = {}
        for unit in exchange.units:
            learned = self.learn(unit)
            figures |= learned and learned | exchange.figures(unit)
        return figures
