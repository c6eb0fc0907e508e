"""Figures of an episode, accumulated decision by decision from what both backends report alike."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from marl.compiled import njit
from marl.envs.batched import Metric
from scenarios.cav_merging.config import DECISION_S
from scenarios.cav_merging.drivers import P
from scenarios.cav_merging.emissions import EMISSION_CLASS, add_emissions, emissions_reference
from scenarios.cav_merging.traffic import Traffic
from scenarios.cav_merging.twin.arrays import Flags, Floats, Ints
from scenarios.cav_merging.twin.reference import pick, pick_lane

#: Times to collision and accepted gaps are counted up to here, s.
LONGEST_S = 10.0
#: Time gaps to slower cars count as if they drove at this speed.
SLOWEST_MPS = 1e-3
_LENGTH = int(P.LENGTH)

METRICS = {
    "collision_rate": Metric("share", "lower", "1 if the episode had a collision"),
    "collisions_per_km": Metric("1/km", "lower", "collisions per kilometre that all cars drove together"),
    "merged_share": Metric("share", "higher", "ramp cars that reached the main road safely / those that entered"),
    "cav_merged_share": Metric("share", "higher", "merged_share of the automated cars alone"),
    "mean_speed_mps": Metric("m/s", "higher", "over all cars and steps to the scheduled end; a crashed car stands"),
    "travel_time_s": Metric(
        "s", "lower", "mean time a car was on the road by the scheduled end; a crashed car stands there until then"
    ),
    "min_ttc_s": Metric(
        "s", "higher", f"least time to collision with the leader, 0 after a crash, up to {LONGEST_S:g}"
    ),
    "min_accepted_gap_s": Metric(
        "s", "higher", f"least time gap, ahead or behind, that a ramp car took to merge, up to {LONGEST_S:g}"
    ),
    "jerk_mps3": Metric("m/s^3", "lower", "mean absolute jerk of automated cars"),
    "fuel_g_per_km": Metric("g/km", "lower", f"fuel of automated cars, {EMISSION_CLASS}"),
    "co2_g_per_km": Metric("g/km", "lower", f"carbon dioxide of automated cars, {EMISSION_CLASS}"),
    "nox_mg_per_km": Metric("mg/km", "lower", f"nitrogen oxides of automated cars, {EMISSION_CLASS}"),
    "flow_veh_per_h": Metric("veh/h", "higher", "cars that left the road over its end"),
}


class Sum(IntEnum):
    """Rows of the table of running sums ``[19, B]``, in the order of the fields of ``Tally``."""

    HITS = 0
    METRES = 1
    SPEED = 2
    CAR_STEPS = 3
    WRECKS = 4
    ENTERED = 5
    RAMP_ENTERED = 6
    RAMP_MERGED = 7
    CAVS_ENTERED = 8
    CAVS_MERGED = 9
    LEFT = 10
    MIN_TTC = 11
    MIN_GAP = 12
    JERK = 13
    JERK_COUNT = 14
    FUEL = 15  # mg
    CO2 = 16
    NOX = 17
    CAV_METRES = 18


# Plain integers for the kernel.
_HITS, _METRES, _SPEED, _CAR_STEPS, _WRECKS = (int(row) for row in list(Sum)[:5])
_RAMP_MERGED, _CAVS_MERGED, _LEFT = int(Sum.RAMP_MERGED), int(Sum.CAVS_MERGED), int(Sum.LEFT)
_MIN_TTC, _MIN_GAP, _JERK, _JERK_COUNT = (int(row) for row in list(Sum)[11:15])
_FUEL, _CAV_METRES = int(Sum.FUEL), int(Sum.CAV_METRES)


class Events(NamedTuple):
    """What happened in a decision.

    crashed, left, merged: bool ``[B, V]``, cars that crashed, left the road, or got from the ramp onto the main road.
    hits: int64 ``[B]``, number of collisions.
    """

    crashed: Tensor
    left: Tensor
    merged: Tensor
    hits: Tensor


@dataclass
class Tally:
    """Running sums of the present episodes, each float64 ``[B]``; ``table`` has them all as its rows."""

    table: Tensor

    def __post_init__(self) -> None:
        (self.hits, self.metres, self.speed, self.car_steps, self.wrecks, self.entered, self.ramp_entered,
         self.ramp_merged, self.cavs_entered, self.cavs_merged, self.left, self.min_ttc, self.min_gap, self.jerk,
         self.jerk_count, self.fuel, self.co2, self.nox, self.cav_metres) = self.table  # fmt: skip

    @classmethod
    def empty(cls, copies: int, device: torch.device) -> Tally:
        """No episode has begun."""
        tally = cls(torch.zeros(len(Sum), copies, dtype=torch.float64, device=device))
        tally.min_ttc += LONGEST_S
        tally.min_gap += LONGEST_S
        return tally

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, the tensors themselves."""
        return {row.name.lower(): self.table[row] for row in Sum}

    def begin(self, traffic: Traffic, rows: Tensor) -> None:
        """Copies ``rows`` (int64 ``[K]``) start an episode with the cars in ``traffic`` (all copies)."""
        self.table[:, rows] = 0.0
        self.min_ttc[rows] = LONGEST_S
        self.min_gap[rows] = LONGEST_S
        self.entered[rows] = traffic.present[rows].sum(1).double()
        self.ramp_entered[rows] = traffic.from_ramp[rows].sum(1).double()
        self.cavs_entered[rows] = traffic.from_ramp[rows, : traffic.target.shape[1]].sum(1).double()

    def arrived(self, traffic: Traffic, slots: Tensor) -> None:
        """Cars just entered, bool ``[B, V]``."""
        self.entered += slots.sum(1)
        from_ramp = slots & traffic.from_ramp
        self.ramp_entered += from_ramp.sum(1)
        self.cavs_entered += from_ramp[:, : traffic.target.shape[1]].sum(1)

    def add(self, traffic: Traffic, events: Events, before: Tensor, lead: Tensor, follow: Tensor) -> None:
        """One decision.

        Args:
            traffic: the state after it.
            events: what happened in it.
            before: accelerations a decision ago, m/s^2, float64 ``[B, V]``.
            lead, follow: the neighbour tables after it, int64 ``[B, V, L]``.
        """
        if not traffic.compiled:
            self.add_reference(traffic, events, before, lead, follow)
            return
        t = traffic
        _add(
            (t.x.numpy(), t.v.numpy(), t.gained.numpy(), t.lane.numpy(), t.present.numpy(), t.drivers.numpy(),
             t.from_ramp.numpy(), t.merged.numpy()),
            tuple(tensor.numpy() for tensor in events),
            before.numpy(), lead.numpy(), follow.numpy(), t.target.shape[1], self.table.numpy(),
        )  # fmt: skip

    def add_reference(self, traffic: Traffic, events: Events, before: Tensor, lead: Tensor, follow: Tensor) -> None:
        """``add`` as plain tensor operations: the oracle of the numba form, and the form for a GPU."""
        crashed, left, merged_now, hits = events
        present, v, agents = traffic.present, traffic.v, traffic.target.shape[1]
        self.hits += hits
        speed = (v * present).sum(1)
        self.speed += speed
        self.metres += speed * DECISION_S
        self.wrecks += crashed.sum(1)
        self.car_steps += present.sum(1) + self.wrecks
        self.left += left.sum(1)
        self.ramp_merged += merged_now.sum(1)
        wrecked = crashed & traffic.from_ramp & traffic.merged
        self.ramp_merged -= wrecked.sum(1)
        self.cavs_merged += merged_now[:, :agents].sum(1)
        self.cavs_merged -= wrecked[:, :agents].sum(1)
        leader = pick_lane(lead, traffic.lane)
        gap = pick(traffic.x, leader) - pick(traffic.drivers[..., P.LENGTH], leader) - traffic.x
        closing = v - pick(v, leader)
        ttc = torch.where(present & (leader >= 0) & (closing > 0.0), gap.clamp(min=0.0) / closing, LONGEST_S)
        self.min_ttc.copy_(torch.where(hits > 0, 0.0, torch.minimum(self.min_ttc, ttc.amin(1))))
        behind = pick_lane(follow, traffic.lane)
        room = traffic.x - traffic.drivers[..., P.LENGTH] - pick(traffic.x, behind)
        times = (
            torch.where(leader >= 0, gap.clamp(min=0.0) / v.clamp(min=SLOWEST_MPS), LONGEST_S),
            torch.where(behind >= 0, room.clamp(min=0.0) / pick(v, behind).clamp(min=SLOWEST_MPS), LONGEST_S),
        )
        taken = torch.where(merged_now & present, torch.minimum(*times), LONGEST_S)
        taken = torch.where(merged_now & crashed, 0.0, taken)
        self.min_gap.copy_(torch.minimum(self.min_gap, taken.amin(1)))
        driven = present[:, :agents]
        change = (traffic.gained - before)[:, :agents].abs() / DECISION_S
        self.jerk += (change * driven).sum(1)
        self.jerk_count += driven.sum(1)
        burnt = emissions_reference(v[:, :agents], traffic.gained[:, :agents]) * driven
        self.table[Sum.FUEL : Sum.NOX + 1] += burnt.sum(2) * DECISION_S
        self.cav_metres += (v * present)[:, :agents].sum(1) * DECISION_S

    def figures(self, steps: Tensor) -> dict[str, Tensor]:
        """The metrics of the episodes so far, float32 ``[B]``; steps: their length in decisions, ``[B]``."""
        seconds = steps.clamp(min=1) * DECISION_S
        car_steps, cav_metres = self.car_steps.clamp(min=1.0), self.cav_metres.clamp(min=1.0)  # mg/m are g/km
        values = {
            "collision_rate": (self.hits > 0).double(),
            "collisions_per_km": self.hits / (self.metres / 1000.0).clamp(min=1e-3),
            "merged_share": torch.where(
                self.ramp_entered > 0, self.ramp_merged / self.ramp_entered.clamp(min=1.0), 1.0
            ),
            "cav_merged_share": torch.where(
                self.cavs_entered > 0, self.cavs_merged / self.cavs_entered.clamp(min=1.0), 1.0
            ),
            "mean_speed_mps": self.speed / car_steps,
            "travel_time_s": self.car_steps * DECISION_S / self.entered.clamp(min=1.0),
            "min_ttc_s": self.min_ttc,
            "min_accepted_gap_s": self.min_gap,
            "jerk_mps3": self.jerk / self.jerk_count.clamp(min=1.0),
            "fuel_g_per_km": self.fuel / cav_metres,
            "co2_g_per_km": self.co2 / cav_metres,
            "nox_mg_per_km": 1000.0 * self.nox / cav_metres,
            "flow_veh_per_h": self.left / seconds * 3600.0,
        }
        return {name: value.float() for name, value in values.items()}


@njit(error_model="numpy")
def _add(
    cars: tuple[Floats, Floats, Floats, Ints, Flags, Floats, Flags, Flags],
    events: tuple[Flags, Flags, Flags, Ints],
    before: Floats,
    lead: Ints,
    follow: Ints,
    agents: int,
    sums: Floats,
) -> None:
    x, v, gained, lane, present, drivers, from_ramp, merged = cars
    crashed, left, merged_now, hits = events
    for b in range(x.shape[0]):
        sums[_HITS, b] += hits[b]
        if hits[b] > 0:
            sums[_MIN_TTC, b] = 0.0
        total = 0.0
        for i in range(x.shape[1]):
            if merged_now[b, i]:
                sums[_RAMP_MERGED, b] += 1.0
                if i < agents:
                    sums[_CAVS_MERGED, b] += 1.0
            if crashed[b, i]:
                sums[_WRECKS, b] += 1.0
                if merged_now[b, i]:
                    sums[_MIN_GAP, b] = 0.0
                if from_ramp[b, i] and merged[b, i]:
                    sums[_RAMP_MERGED, b] -= 1.0
                    if i < agents:
                        sums[_CAVS_MERGED, b] -= 1.0
            if left[b, i]:
                sums[_LEFT, b] += 1.0
            if not present[b, i]:
                continue
            total += v[b, i]
            sums[_CAR_STEPS, b] += 1.0
            if i < agents:
                sums[_JERK, b] += abs(gained[b, i] - before[b, i]) / DECISION_S
                sums[_JERK_COUNT, b] += 1.0
                add_emissions(v[b, i], gained[b, i], DECISION_S, sums[_FUEL:_CAV_METRES, b])
                sums[_CAV_METRES, b] += v[b, i] * DECISION_S
            leader = lead[b, i, lane[b, i]]
            gap = x[b, leader] - drivers[b, leader, _LENGTH] - x[b, i] if leader >= 0 else np.inf
            if leader >= 0 and v[b, i] > v[b, leader]:
                sums[_MIN_TTC, b] = min(sums[_MIN_TTC, b], max(0.0, gap) / (v[b, i] - v[b, leader]))
            if merged_now[b, i]:
                if leader >= 0:
                    sums[_MIN_GAP, b] = min(sums[_MIN_GAP, b], max(0.0, gap) / max(v[b, i], SLOWEST_MPS))
                behind = follow[b, i, lane[b, i]]
                if behind >= 0:
                    room = x[b, i] - drivers[b, i, _LENGTH] - x[b, behind]
                    sums[_MIN_GAP, b] = min(sums[_MIN_GAP, b], max(0.0, room) / max(v[b, behind], SLOWEST_MPS))
        sums[_SPEED, b] += total
        sums[_METRES, b] += total * DECISION_S
        sums[_CAR_STEPS, b] += sums[_WRECKS, b]
