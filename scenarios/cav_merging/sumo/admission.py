"""Cars that SUMO lets come, from a user's demand: which are on the road, in which slots, and which of them we drive."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from types import ModuleType

from scenarios.cav_merging.drivers import ASSERTIVE
from scenarios.cav_merging.sumo.inputs import Demand
from scenarios.cav_merging.sumo.road import RoadNetwork


class Admission:
    """Looks for cars that came onto the road since the last look.

    unseen: cars of the present look that found no slot.
    """

    def __init__(self, sumo: ModuleType, network: RoadNetwork, demand: Demand, slots: int):
        self._sumo, self._network, self._demand, self._slots = sumo, network, demand, slots
        self._known: set[str] = set()
        self._number = 0
        self.unseen = 0
        self._seed, self._share, self._driven, self._assertive = 0, 1.0, True, False

    def begin(self, seed: int, share: float, driven: bool, assertive: bool = False) -> None:
        """A new episode.

        Args:
            seed: which cars are automated is a function of it and of their names.
            share: of automated cars where no vTypes are named.
            driven: automated cars do what they are told; else SUMO drives them too.
            assertive: SUMO drives them as drivers who wish to drive the limit and accept short gaps.
        """
        self._known.clear()
        self._number, self._seed, self._share = 0, seed, share
        self._driven, self._assertive = driven, assertive

    def look(self, taken: Iterable[int]) -> list[tuple[int, str, bool, list[float]]]:
        """Slot, SUMO's name, whether we drive it, and ``Arrival`` of each car that is new on the road.

        taken: slots that are not free.
        """
        vehicle, lanes = self._sumo.vehicle, self._network.lanes
        agents = self._demand.agents
        free = sorted(set(range(self._slots)) - set(taken), reverse=True)
        robots, humans = [slot for slot in free if slot < agents], [slot for slot in free if slot >= agents]
        found = []
        self.unseen = 0
        for name in vehicle.getIDList():
            if name in self._known:
                continue
            place = lanes.get(vehicle.getLaneID(name))
            if place is None:
                continue
            leaves = not self._network.exits.isdisjoint(vehicle.getRoute(name))
            automated = not leaves and bool(robots) and self._is_automated(name)
            if not automated and not humans:
                self.unseen += 1
                continue
            slot = robots.pop() if automated else humans.pop()
            self._known.add(name)
            self._number += 1
            if automated and self._assertive:
                vehicle.setSpeedFactor(name, 1.0)
                vehicle.setParameter(name, "laneChangeModel.lcAssertive", str(ASSERTIVE))
            # Whoever goes on to an off-ramp does not merge.
            about = [self._number, float(place[0] == 0 and not leaves), *self._driver(name)]
            found.append((slot, name, automated and self._driven, about))
        return found

    def _is_automated(self, name: str) -> bool:
        if self._demand.automated:
            return self._sumo.vehicle.getTypeID(name) in self._demand.automated
        return zlib.crc32(f"{self._seed}:{name}".encode()) / 2**32 < self._share

    def _driver(self, name: str) -> list[float]:
        """``Arrival`` from DESIRED on."""
        vehicle = self._sumo.vehicle
        wish = min(vehicle.getSpeedFactor(name) * self._network.geometry.speed_limit, vehicle.getMaxSpeed(name))
        try:
            bold = float(vehicle.getParameter(name, "laneChangeModel.lcAssertive"))
        except (ValueError, self._sumo.TraCIException):
            bold = 1.0
        return [
            wish,
            vehicle.getTau(name),
            vehicle.getAccel(name),
            vehicle.getDecel(name),
            vehicle.getMinGap(name),
            vehicle.getLength(name),
            bold,
        ]
