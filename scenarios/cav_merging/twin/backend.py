"""The twin backend: SUMO's rules on the tensors themselves, numba on the CPU and plain torch elsewhere."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from scenarios.cav_merging.config import SIM_STEP_S, SUBSTEPS
from scenarios.cav_merging.traffic import Traffic
from scenarios.cav_merging.twin import kernels, reference


class Outcome(NamedTuple):
    """What a decision led to.

    crashed, left: bool ``[B, V]``, cars that had a collision or left the road; both are off the road now.
    hits: int64 ``[B]``, number of collisions. lost: bool ``[B]``, the episode was lost with its simulator.
    """

    crashed: Tensor
    left: Tensor
    hits: Tensor
    lost: Tensor


class Backend(Protocol):
    """What moves the cars; it keeps ``Traffic`` up to date."""

    def begin(self, traffic: Traffic, rows: Tensor, seeds: Tensor) -> None:
        """Copies ``rows`` (int64 ``[K]``) start an episode with the cars in ``traffic``. seeds: int64 ``[K]``."""

    def insert(self, traffic: Traffic, slots: Tensor) -> None:
        """Cars just placed in ``slots`` (bool ``[B, V]``) enter the road."""

    def advance(self, traffic: Traffic, accel: Tensor, turn: Tensor) -> Outcome:
        """One decision.

        Args:
            accel: m/s^2, float64 ``[B, V]``.
            turn: lanes to the left, int64 ``[B, V]``. Both are of automated cars.
        """

    def snapshot(self) -> dict[str, Tensor]:
        """What it needs besides ``traffic`` to restore an episode, tensors with leading dimension B."""

    def restore(self, traffic: Traffic, snapshot: dict[str, Tensor], source: Tensor | None, rows: Tensor) -> None:
        """Copies ``rows`` go on from ``traffic``, which was restored from the copies ``source`` of the snapshot."""

    def close(self) -> None:
        """Release processes; may be called twice."""


class TwinBackend:
    """Thousands of copies in this process. lanes: of the widest road, the ramp included."""

    def __init__(self, copies: int, slots: int, device: torch.device, lanes: int):
        self._lanes = lanes
        self._order = torch.arange(slots, device=device).repeat(copies, 1)

    def begin(self, traffic: Traffic, rows: Tensor, seeds: Tensor) -> None:
        """Nothing to prepare: the state is ``traffic``."""

    def insert(self, traffic: Traffic, slots: Tensor) -> None:
        """Nothing to do: the state is ``traffic``."""

    def advance(self, traffic: Traffic, accel: Tensor, turn: Tensor) -> Outcome:
        if not traffic.compiled:
            moved = reference.advance(traffic, accel, turn, self._lanes)
            return Outcome(*moved, torch.zeros_like(traffic.step, dtype=torch.bool))
        crashed, left = torch.empty_like(traffic.present), torch.empty_like(traffic.present)
        hits = torch.empty_like(traffic.step)
        kernels.advance(
            *(
                tensor.numpy()
                for tensor in (
                    traffic.x, traffic.v, traffic.gained, traffic.look, traffic.lane, traffic.present,
                    traffic.controlled, traffic.drivers, traffic.road, accel, turn, traffic.step,
                    self._order, crashed, left, hits,
                )
            ),
            SUBSTEPS,
            SIM_STEP_S,
        )  # fmt: skip
        return Outcome(crashed, left, hits, torch.zeros_like(hits, dtype=torch.bool))

    def snapshot(self) -> dict[str, Tensor]:
        """Nothing: the state is ``traffic``."""
        return {}

    def restore(self, traffic: Traffic, snapshot: dict[str, Tensor], source: Tensor | None, rows: Tensor) -> None:
        """Nothing to do: the state is ``traffic``."""

    def close(self) -> None:
        """Nothing to release."""
