"""SUMO networks: our own, built by netconvert from a geometry, and anybody's, read from a ``.net.xml`` file."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from marl.envs.sumo.files import is_file_name
from marl.envs.sumo.install import sumo_binary
from marl.errors import UserError, nearest
from scenarios.cav_merging.geometry import LANE_WIDTH, RoadGeometry
from scenarios.cav_merging.sumo.lane_graph import LaneGraph
from scenarios.cav_merging.sumo.merges import merge_at
from scenarios.cav_merging.sumo.road import RoadNetwork
from scenarios.cav_merging.sumo.tracing import trace_road

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
    """The road of a merge.

    Args:
        path: a ``.net.xml`` file.
        edges: role -> edge for ramp, main, merge and, if wanted, after, which ends the road; None: where two edges
            become one, the likeliest on-ramp first.

    Raises ``UserError`` in one sentence if there is none.
    """
    graph = LaneGraph(path)
    named = dict(edges or {})
    for role in ROLES[:3] if named else ():
        if role not in named:
            raise UserError(f"--edges names no '{role}' edge; give ramp=...,main=...,merge=...,after=...")
    if not named and set(OWN_EDGES) <= set(graph.edges):
        named = dict(OWN_EDGES)
    return trace_road(graph, merge_at(graph, named), named.get("after"))
