"""SUMO's files as users have them: networks, route files and configurations, plain or compressed by gzip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from marl.errors import UserError
from marl.xml_io import read_xml

#: Root elements of SUMO's files, and what a file with such a root is called.
_KINDS = {
    "net": "network",
    "routes": "route file",
    "configuration": "SUMO configuration",
    "sumoConfiguration": "SUMO configuration",
}
_FILE_NAMES = (".xml", ".gz", ".sumocfg")
#: What departs in a route file and is a car.
_CARS = ("flow", "trip", "vehicle")


class Departures(NamedTuple):
    """When the cars of one element of a demand depart, s; a single car has ``first`` equal to ``last``."""

    first: float
    last: float

    def overlap(self, begin: float, end: float) -> bool:
        """Whether a car departs at ``begin`` or later, and before ``end``."""
        return self.first < end and (self.last > begin or self.first >= begin)


def is_file_name(name: str) -> bool:
    """Whether a word names a file rather than a network that comes with a package."""
    return name.endswith(_FILE_NAMES) or Path(name).exists()


def read_network_root(path: Path) -> Element:
    """The root of a network (``.net.xml``, ``.net.xml.gz``).

    Raises ``UserError`` for another of SUMO's files, which it names for what it is.
    """
    return _read(path, "net")


def read_routes_root(path: Path) -> Element:
    """The root of a demand (``.rou.xml``, ``.rou.xml.gz``, trips); raises as ``read_network_root``."""
    return _read(path, "routes")


def _read(path: Path, wanted: str) -> Element:
    root = read_xml(path)
    kind = _KINDS.get(root.tag)
    if root.tag == wanted or (kind is None and wanted == "routes"):
        return root
    if kind == "SUMO configuration":
        raise UserError(f"{path} is a SUMO configuration, not a {_KINDS[wanted]}; give {_named_in(root, path)}")
    found = kind or f"file with the root <{root.tag}>"
    raise UserError(f"{path} is a {found}, not a {_KINDS[wanted]}: --net takes the .net.xml, --routes the .rou.xml")


def _named_in(configuration: Element, path: Path) -> str:
    """The files that a configuration names, as options of a command."""
    options = {"--net": "net-file", "--routes": "route-files"}
    files = {}
    for option, name in options.items():
        element = configuration.find(f".//{name}")
        value = "" if element is None else element.get("value", element.get("v", ""))
        if value:
            files[option] = ",".join(str(path.parent / part.strip()) for part in value.split(","))
    return " ".join(f"{option} {file}" for option, file in files.items()) or "the network and the routes that it names"


def seconds(text: str) -> float | None:
    """A time as SUMO writes it, such as ``12.5`` or ``7:00:00`` (days may come first); None for a word."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        return None
    if not 1 <= len(parts) <= 4 or not all(0.0 <= part < math.inf for part in parts):
        return None
    units = (1.0, 60.0, 3600.0, 86_400.0)
    return sum(part * unit for part, unit in zip(reversed(parts), units, strict=False))


def departures(root: Element) -> Iterator[Departures]:
    """When the cars of a demand depart, element by element; those that wait for something (``triggered``) may at once.

    A flow without an end goes on for ever.
    """
    for element in root.iter():
        if element.tag not in _CARS:
            continue
        if element.tag == "flow":
            first = seconds(element.get("begin", "0")) or 0.0
            last = seconds(element.get("end", "inf"))
            yield Departures(first, math.inf if last is None else last)
        else:
            time = seconds(element.get("depart", "0"))
            yield Departures(0.0, math.inf) if time is None else Departures(time, time)


def demand_begin(path: Path, root: Element, begin: float | None, duration: float) -> float:
    """When a simulation of ``duration`` seconds begins, s.

    Args:
        path: the demand's file, for errors.
        root: its root element.
        begin: what the user asked for; None: 0, or when the first car departs, where that is later than ``duration``.
        duration: length of the simulation, s.

    Raises ``UserError`` if no car departs during the simulation: its figures would all be zero.
    """
    cars = list(departures(root))
    if not cars and root.find(".//include") is not None:
        return begin or 0.0  # The cars are in files that only SUMO reads.
    if not cars:
        raise UserError(f"the demand {path} has no flow, trip or vehicle: nobody would drive; name another")
    first = min(car.first for car in cars)
    if begin is None:
        begin = 0.0 if first < duration else float(math.floor(first))
    if not any(car.overlap(begin, begin + duration) for car in cars):
        raise UserError(
            f"nobody in {path} departs from {begin:g} to {begin + duration:g} s, which is the episode; "
            f"the first car departs at {first:g} s, the last at {max(car.last for car in cars):g} s: begin there"
        )
    return begin
