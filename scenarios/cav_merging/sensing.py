"""What automated cars know of others: what they sense themselves, what others tell them, and what they remember.

Actors alone are concerned: the central state, rewards, rules and the supervisor see everything. Messages fill the
observation's own places for neighbours and gaps, so that a policy that never met a message can use them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.seeding import Stream, fold, uniform
from scenarios.cav_merging.config import DECISION_S, Messages, Sensing
from scenarios.cav_merging.observation import Sight, full_sight, own_view
from scenarios.cav_merging.traffic import R, Traffic

#: ``number`` of a car that nobody remembers.
_NOBODY = -1


def sensed(traffic: Traffic, sensing: Sensing, lead: Tensor, follow: Tensor) -> Tensor:
    """bool ``[B, N, V]``: which cars each agent senses by itself.

    Args:
        traffic: the present moment.
        sensing: within ``range_m``; with ``line_of_sight`` the nearest one ahead and behind on each lane alone; cars of
            ramp and main road see each other when both are within ``sight_m`` of the acceleration lane.
        lead, follow: the neighbour tables, int64 ``[B, V, L]``.
    """
    agents, full = traffic.target.shape[1], full_sight(traffic)
    seen = full.there & traffic.present[:, :agents, None] & _in_view(traffic, sensing, full.x, full.lane)
    if sensing.line_of_sight:
        index = torch.arange(traffic.x.shape[1], device=traffic.x.device)
        tables = torch.cat((lead[:, :agents], follow[:, :agents]), 2)
        seen = seen & (tables[..., None] == index).any(2)
    return seen


def _in_view(traffic: Traffic, sensing: Sensing, x: Tensor, lane: Tensor) -> Tensor:
    """Whether an agent would sense a car at ``x`` on ``lane``, ``[B, N, V]``, if no other car hid it."""
    agents = traffic.target.shape[1]
    own_x, own_lane = traffic.x[:, :agents, None], traffic.lane[:, :agents, None]
    view = torch.ones_like(x, dtype=torch.bool)
    if sensing.range_m is not None:
        view = view & ((x - own_x).abs() <= sensing.range_m)
    if sensing.sight_m is not None:
        from_x = traffic.road[:, R.MERGE_START, None, None] - sensing.sight_m
        across = (lane == 0) != (own_lane == 0)
        view = view & (~across | ((x >= from_x) & (own_x >= from_x)))
    return view


class Belief:
    """What the agents of B copies know of other cars.

    Lost messages are drawn once for each sender, listener and decision. A car that was known and is no longer is taken
    to drive on at its last speed and lane, for ``track_s`` seconds, unless the agent would see it there and does not.
    """

    def __init__(
        self, copies: int, agents: int, slots: int, device: torch.device, sensing: Sensing, messages: Messages
    ):
        self._sensing, self._messages = sensing, messages
        shape = (copies, agents, slots)
        self._number = torch.full(shape, _NOBODY, dtype=torch.int64, device=device)
        self._listener = torch.zeros(copies, agents, dtype=torch.int64, device=device)
        self._at = torch.zeros(shape, dtype=torch.int64, device=device)
        self._lane = torch.zeros_like(self._at)
        self._x, self._v = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2))

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers, by name: the tensors themselves, leading dimension B."""
        return {
            "number": self._number, "listener": self._listener, "at": self._at, "lane": self._lane,
            "x": self._x, "v": self._v,
        }  # fmt: skip

    def forget(self, rows: Tensor) -> None:
        """Copies ``rows`` (int64 ``[K]``) begin an episode."""
        self._number[rows] = _NOBODY

    def observe(self, traffic: Traffic, lead: Tensor, follow: Tensor, key: Tensor) -> Tensor:
        """The observation ``[B, N, 41]``, float32, zeros where no agent is; twice in one moment gives the same.

        Args:
            key: of this moment, int64 ``[B]``; losses are drawn by it.
        """
        agents = traffic.target.shape[1]
        seen = sensed(traffic, self._sensing, lead, follow)
        heard = self._heard(traffic, key)
        known, full = seen, full_sight(traffic)
        if self._messages.content != "none":
            told = torch.zeros_like(seen)
            told[..., :agents] = heard
            if self._messages.content == "perception":
                told |= (heard.double() @ seen.double()) > 0
            known = seen | (told & full.there)
        cav = full.cav if self._sensing.know_cavs else torch.nn.functional.pad(heard, (0, seen.shape[2] - agents))
        sight = self._remember(traffic, Sight(full.x, full.v, full.lane, known, cav))
        return torch.where(traffic.present[:, :agents, None], own_view(traffic, sight), 0.0).float()

    def _heard(self, traffic: Traffic, key: Tensor) -> Tensor:
        """bool ``[B, N, N]``: whose message reaches whom (listener, sender)."""
        agents = traffic.target.shape[1]
        if self._messages.content == "none":
            return torch.zeros(*traffic.target.shape, agents, dtype=torch.bool, device=key.device)
        x, there = traffic.x[:, :agents], traffic.present[:, :agents]
        near = (x[:, None] - x[:, :, None]).abs() <= self._messages.range_m
        index = torch.arange(agents, device=key.device)
        heard = near & there[:, None] & there[:, :, None] & (index[:, None] != index)
        if self._messages.loss > 0.0:
            pair = index[:, None] * agents + index
            draw = uniform(fold(fold(key, int(Stream.MESSAGES))[:, None, None], pair))
            heard = heard & (draw >= self._messages.loss)
        return heard

    def _remember(self, traffic: Traffic, sight: Sight) -> Sight:
        """Note what is known, and add what was known lately."""
        if self._messages.track_s == 0.0:
            return sight
        agents = traffic.target.shape[1]
        number = traffic.number[:, None].expand_as(self._number)
        mine = traffic.number[:, :agents]
        # A slot's new agent knows nothing of what the one before it knew.
        self._number[self._listener != mine] = _NOBODY
        self._listener.copy_(mine)
        now = traffic.step[:, None, None].expand_as(self._at)
        for memory, value in (
            (self._number, number), (self._at, now), (self._lane, sight.lane), (self._x, sight.x), (self._v, sight.v),
        ):  # fmt: skip
            memory.copy_(torch.where(sight.there, value, memory))
        passed = (now - self._at).double() * DECISION_S
        x = self._x + self._v * passed
        lately = (self._number == number) & (passed <= self._messages.track_s)
        lately = lately & (x < traffic.road[:, R.ROAD_END, None, None])
        if not self._sensing.line_of_sight:  # else another car may hide it
            lately = lately & ~_in_view(traffic, self._sensing, x, self._lane)
        there = sight.there | (lately & traffic.present[:, :agents, None])
        old = there & ~sight.there
        return Sight(
            torch.where(old, x, sight.x),
            torch.where(old, self._v, sight.v),
            torch.where(old, self._lane, sight.lane),
            there,
            sight.cav,
        )
