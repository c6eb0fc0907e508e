"""A SUMO network as a graph of the lanes that cars may use: lengths, limits, and which lane leads where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from marl.envs.sumo.files import read_network_root
from marl.errors import UserError

#: Junction-internal edges begin with this.
INTERNAL = ":"


class Lane(NamedTuple):
    """A lane: SUMO's name, metres, m/s."""

    name: str
    length: float
    limit: float


class Link(NamedTuple):
    """Where a lane leads: the other edge and lane, the first lane within the junction, the light ('' if none).

    signal: the light's place in the state of its controller.
    """

    edge: str
    lane: int
    via: str
    light: str
    signal: int


@dataclass(frozen=True)
class Edge:
    """One direction of a street.

    lanes: index -> lane, those that cars may use, the outermost first. heading: direction at the beginning and at the
    end, rad. hints: what says that it is a ramp (its name or its type).
    """

    name: str
    lanes: Mapping[int, Lane]
    heading: tuple[float, float]
    hints: bool

    @property
    def limit(self) -> float:
        """The lowest limit of its lanes, m/s."""
        return min(lane.limit for lane in self.lanes.values())

    @property
    def length(self) -> float:
        return next(iter(self.lanes.values())).length


class LaneGraph:
    """What is read of a ``.net.xml``. Raises ``UserError`` in one sentence for a file that is none.

    edges: by name, without those within junctions. links: (edge, lane) -> where it leads, turnarounds left out.
    left_hand: people drive on the left; lanes are counted from the outermost one all the same.
    """

    def __init__(self, path: Path):
        root = read_network_root(path)
        self.path = path
        self.left_hand = root.get("lefthand", "false") in ("true", "1")
        self.internal: dict[str, Lane] = {}
        self.edges: dict[str, Edge] = {}
        for element in root.iter("edge"):
            name = element.get("id", "")
            if name.startswith(INTERNAL):
                self.internal |= {lane.name: lane for lane in _lanes_of(element, path).values()}
            elif lanes := _lanes_of(element, path):
                self.edges[name] = Edge(name, lanes, _headings(element), _is_named_ramp(element))
        self.links: dict[tuple[str, int], list[Link]] = {}
        self._onward: dict[str, str] = {}
        for element in root.iter("connection"):
            try:
                self._connect(element)
            except ValueError as error:
                said = " ".join(f"{name}='{value}'" for name, value in list(element.attrib.items())[:4])
                raise UserError(f"the connection {said} of {path} has a number that is none: {error}") from None

    def _connect(self, element: Element) -> None:
        if not {"from", "to", "fromLane", "toLane"} <= element.attrib.keys() or element.get("dir") == "t":
            return
        tail, lane, via = element.attrib["from"], int(element.attrib["fromLane"]), element.get("via", "")
        if tail.startswith(INTERNAL):
            self._onward[f"{tail}_{lane}"] = via
            return
        head, other = element.attrib["to"], int(element.attrib["toLane"])
        known = tail in self.edges and head in self.edges
        if known and lane in self.edges[tail].lanes and other in self.edges[head].lanes:
            link = Link(head, other, via, element.get("tl", ""), int(element.get("linkIndex", "-1")))
            self.links.setdefault((tail, lane), []).append(link)

    def crossing(self, link: Link) -> list[Lane]:
        """The lanes within the junction that a link runs over, in order; none in a network without such lanes."""
        found, via = list[Lane](), link.via
        while via in self.internal and len(found) < len(self.internal):
            found.append(self.internal[via])
            via = self._onward.get(via, "")
        return found

    def heads(self, edge: str) -> set[str]:
        """The edges that an edge leads to."""
        return {link.edge for lane in self.edges[edge].lanes for link in self.links.get((edge, lane), ())}

    def tails(self) -> dict[str, set[str]]:
        """Edge -> the edges that lead to it."""
        found: dict[str, set[str]] = {}
        for name in self.edges:
            for head in self.heads(name):
                found.setdefault(head, set()).add(name)
        return found

    def reached_from(self, first: str) -> frozenset[str]:
        """The edges that can be reached from an edge, itself included."""
        reached, left = {first}, [first]
        while left:
            new = self.heads(left.pop()) - reached
            reached |= new
            left += new
        return frozenset(reached)


def _lanes_of(edge: Element, path: Path) -> dict[int, Lane]:
    """The lanes of an edge that cars may use, by index."""
    try:
        lanes = sorted(edge.iter("lane"), key=lambda lane: int(lane.attrib["index"]))
        return {
            int(lane.attrib["index"]): Lane(lane.attrib["id"], _positive(lane, "length"), _positive(lane, "speed"))
            for lane in lanes
            if _for_cars(lane)
        }
    except (KeyError, ValueError) as error:
        raise UserError(f"edge '{edge.get('id')}' of {path} has a lane without a readable {error}") from None


def _positive(lane: Element, name: str) -> float:
    value = float(lane.attrib[name])
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name}: '{lane.attrib[name]}' is no positive number")
    return value


def _for_cars(lane: Element) -> bool:
    allowed, forbidden = lane.get("allow", "").split(), lane.get("disallow", "").split()
    return (not allowed or bool({"passenger", "all"} & set(allowed))) and not {"passenger", "all"} & set(forbidden)


def _headings(edge: Element) -> tuple[float, float]:
    """Directions at the beginning and at the end of an edge, rad; 0 where no shape is given."""
    lane = edge.find("lane")
    points = [point.split(",")[:2] for point in ("" if lane is None else lane.get("shape", "")).split()]
    if len(points) < 2:
        return 0.0, 0.0
    try:
        at = [(float(x), float(y)) for x, y in points]
    except ValueError:
        return 0.0, 0.0  # Only a guess about which street is the ramp hangs on it.
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = at[0], at[1], at[-2], at[-1]
    return math.atan2(y1 - y0, x1 - x0), math.atan2(y3 - y2, x3 - x2)


def _is_named_ramp(edge: Element) -> bool:
    return "ramp" in edge.get("id", "").lower() or edge.get("type", "").endswith("_link")
