"""A user's demand: cars per hour by the main road and by the ramp, read from a SUMO route file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from xml.etree.ElementTree import Element

from marl.envs.sumo.files import read_routes_root, seconds
from marl.errors import UserError

_HOUR_S = 3600.0
#: A flow without an end goes on for this long, SUMO's default.
_DAY_S = 86_400.0


class Demand(NamedTuple):
    """Cars per hour at the two entrances."""

    main: float
    ramp: float

    @property
    def total(self) -> float:
        return self.main + self.ramp


def read_demand(paths: Sequence[Path], network: Road) -> Demand:
    """The demand of ``.rou.xml`` files as two rates.

    Args:
        paths: the files, plain or compressed.
        network: by whose edges cars come and leave.

    Of flows their rates are taken, of single vehicles and trips their number over the time from the first departure to
    the last; types, speeds and lanes are not. Episodes begin when the demand does. ``UserError`` in one sentence for
    what is not a constant demand at both entrances, and for ways that leave the road before its end.
    """
    tally = _Tally(paths[0], network)
    for path in paths:
        tally.read(path)
    return tally.demand()


class Road(Protocol):
    """What of a ``RoadNetwork`` ways are compared with."""

    @property
    def entrances(self) -> Mapping[str, Collection[str]]:
        """Role ('main', 'ramp') -> the edges from which cars come by it."""

    @property
    def exits(self) -> Collection[str]:
        """The edges by which cars leave the road before its end."""


class _Tally:
    """Rates of flows and times of single cars, summed over files."""

    def __init__(self, path: Path, network: Road):
        self.path, self._network = path, network
        self._rates = {"main": 0.0, "ramp": 0.0}
        self._spans: set[tuple[float, float]] = set()
        self._singles: dict[str, list[float]] = {"main": [], "ramp": []}

    def read(self, path: Path) -> None:
        root = read_routes_root(path)
        ways = _named_ways(root)
        for element in root:
            if element.tag not in ("flow", "vehicle", "trip"):
                continue
            choices = _ways(element, ways)
            rate, span = _rate(element, path) if element.tag == "flow" else (0.0, (0.0, 0.0))
            for share, passed in choices:
                entrance = self._entrance(element, passed, path)
                if element.tag == "flow":
                    self._rates[entrance] += share * rate
                    self._spans.add(span)
                else:
                    self._singles[entrance].append(_time(element, "depart", path))
                    break  # A single car is one car, whichever way it draws.

    def _entrance(self, element: Element, passed: Sequence[str], path: Path) -> str:
        """'main' or 'ramp', whichever the way has in it."""
        left = [edge for edge in passed if edge in self._network.exits]
        if left:
            raise UserError(
                f"'{element.get('id')}' of {path} leaves the road by the off-ramp '{left[0]}': a demand by rates goes "
                "on to the end; run it in SUMO as the file says (--backend sumo, world.demand=file)"
            )
        for role in ("ramp", "main"):
            if any(edge in self._network.entrances[role] for edge in passed):
                return role
        raise UserError(
            f"'{element.get('id')}' of {path} comes neither by the main road nor by the ramp: its way is "
            f"{' '.join(filter(None, passed)) or 'not said'}"
        )

    def demand(self) -> Demand:
        """The rates of all that was read."""
        path, spans = self.path, self._spans
        if len(spans) > 1:
            raise UserError(f"the flows of {path} begin or end at different times; a demand is constant here")
        times = [time for some in self._singles.values() for time in some]
        first, last = min(times, default=0.0), max(times, default=0.0)
        if times and last <= first:
            raise UserError(f"all vehicles of {path} depart at once; give flows, or vehicles over some time")
        if times and any(last <= begin or first >= end for begin, end in spans):
            raise UserError(
                f"the flows of {path} are over when its vehicles depart, or begin later; give one of the two"
            )
        for entrance, some in self._singles.items():
            self._rates[entrance] += len(some) / (last - first) * _HOUR_S if some else 0.0
        demand = Demand(self._rates["main"], self._rates["ramp"])
        if demand.total <= 0.0:
            raise UserError(f"{path} has no flow, vehicle or trip; name a .rou.xml file with some")
        return demand


_Ways = list[tuple[float, list[str]]]


def _named_ways(root: Element) -> dict[str, _Ways]:
    """Name of a route or of a distribution of routes -> (share, edges) of each way."""
    ways: dict[str, _Ways] = {
        route.attrib["id"]: [(1.0, route.get("edges", "").split())]
        for route in root.iter("route")
        if "id" in route.attrib
    }
    for mixed in root.iter("routeDistribution"):
        within = [(float(route.get("probability", "1")), route) for route in mixed.findall("route")]
        parts = [
            (p, route.get("edges", "").split() or ways.get(route.get("refId", ""), [(1.0, [""])])[0][1])
            for p, route in within
        ]
        named = mixed.get("routes", "").split()
        shares = [float(p) for p in mixed.get("probabilities", "").split()] or [1.0] * len(named)
        parts += [(p, ways[name][0][1]) for p, name in zip(shares, named, strict=False) if name in ways]
        total = sum(p for p, _ in parts)
        if total > 0.0 and "id" in mixed.attrib:
            ways[mixed.attrib["id"]] = [(p / total, way) for p, way in parts]
    return ways


def _ways(element: Element, ways: Mapping[str, _Ways]) -> _Ways:
    """(share, edges) of each way that a vehicle or flow may take."""
    own = element.find("route")
    if own is not None:
        return [(1.0, own.get("edges", "").split())]
    if "route" in element.attrib:
        return ways.get(element.attrib["route"], [(1.0, [])])
    return [(1.0, [element.get("from", ""), *element.get("via", "").split(), element.get("to", "")])]


def _rate(flow: Element, path: Path) -> tuple[float, tuple[float, float]]:
    """Vehicles per hour of a flow, and when it begins and ends (s)."""
    begin = _time(flow, "begin", path, 0.0)
    end = _time(flow, "end", path, _DAY_S)
    for name in ("vehsPerHour", "perHour"):
        if name in flow.attrib:
            return _number(flow, name, path), (begin, end)
    if "probability" in flow.attrib:
        return _number(flow, "probability", path) * _HOUR_S, (begin, end)
    if "period" in flow.attrib:
        drawn = re.fullmatch(r"exp\((.*)\)", flow.attrib["period"].strip())
        if drawn is not None:
            return _positive(drawn[1], "period", flow, path) * _HOUR_S, (begin, end)
        return _HOUR_S / _positive(flow.attrib["period"], "period", flow, path), (begin, end)
    if "number" in flow.attrib and end > begin:
        return _number(flow, "number", path) / (end - begin) * _HOUR_S, (begin, end)
    raise UserError(f"flow '{flow.get('id')}' of {path} says no rate: vehsPerHour, period, probability or number")


def _time(element: Element, name: str, path: Path, default: float | None = None) -> float:
    """A time in seconds, which SUMO also writes as hours, minutes and seconds."""
    text = element.get(name)
    if text is None and default is not None:
        return default
    value = seconds(text or "")
    if value is None:
        raise UserError(f"'{element.get('id')}' of {path} has {name}='{text}'; it has to be a time, not negative")
    return value


def _number(element: Element, name: str, path: Path) -> float:
    text = element.get(name)
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise UserError(f"'{element.get('id')}' of {path} has {name}='{text}'; it has to be a number, not negative")
    return value


def _positive(text: str, name: str, element: Element, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise UserError(f"'{element.get('id')}' of {path} has {name}='{text}'; it has to be a positive number")
    return value
