"""``marl inspect cav_merging``: the merge that is found in a network, drawn, and what would be run of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from marl.envs.sumo.files import read_routes_root
from marl.errors import UserError
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.sumo.inputs import SumoInputs, sumo_inputs
from scenarios.cav_merging.sumo.lane_graph import LaneGraph
from scenarios.cav_merging.sumo.merges import find_merges
from scenarios.cav_merging.sumo.networks import read_network
from scenarios.cav_merging.sumo.road import RoadNetwork

#: Characters across of the drawing, and other merges that are named at the most.
_WIDTH, _OTHERS = 72, 6
_ENDS = {
    "acceleration lane": "an acceleration lane that ends",
    "weaving": "an acceleration lane that ends in an off-ramp (weaving)",
    "zipper": "an acceleration lane that joins the lane beside it (zipper)",
    "added lane": "a lane of the main road (added lane)",
    "point merge": "the same lane at a point (point merge)",
}
#: How the drawing ends the ramp's lane.
_MARKS = {"acceleration lane": "|", "weaving": "\\", "zipper": "/", "point merge": "/", "added lane": "="}


def inspect(config: CavConfig) -> list[str]:
    """Lines about the network, the merge and the demand. Raises ``UserError`` for what cannot be run."""
    if config.net is None:
        raise UserError("name a network: marl inspect cav_merging --net FILE")
    inputs = sumo_inputs(config)
    graph = LaneGraph(inputs.net)
    network = read_network(inputs.net, config.edges or None)
    return [*_about(graph, network), "", *drawing(network), "", *_notes(graph, network, inputs)]


def edges_option(network: RoadNetwork) -> str:
    """The ``--edges`` that name this merge."""
    return "--edges " + ",".join(f"{role}={edge}" for role, edge in network.edges.items())


def _about(graph: LaneGraph, network: RoadNetwork) -> Iterator[str]:
    road, edges = network.geometry, network.edges
    hand = ", driven on the left" if graph.left_hand else ""
    yield f"network  {network.path} ({len(graph.edges)} edges for cars{hand})"
    yield f"merge    '{edges['ramp']}' joins '{edges['main']}' and becomes {_ENDS[network.kind]}"
    length = f"{road.merge_end - road.merge_start:.0f} m beside it"
    if network.kind == "added lane":
        length = f"{road.road_end - road.merge_start:.0f} m beside it and on"
    yield (
        f"road     {road.main_lanes} main lanes, {road.merge_start:.0f} m before the merge, {length}, "
        f"{max(0.0, road.road_end - road.merge_end):.0f} m after; the ramp {road.merge_start - road.ramp_start:.0f} m"
    )
    ramp = road.speed_limit if road.ramp_limit is None else road.ramp_limit
    yield f"limits   {_speed(road.speed_limit)} on the main road, {_speed(ramp)} on the ramp (the lowest of each)"
    yield f"option   {edges_option(network)}"


def _speed(limit: float) -> str:
    return f"{limit:.4g} m/s ({3.6 * limit:.0f} km/h, {limit / 0.44704:.0f} mph)"


def drawing(network: RoadNetwork) -> list[str]:
    """The road as rows of characters, driven from left to right: the innermost lane on top, the ramp at the bottom."""
    road = network.geometry
    first, last = min(0.0, road.ramp_start), road.road_end
    scale = (_WIDTH - 1) / (last - first)

    def column(x: float) -> int:
        return min(_WIDTH - 1, max(0, round((x - first) * scale)))

    rows = []
    end = column(min(road.merge_end, road.road_end))
    for lane in range(road.main_lanes, 0, -1):
        row = [" "] * _WIDTH
        spans = [offset for own, offset in network.lanes.values() if own == lane]
        for at in range(column(min(spans)), _WIDTH):
            row[at] = "="
        rows.append(f"{lane:>3} {''.join(row)}")
    row = [" "] * _WIDTH
    for at in range(column(road.ramp_start), end + 1):
        row[at] = "-" if at < column(road.merge_start) else "="
    row[end] = _MARKS[network.kind]
    rows.append(f"  0 {''.join(row)}")
    scale_row = [" "] * (_WIDTH + 12)
    for x in (first, road.merge_start, min(road.merge_end, road.road_end), road.road_end):
        for k, character in enumerate(f"{x:.0f}"):
            scale_row[column(x) + k] = character
    marks = [" "] * _WIDTH
    for _, _, x in network.lights.values():
        marks[column(x)] = "!"
    lights = [f"    {''.join(marks)} (! light)"] if network.lights else []
    return [*lights, *rows, f"  m {''.join(scale_row).rstrip()}"]


def _notes(graph: LaneGraph, network: RoadNetwork, inputs: SumoInputs) -> Iterator[str]:
    others = [merge for merge in find_merges(graph) if merge.ramp != network.edges["ramp"]]
    for merge in others[:_OTHERS]:
        yield f"another  --edges ramp={merge.ramp},main={merge.main},merge={merge.merge}"
    if len(others) > _OTHERS:
        yield f"another  and {len(others) - _OTHERS} more"
    if network.exits:
        yield f"exits    {', '.join(sorted(network.exits))}: cars that leave there are driven by SUMO, automated or not"
    for path in inputs.routes:
        root = read_routes_root(path)
        counts = Counter(element.tag for element in root.iter() if element.tag in ("flow", "vehicle", "trip", "vType"))
        yield f"demand   {path}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    for path in inputs.additional:
        yield f"files    {path}"
    for note in inputs.ignored:
        yield f"ignored  {note}: a step of SUMO is 0.1 s here, and cars change whole lanes"
    for note in network.left_out:
        yield f"twin     leaves out {note}"
