"""A merge of a network as one road: an axis x along the main road, and which SUMO lane is which of our lanes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scenarios.cav_merging.geometry import RoadGeometry
from scenarios.cav_merging.sumo.merges import Kind


@dataclass(frozen=True)
class RoadNetwork:
    """A merge as SUMO knows it.

    path: the ``.net.xml`` file. edges: role -> edge name, as ``--edges`` takes them. kind: what the ramp becomes.
    lanes: SUMO lane name -> (our lane, offset): a car at position p of that lane is at x = offset + p.
    edge_of: SUMO lane name -> (edge, index), for those that are not within a junction.
    onward: the edges that can be reached from the road's last edge, itself included. entrances: role -> the edges from
    which cars come to the road by the main road or by the ramp. exits: edges by which they leave it before its end.
    lights: SUMO lane name -> (light, place in its state, x of the stop line at the lane's end).
    side: 1 or -1, towards which of SUMO's lane indices our lanes are counted.
    left_out: what SUMO obeys on this road and ``geometry`` does not have, so that the twin drives without it.
    """

    path: Path
    edges: Mapping[str, str]
    kind: Kind
    geometry: RoadGeometry
    lanes: Mapping[str, tuple[int, float]]
    edge_of: Mapping[str, tuple[str, int]]
    ways: Mapping[str, tuple[str, ...]]
    onward: frozenset[str]
    entrances: Mapping[str, frozenset[str]]
    exits: frozenset[str]
    lights: Mapping[str, tuple[str, int, float]]
    side: int = 1
    left_out: tuple[str, ...] = ()

    def route(self, edge: str) -> list[str]:
        """The edges from the beginning of an edge to the end of the road."""
        way = self.ways["ramp" if edge in self.ways["ramp"] else "main"]
        return list(way[way.index(edge) :])

    def place(self, lane: int, x: float) -> tuple[str, int, float]:
        """Where a car at x on our lane stands in SUMO: the edge, the lane's index, and the lane's offset."""
        found = [
            (offset, *self.edge_of[name])
            for name, (own, offset) in self.lanes.items()
            if own == lane and offset <= x and name in self.edge_of
        ]
        if not found:
            raise ValueError(f"lane {lane} has no place at x = {x}")
        offset, edge, index = max(found)
        return edge, index, offset

    def beside(self, name: str, turn: int) -> int | None:
        """The index of the SUMO lane ``turn`` of our lanes to the left of a lane; None if there is none."""
        edge, index = self.edge_of.get(name, ("", 0))
        goal = index + self.side * turn
        there = self.lanes.get(f"{edge}_{goal}")
        return goal if there is not None and there[0] == self.lanes[name][0] + turn else None

    @property
    def runs_off(self) -> bool:
        """A car that stays on the ramp's lane to its end runs off the road."""
        return self.kind in ("acceleration lane", "weaving")

    @property
    def commits(self) -> bool:
        """There is no lane to change to before the merge: changing over means to go first, and takes no place."""
        return self.kind == "point merge"
