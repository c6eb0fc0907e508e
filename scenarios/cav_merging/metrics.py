"""Figures of an episode, accumulated decision by decision from what both backends report alike."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from marl.compiled import njit
from marl.envs.batched import Metric
from scenarios.cav_merging.config import DECISION_S
from scenarios.cav_merging.drivers import P
from scenarios.cav_merging.traffic import Traffic
from scenarios.cav_merging.twin.kernels import Flags, Floats, Ints
from scenarios.cav_merging.twin.reference import pick, pick_lane

#: Times to collision and post-encroachment times are counted up to here, s.
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
    "travel_time_s": Metric("s", "lower", "mean time a car was on the road by the scheduled end"),
    "min_ttc_s": Metric("s", "higher", f"least time to collision with the leader, at most {LONGEST_S:g}"),
    "min_pet_s": Metric("s", "higher", f"least time gap at a lane change, at constant speeds, at most {LONGEST_S:g}"),
    "jerk_mps3": Metric("m/s^3", "lower", "mean absolute jerk of automated cars"),
    "flow_veh_per_h": Metric("veh/h", "higher", "cars that left the road over its end"),
}


@dataclass
class Tally:
    """Running sums of the present episodes, each float64 ``[B]``."""

    hits: Tensor
    metres: Tensor
    speed: Tensor
    car_steps: Tensor
    wrecks: Tensor
    entered: Tensor
    ramp_entered: Tensor
    ramp_merged: Tensor
    cavs_entered: Tensor
    cavs_merged: Tensor
    left: Tensor
    min_ttc: Tensor
    min_pet: Tensor
    jerk: Tensor
    jerk_count: Tensor

    @classmethod
    def empty(cls, copies: int, device: torch.device) -> Tally:
        """One table of sums, of which the fields are the rows."""
        tally = cls(*torch.zeros(len(fields(cls)), copies, dtype=torch.float64, device=device))
        tally.min_ttc += LONGEST_S
        tally.min_pet += LONGEST_S
        return tally

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, the tensors themselves."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def begin(self, traffic: Traffic, rows: Tensor) -> None:
        """Copies ``rows`` (int64 ``[K]``) start an episode with the cars in ``traffic`` (all copies)."""
        for tensor in self.tensors().values():
            tensor[rows] = 0.0
        self.min_ttc[rows] = LONGEST_S
        self.min_pet[rows] = LONGEST_S
        self.entered[rows] = traffic.present[rows].sum(1).double()
        self.ramp_entered[rows] = traffic.from_ramp[rows].sum(1).double()
        self.cavs_entered[rows] = traffic.from_ramp[rows, : traffic.target.shape[1]].sum(1).double()

    def arrived(self, traffic: Traffic, slots: Tensor) -> None:
        """Cars just entered, bool ``[B, V]``."""
        self.entered += slots.sum(1)
        from_ramp = slots & traffic.from_ramp
        self.ramp_entered += from_ramp.sum(1)
        self.cavs_entered += from_ramp[:, : traffic.target.shape[1]].sum(1)

    def add(
        self,
        traffic: Traffic,
        crashed: Tensor,
        left: Tensor,
        hits: Tensor,
        merged_now: Tensor,
        before: Tensor,
        lead: Tensor,
        follow: Tensor,
    ) -> None:
        """One decision. merged_now, crashed, left: bool ``[B, V]``. before: accelerations a decision ago ``[B, V]``."""
        if not traffic.compiled:
            self.add_reference(traffic, crashed, left, hits, merged_now, before, lead, follow)
            return
        _add(
            *(
                tensor.numpy()
                for tensor in (
                    traffic.x, traffic.v, traffic.gained, traffic.lane, traffic.present, traffic.drivers,
                    traffic.from_ramp, traffic.merged, crashed, left, hits, merged_now, before, lead, follow,
                )
            ),
            traffic.target.shape[1],
            *(tensor.numpy() for tensor in self.tensors().values()),
        )  # fmt: skip

    def add_reference(
        self,
        traffic: Traffic,
        crashed: Tensor,
        left: Tensor,
        hits: Tensor,
        merged_now: Tensor,
        before: Tensor,
        lead: Tensor,
        follow: Tensor,
    ) -> None:
        """``add`` as plain tensor operations: the oracle of the numba form, and the form for a GPU."""
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
        ttc = torch.where(present & (leader >= 0) & (closing > 0.0), gap / closing, LONGEST_S)
        self.min_ttc.copy_(torch.minimum(self.min_ttc, ttc.amin(1)))
        behind = pick_lane(follow, traffic.lane)
        room = traffic.x - traffic.drivers[..., P.LENGTH] - pick(traffic.x, behind)
        times = (
            torch.where(leader >= 0, gap / pick(v, leader).clamp(min=SLOWEST_MPS), LONGEST_S),
            torch.where(behind >= 0, room / pick(v, behind).clamp(min=SLOWEST_MPS), LONGEST_S),
        )
        pet = torch.where(merged_now & present, torch.minimum(*times), LONGEST_S)
        self.min_pet.copy_(torch.minimum(self.min_pet, pet.amin(1)))
        driven = present[:, :agents]
        change = (traffic.gained - before)[:, :agents].abs() / DECISION_S
        self.jerk += (change * driven).sum(1)
        self.jerk_count += driven.sum(1)

    def figures(self, steps: Tensor) -> dict[str, Tensor]:
        """The metrics of the episodes so far, float32 ``[B]``; steps: their length in decisions, ``[B]``."""
        seconds = steps.clamp(min=1) * DECISION_S
        car_steps = self.car_steps.clamp(min=1.0)
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
            "min_pet_s": self.min_pet,
            "jerk_mps3": self.jerk / self.jerk_count.clamp(min=1.0),
            "flow_veh_per_h": self.left / seconds * 3600.0,
        }
        return {name: value.float() for name, value in values.items()}


@njit(error_model="numpy")
def _add(
    x: Floats,
    v: Floats,
    gained: Floats,
    lane: Ints,
    present: Flags,
    drivers: Floats,
    from_ramp: Flags,
    merged: Flags,
    crashed: Flags,
    left: Flags,
    new_hits: Ints,
    merged_now: Flags,
    before: Floats,
    lead: Ints,
    follow: Ints,
    agents: int,
    hits: Floats,
    metres: Floats,
    speed: Floats,
    car_steps: Floats,
    wrecks: Floats,
    entered: Floats,
    ramp_entered: Floats,
    ramp_merged: Floats,
    cavs_entered: Floats,
    cavs_merged: Floats,
    gone: Floats,
    min_ttc: Floats,
    min_pet: Floats,
    jerk: Floats,
    jerk_count: Floats,
) -> None:
    for b in range(x.shape[0]):
        hits[b] += new_hits[b]
        total = 0.0
        for i in range(x.shape[1]):
            if merged_now[b, i]:
                ramp_merged[b] += 1.0
                if i < agents:
                    cavs_merged[b] += 1.0
            if crashed[b, i]:
                wrecks[b] += 1.0
                if from_ramp[b, i] and merged[b, i]:
                    ramp_merged[b] -= 1.0
                    if i < agents:
                        cavs_merged[b] -= 1.0
            if left[b, i]:
                gone[b] += 1.0
            if not present[b, i]:
                continue
            total += v[b, i]
            car_steps[b] += 1.0
            if i < agents:
                jerk[b] += abs(gained[b, i] - before[b, i]) / DECISION_S
                jerk_count[b] += 1.0
            p = lead[b, i, lane[b, i]]
            gap = x[b, p] - drivers[b, p, _LENGTH] - x[b, i] if p >= 0 else np.inf
            if p >= 0 and v[b, i] > v[b, p]:
                min_ttc[b] = min(min_ttc[b], gap / (v[b, i] - v[b, p]))
            if merged_now[b, i]:
                if p >= 0:
                    min_pet[b] = min(min_pet[b], gap / max(v[b, p], SLOWEST_MPS))
                f = follow[b, i, lane[b, i]]
                if f >= 0:
                    room = x[b, i] - drivers[b, i, _LENGTH] - x[b, f]
                    min_pet[b] = min(min_pet[b], room / max(v[b, f], SLOWEST_MPS))
        speed[b] += total
        metres[b] += total * DECISION_S
        car_steps[b] += wrecks[b]
