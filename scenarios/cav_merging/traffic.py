"""The state of a batch: everything that decides how an episode goes on, as tensors with leading dimension B."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor

from scenarios.cav_merging.drivers import P
from scenarios.cav_merging.geometry import RoadGeometry


class R(IntEnum):
    """Columns of the road table ``[B, 8]``, float64: metres along x, m/s, and a number of lanes."""

    MERGE_START = 0
    MERGE_END = 1
    ROAD_END = 2
    LIMIT = 3
    MAIN_LANES = 4
    RAMP_START = 5
    CONVERGE = 6
    RAMP_LIMIT = 7  # before the acceleration lane


def road_row(geometry: RoadGeometry) -> list[float]:
    """A row of the road table."""
    return [
        geometry.merge_start,
        geometry.merge_end,
        geometry.road_end,
        geometry.speed_limit,
        float(geometry.main_lanes),
        geometry.ramp_start,
        geometry.converge,
        geometry.speed_limit if geometry.ramp_limit is None else geometry.ramp_limit,
    ]


@dataclass
class Traffic:
    """Cars of B copies in V slots: automated ones in the first N, human-driven ones in the others.

    x: front bumper along the road, m. v: speed, m/s. gained: acceleration in the last simulation step, m/s^2.
    look: speed by which a blocked driver judges the time left (LC2013's memory), m/s.
    lane: 0 ramp and acceleration lane, 1.. main lanes. present: the slot holds a car on the road.
    controlled: driven by actions (else by the driver model). drivers: ``drivers.P`` columns. road: ``R`` columns.
    number: which car of the episode it is. from_ramp, merged: it came by the ramp, it reached the main road.
    target: the target speed that an automated car follows, m/s, ``[B, N]``.
    arrivals, arrival_time: cars that came so far by the main road and the ramp, when the next is due (s), ``[B, 2]``.
    flow: cars per hour, share of automated ones among them, ``[B, 2]``. step: decisions made so far, ``[B]``.
    """

    x: Tensor
    v: Tensor
    gained: Tensor
    look: Tensor
    lane: Tensor
    present: Tensor
    controlled: Tensor
    drivers: Tensor
    road: Tensor
    number: Tensor
    from_ramp: Tensor
    merged: Tensor
    target: Tensor
    arrivals: Tensor
    arrival_time: Tensor
    flow: Tensor
    step: Tensor

    @property
    def compiled(self) -> bool:
        """What works on it are numba kernels, which need the CPU; else plain torch."""
        return self.x.device.type == "cpu"

    @classmethod
    def empty(cls, copies: int, agents: int, slots: int, device: torch.device) -> Traffic:
        def floats(*shape: int) -> Tensor:
            return torch.zeros(copies, *shape, dtype=torch.float64, device=device)

        def integers(*shape: int) -> Tensor:
            return torch.zeros(copies, *shape, dtype=torch.int64, device=device)

        def flags(*shape: int) -> Tensor:
            return torch.zeros(copies, *shape, dtype=torch.bool, device=device)

        return cls(
            x=floats(slots),
            v=floats(slots),
            gained=floats(slots),
            look=floats(slots),
            lane=integers(slots),
            present=flags(slots),
            controlled=flags(slots),
            drivers=floats(slots, len(P)),
            road=floats(len(R)),
            number=integers(slots),
            from_ramp=flags(slots),
            merged=flags(slots),
            target=floats(agents),
            arrivals=integers(2),
            arrival_time=floats(2),
            flow=floats(2),
            step=integers(),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, the tensors themselves."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def put(self, other: Traffic, rows: Tensor) -> None:
        """Copies ``rows`` (int64 ``[K]``) become those of ``other`` (K copies)."""
        theirs = other.tensors()
        for name, tensor in self.tensors().items():
            tensor[rows] = theirs[name]
