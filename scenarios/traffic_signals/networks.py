"""Network and route files: those that come with sumo-rl, and anybody's; and the signal programs in them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from marl.errors import UserError, nearest
from marl.xml_io import read_xml
from scenarios.cav_merging.sumo.install import MISSING, sumo_home
from scenarios.traffic_signals.config import SignalConfig

#: Name -> network and demand among the files of the sumo-rl package.
NETWORKS: Mapping[str, tuple[str, str]] = {
    "single": (
        "single-intersection/single-intersection.net.xml",
        "single-intersection/single-intersection.rou.xml",
    ),
    "2x2": ("2x2grid/2x2.net.xml", "2x2grid/2x2.rou.xml"),
    "3x3": ("3x3grid/3x3Grid2lanes.net.xml", "3x3grid/routes14000.rou.xml"),
    "4x4": ("4x4-Lucas/4x4.net.xml", "4x4-Lucas/4x4c1c2c1c2.rou.xml"),
}


@dataclass(frozen=True)
class SignalNetwork:
    """Files of a simulation. programs: light -> seconds of each green with the yellow after it, as the network says."""

    net: Path
    routes: Path
    programs: Mapping[str, tuple[float, ...]]


def find_network(config: SignalConfig) -> SignalNetwork:
    """The files that a configuration means; ``UserError`` if they are not there or have no lights."""
    sumo_home()
    found = importlib.util.find_spec("sumo_rl")
    if found is None or not found.submodule_search_locations:
        raise UserError(MISSING)
    shipped = Path(found.submodule_search_locations[0]) / "nets"
    if config.net in NETWORKS:
        net, routes = (shipped / name for name in NETWORKS[config.net])
    elif not config.net.endswith(".xml"):
        raise UserError(f"network '{config.net}' does not exist{nearest(config.net, sorted(NETWORKS))}")
    elif config.routes is None:
        raise UserError(f"the network {config.net} needs a demand: name its .rou.xml file with --routes")
    else:
        net, routes = Path(config.net), Path()
    if config.routes is not None:
        routes = Path(config.routes)
    read_xml(routes)
    programs = {logic.get("id", ""): _greens(logic, net) for logic in read_xml(net).iter("tlLogic")}
    if not programs:
        raise UserError(f"the network {net} has no traffic lights")
    for light, seconds in programs.items():
        if not seconds:
            raise UserError(f"light '{light}' of {net} has no green phase")
    return SignalNetwork(net, routes, programs)


def _greens(logic: Element, net: Path) -> tuple[float, ...]:
    """sumo-rl's green phases: no yellow and not all red; what follows such a phase is counted with it."""
    greens: list[float] = []
    for phase in logic.iter("phase"):
        try:
            state, duration = phase.attrib["state"], float(phase.attrib["duration"])
        except (KeyError, ValueError) as error:
            raise UserError(f"light '{logic.get('id')}' of {net} has a phase without a readable {error}") from None
        if "y" not in state and set(state) - {"r", "s"}:
            greens.append(duration)
        elif greens:
            greens[-1] += duration
    return tuple(greens)
