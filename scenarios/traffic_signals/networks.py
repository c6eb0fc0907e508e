"""Network and route files: those that come with sumo-rl, and anybody's; and the signal programs in them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree

from marl.envs.sumo.files import demand_begin, is_file_name, read_network_root, read_routes_root
from marl.envs.sumo.install import MISSING, sumo_home
from marl.errors import UserError, nearest
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
_STATIC = "static"


@dataclass(frozen=True)
class SignalNetwork:
    """Files of a simulation.

    programs: light -> seconds of each green with the yellow after it, as the network says. begin_s: when an episode
    begins. switching: some lights switch by themselves (actuated or the like): ``static_copy`` makes them obey.
    """

    net: Path
    routes: Path
    programs: Mapping[str, tuple[float, ...]]
    begin_s: int
    switching: bool


def find_network(config: SignalConfig) -> SignalNetwork:
    """The files that a configuration means; ``UserError`` if they are not there, have no lights, or no cars."""
    sumo_home()
    found = importlib.util.find_spec("sumo_rl")
    if found is None or not found.submodule_search_locations:
        raise UserError(MISSING)
    shipped = Path(found.submodule_search_locations[0]) / "nets"
    routes: Path | None
    if config.net in NETWORKS:
        net, routes = (shipped / name for name in NETWORKS[config.net])
    elif not is_file_name(config.net):
        raise UserError(f"network '{config.net}' does not exist{nearest(config.net, sorted(NETWORKS))}")
    else:
        net, routes = Path(config.net), None
    root = read_network_root(net)
    if config.routes is not None:
        routes = Path(config.routes)
    if routes is None:
        raise UserError(f"the network {net} needs a demand: name its .rou.xml file with --routes")
    programs: dict[str, tuple[float, ...]] = {}
    logics = sorted(root.iter("tlLogic"), key=lambda logic: logic.get("programID", ""))
    for logic in logics:
        # Of several programs of a light sumo-rl takes the first by name.
        programs.setdefault(logic.get("id", ""), _greens(logic, net))
    if not programs:
        raise UserError(f"the network {net} has no traffic lights")
    for light, seconds in programs.items():
        if not seconds:
            raise UserError(f"light '{light}' of {net} has no green phase")
    begin = demand_begin(routes, read_routes_root(routes), config.begin_s, config.seconds)
    return SignalNetwork(net, routes, programs, int(begin), any(logic.get("type") != _STATIC for logic in logics))


def static_copy(network: SignalNetwork, folder: Path) -> SignalNetwork:
    """The same network with lights that switch only when told, written to ``folder``.

    sumo-rl tells a light to be static, but SUMO (1.28) leaves an actuated one what it is, and its next step never ends.
    """
    root = read_network_root(network.net)
    for logic in root.iter("tlLogic"):
        logic.set("type", _STATIC)
    path = folder / "static.net.xml"
    ElementTree(root).write(path, encoding="utf-8")
    return replace(network, net=path, switching=False)


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
