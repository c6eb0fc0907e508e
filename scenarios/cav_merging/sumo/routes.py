"""A user's demand: cars per hour by the main road and by the ramp, read from a SUMO route file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple
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


def read_demand(path: Path, edges: Mapping[str, str], onward: Collection[str] = ()) -> Demand:
    """The demand of a ``.rou.xml`` file.

    Args:
        path: the file, plain or compressed.
        edges: role -> edge of the network.
        onward: the edges that can be reached from ``after``; with none of them given, ways are not checked to the end.

    Of flows their rates are taken, of single vehicles and trips their number over the time from the first departure to
    the last; types, speeds and lanes are not. Episodes begin when the demand does. ``UserError`` in one sentence for
    what is not a constant demand at both entrances, and for ways that leave the road before its end.
    """
    root = read_routes_root(path)
    routes = {route.attrib["id"]: route.get("edges", "") for route in root.findall("route") if "id" in route.attrib}
    rates = {"main": 0.0, "ramp": 0.0}
    spans = set()
    singles: dict[str, list[float]] = {"main": [], "ramp": []}
    for element in root:
        if element.tag not in ("flow", "vehicle", "trip"):
            continue
        entrance, to = _way(element, routes, edges, path)
        if onward and to and to != edges["merge"] and to not in onward:
            raise UserError(
                f"'{element.get('id')}' of {path} leaves the road for '{to}', where '{edges['after']}' does not lead: "
                "off-ramps cannot be run, take it out of the demand"
            )
        if element.tag == "flow":
            rate, span = _rate(element, path)
            rates[entrance] += rate
            spans.add(span)
        else:
            singles[entrance].append(_time(element, "depart", path))
    if len(spans) > 1:
        raise UserError(f"the flows of {path} begin or end at different times; a demand is constant here")
    times = [time for some in singles.values() for time in some]
    first, last = min(times, default=0.0), max(times, default=0.0)
    if times and last <= first:
        raise UserError(f"all vehicles of {path} depart at once; give flows, or vehicles over some time")
    if times and any(last <= begin or first >= end for begin, end in spans):
        raise UserError(f"the flows of {path} are over when its vehicles depart, or begin later; give one of the two")
    for entrance, some in singles.items():
        rates[entrance] += len(some) / (last - first) * _HOUR_S if some else 0.0
    demand = Demand(rates["main"], rates["ramp"])
    if demand.total <= 0.0:
        raise UserError(f"{path} has no flow, vehicle or trip; name a .rou.xml file with some")
    return demand


def _way(element: Element, routes: Mapping[str, str], edges: Mapping[str, str], path: Path) -> tuple[str, str]:
    """'main' or 'ramp', whichever the way of a vehicle or flow has in it, and the last edge of the way ('': unsaid)."""
    own = element.find("route")
    if own is not None:
        passed = own.get("edges", "").split()
    elif "route" in element.attrib:
        passed = routes.get(element.attrib["route"], "").split()
    else:
        passed = [element.get("from", ""), *element.get("via", "").split(), element.get("to", "")]
    for role in ("ramp", "main"):
        if edges[role] in passed:
            return role, passed[-1]
    raise UserError(
        f"'{element.get('id')}' of {path} takes neither the main edge '{edges['main']}' nor the ramp '{edges['ramp']}'"
    )


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
