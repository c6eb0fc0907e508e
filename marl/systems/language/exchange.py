"""Decoupled updates: what one learner of a hierarchy hands to another (``marl.rollout.language.store``).

The side ``main`` plays the episodes, works out all advantages and trains the role that the user talks to. Rows of the
other roles go into the store, with tokens, masks, log-probabilities, rewards and advantages; their learners, in the
same process or on the side ``sub``, take steps on them and, on that side, hand the new weights back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from marl.errors import UserError
from marl.learning.language.token_trees import TokenRow
from marl.rollout.language.store import LocalStore, SharedStore
from marl.rollout.language.token_batch import TokenBatch
from marl.systems.language.options import StoreConfig
from marl.systems.language.speakers import Unit

MAIN, SUB = "main", "sub"
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Stored:
    """One batch out of the store. version: of the weights that sampled it. normaliser: what its loss is divided by."""

    version: int
    normaliser: float
    rate: float
    rows: list[TokenRow]

    @property
    def tokens(self) -> int:
        return sum(int(row.learned.sum()) for row in self.rows)


class Exchange:
    """The store of a run, and what each of its sides does with it.

    units: all that learn. entry: the role that the user talks to. Raises ``UserError`` if nothing is below it.
    """

    def __init__(self, options: StoreConfig, units: Sequence[Unit], entry: str):
        self.options = options
        self.side = None if options.file is None else options.side
        self.units = [unit for unit in units if entry not in unit.roles]
        if not self.units:
            raise UserError(
                "algorithm.store is for sub-agents with weights of their own: set algorithm.sharing to level or role"
            )
        #: Unit -> how many updates its weights have behind them.
        self.versions = {unit.name: 0 for unit in self.units}
        self._began = time.time()

    @cached_property
    def _store(self) -> LocalStore | SharedStore:
        """Opened when it is first needed: plans and evaluations build learners too, and leave files alone."""
        if self.options.file is None:
            return LocalStore(self.options.capacity)
        return SharedStore(self.options.file, self.options.capacity)

    @property
    def exact(self) -> bool:
        """Whether a run resumes bit for bit."""
        return self.options.file is None

    def carries(self, unit: Unit) -> bool:
        return unit.name in self.versions

    def claim(self, run: str) -> None:
        """The first thing a run of the side ``main`` does with a shared file."""
        if isinstance(self._store, SharedStore):
            self._store.claim(run)

    # Both sides

    def put(self, unit: Unit, batch: TokenBatch, numbers: Sequence[int], reward: Tensor, stored: Stored) -> None:
        """Hand over a unit's rows. numbers: of the rows in the batch. reward: float ``[R]``, of all its rows."""
        keys = {"episode": batch.episode, "group": batch.group, "level": batch.level}
        rows = [
            _encoded(row)
            | {"agent": batch.rows[number].agent, "reward": float(reward[number])}
            | {name: int(column[number]) for name, column in keys.items()}
            for number, row in zip(numbers, stored.rows, strict=True)
        ]
        body = {"version": self.versions[unit.name], "normaliser": stored.normaliser, "rate": stored.rate, "rows": rows}
        self._store.put(unit.name, body)

    def take(self, unit: Unit) -> list[Stored]:
        """The batches of one update, or none if not enough of them wait."""
        if self._store.waiting(unit.name).batches < self.options.batches:
            return []
        found = [self._store.fetch(unit.name) for _ in range(self.options.batches)]
        return [_decoded(body) for body in found if body is not None]

    def figures(self, unit: Unit) -> dict[str, float]:
        waiting, dropped = self._store.waiting(unit.name)
        return {f"store_waiting_{unit.name}": float(waiting), f"store_dropped_{unit.name}": float(dropped)}

    # Two processes

    def publish(self, unit: Unit) -> None:
        """Make the present weights of a unit those that the other side plays with."""
        if isinstance(self._store, SharedStore):
            weights = {name: value.contiguous() for name, value in unit.model.state_of(unit.roles[0]).items()}
            self._store.publish(unit.name, self.versions[unit.name], safetensors.torch.save(weights))

    def open(self) -> None:
        """On the side ``main``: say what to start from, once."""
        if isinstance(self._store, SharedStore):
            for unit in self.units:
                if self._store.newest(unit.name, -1) is None:
                    self.publish(unit)

    def receive(self, unit: Unit, after: int | None = None) -> bool:
        """Take over newer weights of a unit, if there are any. Raises ``UserError`` if they do not fit."""
        assert isinstance(self._store, SharedStore)
        newest = self._store.newest(unit.name, self.versions[unit.name] if after is None else after)
        if newest is None:
            return False
        try:
            unit.model.load_state_of(unit.roles[0], safetensors.torch.load(newest[1]))
        except (SafetensorError, KeyError, RuntimeError, ValueError):
            raise UserError(
                f"store {self._store.path} holds weights of '{unit.name}' that do not fit: give both sides the same "
                f"preset, graph and algorithm.policy"
            ) from None
        self.versions[unit.name] = newest[0]
        return True

    def sign(self, done: bool = False) -> None:
        """Tell the other side that this one is alive, or that it has done all it had to."""
        if isinstance(self._store, SharedStore) and self.side is not None:
            self._store.sign(self.side, done)

    def hold_back(self, unit: Unit) -> None:
        """On the side ``main``: wait for a living side ``sub`` that is more than ``lag`` batches behind."""
        assert isinstance(self._store, SharedStore)
        until = time.time() + self.options.patience_seconds
        while self._store.waiting(unit.name).batches > self.options.lag and time.time() < until:
            sign = self._store.last_sign(SUB)
            if sign is None or sign[1] or sign[0] > self.options.patience_seconds:
                return
            time.sleep(_POLL_SECONDS)

    def over(self) -> bool:
        """On the side ``sub``: whether the other one is done, or has been silent for too long, and nothing waits."""
        assert isinstance(self._store, SharedStore)
        if any(self._store.waiting(unit.name).batches >= self.options.batches for unit in self.units):
            return False
        sign = self._store.last_sign(MAIN)
        silent = time.time() - self._began if sign is None else min(sign[0], time.time() - self._began)
        return (sign is not None and sign[1]) or silent > self.options.patience_seconds

    # State

    def state(self) -> dict[str, Any]:
        local = self._store.state() if isinstance(self._store, LocalStore) else None
        return {"versions": dict(self.versions), "local": local}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.versions = dict(state["versions"])
        if isinstance(self._store, LocalStore):
            self._store.load_state(state["local"])


def _encoded(row: TokenRow) -> dict[str, Any]:
    own = row.learned.nonzero()[0]
    return {
        "ids": list(row.ids),
        "loss_mask": row.learned.astype(int).tolist(),
        "advantage": row.weight[own].tolist(),
        "log_probs": row.old[own].tolist(),
        "group": row.group,
        "value": row.value,
    } | ({} if row.share is None else {"share": row.share[own].tolist()})


def _decoded(body: Mapping[str, Any]) -> Stored:
    """Raises ``UserError`` for what ``Exchange.put`` did not write."""
    try:
        rows = [_row(row) for row in body["rows"]]
        return Stored(int(body["version"]), float(body["normaliser"]), float(body["rate"]), rows)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise UserError(f"the store holds a batch that cannot be learned from ({type(error).__name__})") from None


def _row(row: Mapping[str, Any]) -> TokenRow:
    ids = [int(token) for token in row["ids"]]
    learned = np.asarray(row["loss_mask"], dtype=bool)
    weight, old, share = np.zeros(len(ids)), np.zeros(len(ids)), np.zeros(len(ids))
    weight[learned], old[learned] = row["advantage"], row["log_probs"]
    share[learned] = row.get("share", 0.0)
    value = float(row.get("value", 0.0))
    finite = all(np.isfinite(column).all() for column in (weight, old, share, value))
    if len(learned) != len(ids) or learned[:1].any() or not finite:
        raise ValueError("lengths")
    return TokenRow(ids, learned, weight, old, share, int(row.get("group", 0)), value)
