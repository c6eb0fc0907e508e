"""Networks of the kinds that users have, built by netconvert from descriptions of our own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from marl.envs.sumo.install import sumo_binary

_MAIN = '<edge id="main" from="a" to="j" numLanes="2" speed="30" priority="3"/>'
_NODES = '<node id="a" x="0" y="0"/><node id="r" x="100" y="-60"/><node id="j" x="400" y="0" type="{}"/>'
_NODES += '<node id="k" x="600" y="0" type="{}"/><node id="e" x="900" y="0"/>'
_ACROSS = "".join(f'<connection from="main" to="merge" fromLane="{i}" toLane="{i + 1}"/>' for i in range(2))
_ACROSS += '<connection from="ramp" to="merge" fromLane="0" toLane="0"/>'
_ON = "".join(f'<connection from="merge" to="after" fromLane="{i + 1}" toLane="{i}"/>' for i in range(2))


def _edges(merge: int = 3, after: int = 2, ramp: str = 'speed="20"', limit: float = 30.0, more: str = "") -> str:
    return (
        f'<edge id="main" from="a" to="j" numLanes="2" speed="{limit}" priority="3"/>'
        f'<edge id="ramp" from="r" to="j" {ramp} priority="1"/>'
        f'<edge id="merge" from="j" to="k" numLanes="{merge}" speed="{limit}" priority="3"/>'
        f'<edge id="after" from="k" to="e" numLanes="{after}" speed="{limit}" priority="3"/>{more}'
    )


def _nodes(at_j: str = "priority", at_k: str = "priority", more: str = "") -> str:
    return _NODES.format(at_j, at_k) + more


#: kind of road -> (nodes, edges, connections, options of netconvert).
ROADS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "slow_ramp": (_nodes(), _edges(), _ACROSS + _ON, ()),
    "zipper": (
        _nodes(at_k="zipper"),
        _edges(),
        _ACROSS + _ON + '<connection from="merge" to="after" fromLane="0" toLane="0"/>',
        (),
    ),
    "added_lane": (
        _nodes(),
        _edges(after=3),
        _ACROSS + "".join(f'<connection from="merge" to="after" fromLane="{i}" toLane="{i}"/>' for i in range(3)),
        (),
    ),
    "point": (
        '<node id="a" x="0" y="0"/><node id="r" x="100" y="-60"/><node id="j" x="400" y="0" type="priority"/>'
        '<node id="e" x="900" y="0"/>',
        '<edge id="main" from="a" to="j" numLanes="1" speed="25" priority="3"/>'
        '<edge id="ramp" from="r" to="j" speed="20" priority="1"/>'
        '<edge id="after" from="j" to="e" numLanes="1" speed="25" priority="3"/>',
        '<connection from="main" to="after" fromLane="0" toLane="0"/>'
        '<connection from="ramp" to="after" fromLane="0" toLane="0"/>',
        (),
    ),
    "split": (
        _nodes(more='<node id="u" x="-200" y="0"/><node id="m" x="500" y="0"/><node id="s" x="0" y="-90"/>'),
        '<edge id="up" from="u" to="a" numLanes="2" speed="30" priority="3"/>'
        '<edge id="street" from="s" to="r" speed="15" priority="1"/>'
        '<edge id="main" from="a" to="j" numLanes="2" speed="30" priority="3"/>'
        '<edge id="ramp" from="r" to="j" speed="20" priority="1"/>'
        '<edge id="merge" from="j" to="m" numLanes="3" speed="30" priority="3"/>'
        '<edge id="merge2" from="m" to="k" numLanes="3" speed="30" priority="3"/>'
        '<edge id="after" from="k" to="e" numLanes="2" speed="30" priority="3"/>',
        _ACROSS
        + "".join(f'<connection from="merge" to="merge2" fromLane="{i}" toLane="{i}"/>' for i in range(3))
        + "".join(f'<connection from="merge2" to="after" fromLane="{i + 1}" toLane="{i}"/>' for i in range(2)),
        (),
    ),
    "wide_ramp": (
        _nodes(),
        _edges(merge=4, ramp='numLanes="2" speed="20"'),
        "".join(f'<connection from="main" to="merge" fromLane="{i}" toLane="{i + 2}"/>' for i in range(2))
        + "".join(f'<connection from="ramp" to="merge" fromLane="{i}" toLane="{i}"/>' for i in range(2))
        + "".join(f'<connection from="merge" to="after" fromLane="{i + 2}" toLane="{i}"/>' for i in range(2)),
        (),
    ),
    "weaving": (
        _nodes(more='<node id="x" x="850" y="-60"/>'),
        _edges(more='<edge id="exit" from="k" to="x" speed="20" priority="1"/>'),
        _ACROSS + _ON + '<connection from="merge" to="exit" fromLane="0" toLane="0"/>',
        (),
    ),
    "meter": (
        _nodes(more='<node id="s" x="250" y="-30" type="traffic_light"/>'),
        '<edge id="street" from="r" to="s" speed="20" priority="1"/>' + _edges().replace('from="r"', 'from="s"'),
        _ACROSS + _ON,
        (),
    ),
    "left_hand": (_nodes().replace('y="-60"', 'y="60"'), _edges(), _ACROSS + _ON, ("--lefthand",)),
    "mph": (_nodes(), _edges(limit=65.0, ramp='speed="45"'), _ACROSS + _ON, ()),
    "from_the_left": (
        _nodes().replace('y="-60"', 'y="60"'),
        _edges(),
        "".join(f'<connection from="main" to="merge" fromLane="{i}" toLane="{i}"/>' for i in range(2))
        + '<connection from="ramp" to="merge" fromLane="0" toLane="2"/>'
        + "".join(f'<connection from="merge" to="after" fromLane="{i}" toLane="{i}"/>' for i in range(2)),
        (),
    ),
}


def build_road(kind: str, folder: Path) -> Path:
    """The ``.net.xml`` of a kind of road."""
    nodes, edges, connections, options = ROADS[kind]
    files = {"node": f"<nodes>{nodes}</nodes>", "edge": f"<edges>{edges}</edges>"}
    files["connection"] = f"<connections>{connections}</connections>"
    target = folder / f"{kind}.net.xml"
    command = [str(sumo_binary("netconvert")), f"--output-file={target}", "--no-turnarounds", *options]
    if kind == "mph":  # netconvert reads km/h, which is what is written here as mph
        edges = files["edge"]
        for mph in (65.0, 45):
            edges = edges.replace(f'speed="{mph}"', f'speed="{mph * 0.44704 * 3.6:.4f}"')
        files["edge"] = edges
        command.append("--speed-in-kmh")
    for name, text in files.items():
        source = folder / f"{kind}.{name}.xml"
        source.write_text(text)
        command.append(f"--{name}-files={source}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target
