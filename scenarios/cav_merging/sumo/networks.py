"""SUMO networks: our own, built by netconvert from a geometry, and anybody's, read from a ``.net.xml`` file."""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from marl.envs.sumo.files import is_file_name, read_network_root
from marl.envs.sumo.install import sumo_binary
from marl.errors import UserError, nearest
from scenarios.cav_merging.geometry import LANE_WIDTH, RoadGeometry

#: The parts that a merge is made of, each one edge of the network.
ROLES = ("ramp", "main", "merge", "after")
#: The edges of the networks that we build are called like their roles.
OWN_EDGES: Mapping[str, str] = {role: role for role in ROLES}
#: The networks that ``scripts/assets/build_networks.py`` writes to ``maps/cav``. ``unseen`` is kept out of training.
NETWORKS: Mapping[str, RoadGeometry] = {
    "merge": RoadGeometry(merge_start=320.0, merge_end=420.0, road_end=520.0, speed_limit=30.0),
    "merge_two_lanes": RoadGeometry(merge_start=320.0, merge_end=420.0, road_end=520.0, speed_limit=30.0, main_lanes=2),
    "unseen": RoadGeometry(merge_start=410.0, merge_end=590.0, road_end=760.0, speed_limit=27.0, converge=140.0),
}
SUFFIX = ".net.xml"
_NETCONVERT_S = 60.0
_NETCONVERT = {"nod": "node", "edg": "edge", "con": "connection"}


@dataclass(frozen=True)
class RoadNetwork:
    """A merge as SUMO knows it.

    path: the ``.net.xml`` file. edges: role -> edge name.
    lanes: SUMO lane name -> (our lane, offset): a car at position p of that lane is at x = offset + p.
    onward: the edges that can be reached from the edge ``after``, itself included.
    left_out: what SUMO obeys on this road and ``geometry`` does not have, so that the twin drives without it.
    """

    path: Path
    edges: Mapping[str, str]
    geometry: RoadGeometry
    lanes: Mapping[str, tuple[int, float]]
    onward: frozenset[str]
    left_out: tuple[str, ...] = ()

    def route(self, role: str) -> list[str]:
        """The edges from the beginning of an edge to the end."""
        way = {"main": ("merge", "after"), "ramp": ("merge", "after"), "merge": ("after",), "after": ()}
        return [self.edges[name] for name in (role, *way[role])]

    def place(self, lane: int, x: float) -> tuple[str, int, float]:
        """Where a car at x on our lane stands in SUMO: the edge's role, its lane's index, and the lane's offset."""
        for role in ("after", "merge", "ramp" if lane == 0 else "main"):
            index = lane if role in ("merge", "ramp") else lane - 1
            found = self.lanes.get(f"{self.edges[role]}_{index}")
            if found is not None and found[0] == lane and found[1] <= x:
                return role, index, found[1]
        raise ValueError(f"lane {lane} has no place at x = {x}")


def source_files(geometry: RoadGeometry) -> dict[str, str]:
    """The plain XML of netconvert: suffix ('nod', 'edg', 'con') -> text."""
    if geometry.ramp_start != 0.0:
        raise ValueError("networks of our own begin their ramp at x = 0")
    lanes, start, end = geometry.main_lanes, geometry.merge_start, geometry.merge_end
    ramp_top = -LANE_WIDTH * lanes
    points = [0.0] + [start - geometry.converge * (1 - k / 20) for k in range(21)]
    shape = " ".join(f"{x:.2f},{ramp_top + geometry.ramp_y(x):.3f}" for x in points)
    nodes = {
        "main_start": (0.0, 0.0),
        "ramp_start": (0.0, ramp_top + geometry.ramp_y(0.0)),
        "merge_start": (start, 0.0),
        "merge_end": (end, 0.0),
        "road_end": (geometry.road_end, 0.0),
    }
    limit = geometry.speed_limit
    ramp_limit = limit if geometry.ramp_limit is None else geometry.ramp_limit
    edges = (
        ("main", "main_start", "merge_start", lanes, limit, start, ""),
        ("ramp", "ramp_start", "merge_start", 1, ramp_limit, start, f' shape="{shape}"'),
        ("merge", "merge_start", "merge_end", lanes + 1, limit, end - start, ""),
        ("after", "merge_end", "road_end", lanes, limit, geometry.road_end - end, ""),
    )
    links = [("ramp", 0, "merge", 0)]
    links += [("main", i, "merge", i + 1) for i in range(lanes)]
    links += [("merge", i + 1, "after", i) for i in range(lanes)]
    node_lines = [f'<node id="{name}" x="{x:.2f}" y="{y:.3f}" type="priority"/>' for name, (x, y) in nodes.items()]
    edge_lines = [
        f'<edge id="{name}" from="{tail}" to="{head}" numLanes="{count}" speed="{speed:.3f}" '
        f'length="{length:.3f}" width="{LANE_WIDTH}"{extra}/>'
        for name, tail, head, count, speed, length, extra in edges
    ]
    link_lines = [f'<connection from="{tail}" fromLane="{i}" to="{head}" toLane="{j}"/>' for tail, i, head, j in links]
    parts = {"nod": ("nodes", node_lines), "edg": ("edges", edge_lines), "con": ("connections", link_lines)}
    return {
        suffix: f"<{root}>\n" + "".join(f"    {line}\n" for line in lines) + f"</{root}>\n"
        for suffix, (root, lines) in parts.items()
    }


def build_network(geometry: RoadGeometry, target: Path, keep_sources: bool = False) -> None:
    """Write ``target`` (``NAME.net.xml``) with netconvert; with ``keep_sources`` its plain XML beside it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = target.parent if keep_sources else Path(scratch)
        stem = target.name.removesuffix(SUFFIX)
        command = [str(sumo_binary("netconvert"))]
        for suffix, text in source_files(geometry).items():
            source = folder / f"{stem}.{suffix}.xml"
            source.write_text(text)
            command.append(f"--{_NETCONVERT[suffix]}-files={source}")
        raw = Path(scratch) / "raw.net.xml"
        command += [f"--output-file={raw}", "--no-internal-links", "--no-turnarounds"]
        command += ["--offset.disable-normalization", "--no-warnings"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_NETCONVERT_S)
        except subprocess.TimeoutExpired:
            raise UserError(f"netconvert took longer than {_NETCONVERT_S:g} s to build {target.name}") from None
        if result.returncode != 0:
            raise UserError(f"netconvert could not build {target.name}: {result.stderr.strip().splitlines()[-1]}")
        # netconvert's header names the date and the folders of the machine it ran on.
        target.write_text(re.sub(r"<!--.*?-->\s*", "", raw.read_text(), flags=re.DOTALL))


def shipped_networks() -> dict[str, Path]:
    """Name -> file of the networks that come with the platform."""
    package = Path(__file__).parents[1]
    # In a checkout the maps lie beside the scenarios, in an installed wheel within them.
    folders = (package.parent.parent / "maps" / "cav", package.parent / "maps" / "cav")
    return {path.name.removesuffix(SUFFIX): path for folder in folders for path in sorted(folder.glob("*" + SUFFIX))}


def find_network(name: str) -> Path:
    """The file of a shipped network, or the path as it is."""
    shipped = shipped_networks()
    if name in shipped:
        return shipped[name]
    if not is_file_name(name):
        raise UserError(f"network '{name}' does not exist{nearest(name, sorted(shipped))}")
    return Path(name)


def read_network(path: Path, edges: Mapping[str, str] | None = None) -> RoadNetwork:
    """Lanes, lengths and limits of a network; ``UserError`` in one sentence if it is not an on-ramp merge.

    The merge edge's rightmost lane has to be an acceleration lane, that is, one without a way on; the ramp has one
    lane, and main, merge and after have the same number of main lanes.
    """
    edges = edges or OWN_EDGES
    for role in ROLES:
        if role not in edges:
            raise UserError(f"--edges names no '{role}' edge; give ramp=...,main=...,merge=...,after=...")
    root = read_network_root(path)
    known = {edge.get("id", ""): edge for edge in root.iter("edge")}
    found = {}
    for role in ROLES:
        if edges[role] not in known:
            ordinary = sorted(name for name in known if not name.startswith(":"))
            raise UserError(f"the network {path} has no edge '{edges[role]}' ({role}); it has {', '.join(ordinary)}")
        found[role] = _lanes_of(known[edges[role]], path)
    count = len(found["main"])
    if len(found["ramp"]) != 1:
        raise UserError(f"edge '{edges['ramp']}' (ramp) of {path} has {len(found['ramp'])} lanes; it has to have one")
    if len(found["merge"]) != count + 1 or len(found["after"]) != count:
        raise UserError(
            f"{path}: main, merge and after have {count}, {len(found['merge'])} and {len(found['after'])} lanes; "
            f"a merge has one lane more than main, and after as many as main"
        )
    links = _links(root)
    for tail, lane, head in links:
        if (tail, lane) == (edges["merge"], 0) and head == edges["after"]:
            raise UserError(f"lane 0 of edge '{tail}' (merge) of {path} goes on; an acceleration lane has to end")
        if (tail, lane) == (edges["merge"], 0):
            raise UserError(
                f"lane 0 of edge '{tail}' (merge) of {path} leads to the off-ramp '{head}': weaving sections cannot be "
                "run, an acceleration lane has to end"
            )
    return _assemble(path, edges, found, links, known)


def _lanes_of(edge: Element, path: Path) -> list[tuple[str, float, float]]:
    """(name, length, limit) of an edge's lanes, by index."""
    try:
        lanes = sorted(edge.iter("lane"), key=lambda lane: int(lane.attrib["index"]))
        return [(lane.attrib["id"], float(lane.attrib["length"]), float(lane.attrib["speed"])) for lane in lanes]
    except (KeyError, ValueError) as error:
        raise UserError(f"edge '{edge.get('id')}' of {path} has a lane without a readable {error}") from None


class _Link(NamedTuple):
    """Where a lane leads: the other edge's lane, the internal lane between ('' if none), the light ('' if none)."""

    lane: int
    via: str
    light: str


def _links(root: Element) -> dict[tuple[str, int, str], _Link]:
    """(from edge, from lane, to edge) -> how; without turnarounds."""
    links = {}
    for link in root.iter("connection"):
        if {"from", "to", "fromLane", "toLane"} <= link.attrib.keys() and link.get("dir") != "t":
            key = (link.attrib["from"], int(link.attrib["fromLane"]), link.attrib["to"])
            links[key] = _Link(int(link.attrib["toLane"]), link.get("via", ""), link.get("tl", ""))
    return links


def _onward(links: Mapping[tuple[str, int, str], _Link], first: str) -> frozenset[str]:
    """The edges that can be reached from an edge, itself included."""
    heads: dict[str, set[str]] = {}
    for tail, _, head in links:
        heads.setdefault(tail, set()).add(head)
    reached, left = {first}, [first]
    while left:
        new = heads.get(left.pop(), set()) - reached
        reached |= new
        left += new
    return frozenset(reached)


def _left_out(
    edges: Mapping[str, str],
    found: Mapping[str, list[tuple[str, float, float]]],
    links: Mapping[tuple[str, int, str], _Link],
    crossings: Iterable[tuple[str, float, float]],
    lowest: float,
) -> tuple[str, ...]:
    """What the geometry does not have: other limits of main road and junctions, and lights."""
    notes = []
    limits = {role: min(limit for _, _, limit in found[role]) for role in ("main", "merge", "after")}
    if len(set(limits.values())) > 1:
        each = ", ".join(f"{limit:g} m/s on '{edges[role]}'" for role, limit in limits.items())
        notes.append(f"limits of {each} (it drives by {lowest:g} on all of them)")
    slow = [f"{limit:g} m/s on '{name}'" for name, _, limit in crossings if name and limit < lowest]
    if slow:
        notes.append(f"limits within junctions, {', '.join(slow)}")
    lights = {link.light for (tail, _, _), link in links.items() if tail in edges.values() and link.light}
    if lights:
        notes.append(f"the traffic light {', '.join(sorted(lights))}")
    return tuple(notes)


def _assemble(
    path: Path,
    edges: Mapping[str, str],
    found: Mapping[str, list[tuple[str, float, float]]],
    links: Mapping[tuple[str, int, str], _Link],
    known: Mapping[str, Element],
) -> RoadNetwork:
    count = len(found["main"])

    def crossing(tail: str, lane: int, head: str, expected: int) -> tuple[str, float, float]:
        """The internal lane between two edges, its length and limit, ('', 0, inf) if the network has none."""
        link = links.get((edges[tail], lane, edges[head]))
        if link is None or link.lane != expected:
            raise UserError(
                f"{path}: lane {lane} of '{edges[tail]}' ({tail}) has to lead to lane {expected} of "
                f"'{edges[head]}' ({head})"
            )
        if not link.via:
            return "", 0.0, math.inf
        return _lanes_of(known[link.via.rpartition("_")[0]], path)[int(link.via.rpartition("_")[2])]

    main_length, ramp_length = found["main"][0][1], found["ramp"][0][1]
    merge_length, after_length = found["merge"][1][1], found["after"][0][1]
    onto, across, off = (
        crossing("main", 0, "merge", 1),
        crossing("ramp", 0, "merge", 0),
        crossing("merge", 1, "after", 0),
    )
    merge_start = main_length + onto[1]
    merge_end = merge_start + merge_length
    after_start = merge_end + off[1]
    ramp_start = merge_start - across[1] - ramp_length
    lanes: dict[str, tuple[int, float]] = {found["ramp"][0][0]: (0, ramp_start)}
    if across[0]:
        lanes[across[0]] = (0, ramp_start + ramp_length)
    lanes[found["merge"][0][0]] = (0, merge_start)
    crossings = [across]
    for i in range(count):
        onto, off = crossing("main", i, "merge", i + 1), crossing("merge", i + 1, "after", i)
        lanes[found["main"][i][0]] = (i + 1, 0.0)
        lanes[found["merge"][i + 1][0]] = (i + 1, merge_start)
        lanes[found["after"][i][0]] = (i + 1, after_start)
        crossings += [onto, off]
        for (name, _, _), offset in ((onto, main_length), (off, merge_end)):
            if name:
                lanes[name] = (i + 1, offset)
    lowest = min(limit for role in ("main", "merge", "after") for _, _, limit in found[role])
    geometry = RoadGeometry(
        merge_start=merge_start,
        merge_end=merge_end,
        road_end=after_start + after_length,
        speed_limit=lowest,
        main_lanes=count,
        ramp_start=ramp_start,
        converge=min(100.0, ramp_length),
        ramp_limit=found["ramp"][0][2],
    )
    left_out = _left_out(edges, found, links, crossings, lowest)
    return RoadNetwork(path, dict(edges), geometry, lanes, _onward(links, edges["after"]), left_out)
