"""Follows a merge of a network up and down until there is road enough.

From the merge on, both streets are followed down until the ramp's lane has ended and some road behind it, and up until
cars have room to prepare, as long as no other street joins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from marl.errors import UserError
from scenarios.cav_merging.geometry import RoadGeometry
from scenarios.cav_merging.sumo.lane_graph import Lane, LaneGraph, Link
from scenarios.cav_merging.sumo.merges import Kind, Merge, links_between
from scenarios.cav_merging.sumo.road import RoadNetwork

#: Metres that are looked for before the merge, and behind the end of the ramp's lane.
APPROACH_M, BEHIND_M = 320.0, 100.0
#: An added lane goes on; the road is followed this far beside it, and the lane's end is said to be this far beyond.
BESIDE_M, BEYOND_M = 400.0, 1000.0
#: Where two lanes become one at a point, cars change over along this stretch before it, m.
POINT_M = 100.0


@dataclass
class _Stretch:
    """An edge of the road: which of our lanes its lanes are (index -> number), and where it begins."""

    edge: str
    numbers: dict[int, int]
    x: float = 0.0


@dataclass
class _Trace:
    """What is known of the road so far; ``lanes`` and ``lights`` as in ``RoadNetwork``."""

    graph: LaneGraph
    merge: Merge
    lanes: dict[str, tuple[int, float]] = field(default_factory=dict)
    edge_of: dict[str, tuple[str, int]] = field(default_factory=dict)
    lights: dict[str, tuple[str, int, float]] = field(default_factory=dict)
    exits: set[str] = field(default_factory=set)
    #: (name, limit) of the lanes within junctions that cars of this road run over.
    crossings: list[Lane] = field(default_factory=list)

    def put(self, stretch: _Stretch) -> None:
        """Give the lanes of an edge their places."""
        for index, number in stretch.numbers.items():
            name = self.graph.edges[stretch.edge].lanes[index].name
            self.lanes[name] = (number, stretch.x)
            self.edge_of[name] = (stretch.edge, index)

    def cross(self, tail: str, link_from: int, link: Link, number: int, end: float) -> None:
        """The lanes within a junction that a link runs over; they end where the next edge begins, at ``end``."""
        lanes = self.graph.crossing(link)
        x = end - sum(lane.length for lane in lanes)
        if link.light:
            self.lights[self.graph.edges[tail].lanes[link_from].name] = (link.light, link.signal, x)
        for lane in lanes:
            self.lanes[lane.name] = (number, x)
            x += lane.length
        self.crossings += lanes


def _length(graph: LaneGraph, link: Link) -> float:
    return sum(lane.length for lane in graph.crossing(link))


def _reference(numbers: Mapping[int, int]) -> int:
    """The index of the lane by which lengths are measured: the first main lane, on a ramp the ramp's."""
    return min(numbers, key=lambda index: (numbers[index] == 0, numbers[index]))


def _upstream(graph: LaneGraph, edge: str, numbers: dict[int, int]) -> list[tuple[_Stretch, dict[int, Link]]]:
    """The edges before ``edge``, nearest first, each with the links by which its lanes go on."""
    tails, found, length, taken = graph.tails(), [], graph.edges[edge].length, {edge}
    while length < APPROACH_M:
        before = tails.get(edge, set())
        if len(before) != 1:
            break
        (name,) = before
        if name in taken or graph.heads(name) != {edge}:
            break
        own, links = dict[int, int](), dict[int, Link]()
        for lane, choices in links_between(graph, name, edge).items():
            known = [link for link in choices if link.lane in numbers]
            if known and numbers[known[0].lane] not in own.values():
                own[lane], links[lane] = numbers[known[0].lane], known[0]
        if not own:
            break
        found.append((_Stretch(name, own), links))
        length += graph.edges[name].length
        taken.add(name)
        edge, numbers = name, own
    return found


class _Downstream:
    """Follows the merged road: where the ramp's lane ends and how, and the edges on the way."""

    def __init__(self, trace: _Trace, first: _Stretch, last: str | None, taken: set[str]):
        self.trace, self.graph, self.last = trace, trace.graph, last
        self.stretches, self._taken = [first], taken
        self.kind: Kind = "point merge" if trace.merge.shared else "added lane"
        self.merge_end = first.x if trace.merge.shared else 0.0
        self._begin = first.x
        trace.put(first)

    @property
    def end(self) -> float:
        """Where the last edge ends, m."""
        here = self.stretches[-1]
        return here.x + self.graph.edges[here.edge].lanes[_reference(here.numbers)].length

    def follow(self) -> None:
        """Go on until there is road enough, or none."""
        while True:
            here = self.stretches[-1]
            ramp_goes_on = 0 in here.numbers.values()
            following = self._next(here)
            if ramp_goes_on:
                self._ramp_lane(here, following)
            done = self.end - self._begin >= BESIDE_M if self.kind == "added lane" else self._behind(here)
            if following is None or (self.last is not None and here.edge == self.last) or (self.last is None and done):
                return
            self._enter(here, *following)

    def _behind(self, here: _Stretch) -> bool:
        return 0 not in here.numbers.values() and self.end - self.merge_end >= BEHIND_M

    def _next(self, here: _Stretch) -> tuple[str, dict[int, Link]] | None:
        """The edge to which most main lanes lead, and by which links."""
        ways: dict[str, dict[int, Link]] = {}
        for index, number in here.numbers.items():
            for link in self.graph.links.get((here.edge, index), ()):
                if number > 0:
                    ways.setdefault(link.edge, {}).setdefault(index, link)
        visited = self._taken | {stretch.edge for stretch in self.stretches}  # a ring leads back to its beginning
        ways = {name: way for name, way in ways.items() if name not in visited}
        if not ways:
            return None
        name = self.last if self.last in ways else max(ways, key=lambda name: (len(ways[name]), _innermost(ways[name])))
        assert name is not None
        self.trace.exits |= set(ways) - {name}
        return name, ways[name]

    def _ramp_lane(self, here: _Stretch, following: tuple[str, dict[int, Link]] | None) -> None:
        """Whether the ramp's lane ends with this edge, and how."""
        (index,) = [index for index, number in here.numbers.items() if number == 0]
        links = self.graph.links.get((here.edge, index), [])
        onward = [link for link in links if following is not None and link.edge == following[0]]
        self.trace.exits |= {link.edge for link in links} - {link.edge for link in onward}
        if onward:
            assert following is not None
            taken = {link.lane for link in following[1].values()}
            if any(link.lane not in taken for link in onward):
                return
            self.kind = "zipper"
        elif links:
            self.kind = "weaving"
        elif following is None:
            return  # The network ends here, beside the ramp's lane.
        else:
            self.kind = "acceleration lane"
        self.merge_end = self.end

    def _enter(self, here: _Stretch, name: str, links: Mapping[int, Link]) -> None:
        first = links[min(links, key=lambda index: here.numbers[index])]
        x = self.end + _length(self.graph, first)
        numbers: dict[int, int] = {}
        for index in sorted(links, key=lambda index: here.numbers[index]):
            link, number = links[index], here.numbers[index]
            numbers.setdefault(link.lane, number)
            self.trace.cross(here.edge, index, link, numbers[link.lane], x)
        for index in [index for index, number in here.numbers.items() if number == 0]:
            for link in self.graph.links.get((here.edge, index), ()):
                if link.edge == name:
                    goes_on = link.lane not in numbers
                    numbers.setdefault(link.lane, 0)
                    self.trace.cross(here.edge, index, link, numbers[link.lane], x)
                    if goes_on:
                        break
        self._added(name, numbers)
        stretch = _Stretch(name, numbers, x)
        self.stretches.append(stretch)
        self.trace.put(stretch)

    def _added(self, name: str, numbers: dict[int, int]) -> None:
        """Lanes that begin on the far side of the main road get the next numbers."""
        add_inner_lanes(self.graph, name, numbers, self.trace.merge.side)


def add_inner_lanes(graph: LaneGraph, name: str, numbers: dict[int, int], side: int) -> None:
    """Number the lanes of an edge beyond the innermost that has a number."""
    known = max(numbers, key=lambda index: numbers[index])
    highest = numbers[known]
    for index in sorted(graph.edges[name].lanes, key=lambda index: side * index):
        if index not in numbers and (index - known) * side > 0:
            highest += 1
            numbers[index] = highest


def _innermost(links: Mapping[int, Link]) -> int:
    return max(links)


def trace_road(graph: LaneGraph, merge: Merge, last: str | None) -> RoadNetwork:
    """The road of a merge; last: the edge that ends it, None: as far as is needed.

    Raises ``UserError`` for a road that does not reach ``last``, and for more than three main lanes.
    """
    trace = _Trace(graph, merge)
    main_numbers, links, first = _at_the_merge(graph, merge)
    upstream = _upstream(graph, merge.main, main_numbers)
    chain = [_Stretch(merge.main, main_numbers)] + [stretch for stretch, _ in upstream]
    x = 0.0
    for k in range(len(chain) - 1, -1, -1):
        here = chain[k]
        here.x = x
        trace.put(here)
        way = upstream[k - 1][1] if k > 0 else links
        at = _reference(here.numbers) if _reference(here.numbers) in way else min(way)
        x += graph.edges[here.edge].lanes[at].length + _length(graph, way[at])
        for index, link in way.items():
            trace.cross(here.edge, index, link, here.numbers[index], x)
    first.x = x
    ramp_start, ramp_chain = _put_ramp(trace, merge, first)
    down = _Downstream(trace, first, last, {*ramp_chain, *(stretch.edge for stretch in chain)})
    down.follow()
    names = [stretch.edge for stretch in down.stretches]
    if last is not None and names[-1] != last:
        raise UserError(
            f"{graph.path}: the main road does not lead from '{merge.merge}' (merge) to '{last}' (after); it leads "
            f"over {', '.join(names)}"
        )
    return _network(trace, down, [stretch.edge for stretch in reversed(chain)], ramp_start, ramp_chain)


def _at_the_merge(graph: LaneGraph, merge: Merge) -> tuple[dict[int, int], dict[int, Link], _Stretch]:
    """Numbers of the main road's lanes, how they go on, and the first edge of the merged road."""
    ways = links_between(graph, merge.main, merge.merge)
    order = sorted(ways, key=lambda index: merge.side * index)
    ramp_goals = [link.lane for link in links_between(graph, merge.ramp, merge.merge)[merge.ramp_lane]]
    numbers, links, onward = dict[int, int](), dict[int, Link](), dict[int, int]()
    for index in order:
        free = [link for link in ways[index] if link.lane not in onward]
        if free:
            links[index] = free[0]
            numbers[index] = len(numbers) + 1
            onward[free[0].lane] = numbers[index]
    if not merge.shared:
        goals = [lane for lane in ramp_goals if lane not in onward]
        onward[max(goals, key=lambda lane: merge.side * lane)] = 0
    add_inner_lanes(graph, merge.merge, onward, merge.side)
    return numbers, links, _Stretch(merge.merge, onward)


def _put_ramp(trace: _Trace, merge: Merge, first: _Stretch) -> tuple[float, list[str]]:
    """Place the ramp so that it ends where the merged road begins; where it begins, and its edges in order."""
    graph, index = trace.graph, merge.ramp_lane
    goals = links_between(graph, merge.ramp, merge.merge)[index]
    wanted = 1 if merge.shared else 0
    link = next((link for link in goals if first.numbers.get(link.lane) == wanted), goals[0])
    # Behind the point where two lanes become one, cars of the ramp are on the main lane.
    trace.cross(merge.ramp, index, link, first.numbers.get(link.lane, wanted), first.x)
    x = first.x - _length(graph, link) - graph.edges[merge.ramp].lanes[index].length
    here = _Stretch(merge.ramp, {index: 0}, x)
    trace.put(here)
    chain = [merge.ramp]
    for stretch, links in _upstream(graph, merge.ramp, here.numbers):
        ((lane, way),) = links.items()
        trace.cross(stretch.edge, lane, way, 0, x)
        x = stretch.x = x - _length(graph, way) - graph.edges[stretch.edge].lanes[lane].length
        trace.put(stretch)
        chain.append(stretch.edge)
    return x, chain[::-1]


def _network(trace: _Trace, down: _Downstream, main: list[str], ramp_start: float, ramp: list[str]) -> RoadNetwork:
    graph, merge = trace.graph, trace.merge
    onto = down.stretches[0].x
    merge_start, merge_end, road_end = onto, down.merge_end, down.end
    if down.kind == "added lane":
        merge_end = road_end + BEYOND_M
    elif down.kind == "point merge":
        goal = links_between(graph, merge.ramp, merge.merge)[merge.ramp_lane]
        merge_end = onto - max(_length(graph, link) for link in goal)
        merge_start = max(ramp_start, 0.0, merge_end - POINT_M)
    after = [stretch.edge for stretch in down.stretches]
    road = {name: graph.edges[name] for name in (*main, *after)}
    ours = [graph.edges[edge].lanes[index] for edge, index in trace.edge_of.values() if edge in road]
    lowest = min(lane.limit for lane in ours if trace.lanes[lane.name][0] > 0)
    ramp_limit = min(graph.edges[name].lanes[trace.edge_of[lane][1]].limit for name, lane in _ramp_lanes(trace, ramp))
    lanes = max(number for number, _ in trace.lanes.values())
    geometry = RoadGeometry(
        merge_start=merge_start,
        merge_end=merge_end,
        road_end=road_end,
        speed_limit=lowest,
        main_lanes=lanes,
        ramp_start=ramp_start,
        converge=min(100.0, graph.edges[merge.ramp].length),
        ramp_limit=ramp_limit,
    )
    limits = {name: min(road[name].limit, *(lane.limit for lane in road[name].lanes.values())) for name in road}
    return RoadNetwork(
        path=graph.path,
        edges={"ramp": merge.ramp, "main": merge.main, "merge": merge.merge, "after": after[-1]},
        kind=down.kind,
        geometry=geometry,
        lanes=trace.lanes,
        edge_of=trace.edge_of,
        ways={"ramp": (*ramp, *after), "main": (*main, *after)},
        onward=graph.reached_from(after[-1]),
        entrances=_entrances(graph, main, ramp),
        exits=frozenset(trace.exits),
        lights=trace.lights,
        side=merge.side,
        left_out=_left_out(trace, down.kind, limits, lowest),
    )


def _ramp_lanes(trace: _Trace, ramp: Iterable[str]) -> list[tuple[str, str]]:
    """(edge, lane name) of the ramp's lane on each of its edges."""
    return [(edge, name) for name, (edge, _) in trace.edge_of.items() if edge in ramp and trace.lanes[name][0] == 0]


def _entrances(graph: LaneGraph, main: list[str], ramp: list[str]) -> dict[str, frozenset[str]]:
    """Role -> the edges from which one gets to the main road, or to the ramp, and not to both."""
    tails = graph.tails()

    def before(chain: list[str]) -> set[str]:
        found, left = set(chain), list(chain)
        while left:
            new = tails.get(left.pop(), set()) - found
            found |= new
            left += new
        return found

    by_main, by_ramp = before(main), before(ramp)
    return {
        "main": frozenset(by_main - by_ramp | set(main)),
        "ramp": frozenset(by_ramp - by_main | set(ramp)),
    }


def _left_out(trace: _Trace, kind: Kind, limits: Mapping[str, float], lowest: float) -> tuple[str, ...]:
    """What the geometry does not have: kinds of ends, other limits of main road and junctions, lights, exits."""
    notes = []
    if kind in ("zipper", "point merge"):
        notes.append(f"the {kind} (it lets cars change over before its end)")
    if trace.exits:
        notes.append(f"the off-ramp {', '.join(sorted(trace.exits))}")
    if len(set(limits.values())) > 1:
        each = ", ".join(f"{limit:g} m/s on '{name}'" for name, limit in limits.items())
        notes.append(f"limits of {each} (it drives by {lowest:g} on all of them)")
    slow = [f"{lane.limit:g} m/s on '{lane.name}'" for lane in trace.crossings if lane.limit < lowest]
    if slow:
        notes.append(f"limits within junctions, {', '.join(slow)}")
    if trace.lights:
        notes.append(f"the traffic light {', '.join(sorted({light for light, _, _ in trace.lights.values()}))}")
    return tuple(notes)
