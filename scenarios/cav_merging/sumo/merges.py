"""Where two streets of a network become one: the candidates, and which of the two is the ramp."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from marl.errors import UserError
from scenarios.cav_merging.sumo.lane_graph import Edge, LaneGraph, Link

Kind = Literal["acceleration lane", "weaving", "zipper", "added lane", "point merge"]


@dataclass(frozen=True)
class Merge:
    """Two edges that become one.

    ramp, main, merge: names of edges. side: 1 if the ramp joins beside lane 0, the outermost, -1 beside the innermost.
    ramp_lane: the index of the ramp's lane next to the main road. shared: both lead onto the same lane.
    """

    ramp: str
    main: str
    merge: str
    side: int
    ramp_lane: int
    shared: bool


def find_merges(graph: LaneGraph) -> list[Merge]:
    """All places where exactly two edges become one, the likeliest on-ramp first."""
    found = []
    for head, tails in graph.tails().items():
        if len(tails) == 2 and all(graph.heads(tail) == {head} for tail in tails):
            ramp, main = sorted(
                tails, key=lambda name: _like_a_ramp(graph.edges[name], graph.edges[head]), reverse=True
            )
            found.append(merge_of(graph, ramp, main, head))
    return sorted(found, key=lambda merge: _likely(graph, merge), reverse=True)


def _like_a_ramp(edge: Edge, head: Edge) -> tuple[bool, int, float, float]:
    """By name or type, by few lanes, by a low limit, and by the turn that it takes."""
    turn = abs(math.remainder(head.heading[0] - edge.heading[1], math.tau))
    return edge.hints, -len(edge.lanes), -edge.limit, round(turn, 3)


def _likely(graph: LaneGraph, merge: Merge) -> tuple[bool, float, float]:
    """On-ramps of motorways first: a fast main road, a ramp that is one by name or slower than it."""
    ramp, main = graph.edges[merge.ramp], graph.edges[merge.main]
    is_ramp = not main.hints and (ramp.hints or ramp.limit < main.limit or len(ramp.lanes) < len(main.lanes))
    return is_ramp, main.limit * len(main.lanes), main.length


def links_between(graph: LaneGraph, tail: str, head: str) -> dict[int, list[Link]]:
    """Lane of ``tail`` -> its links to ``head``; lanes without one are left out."""
    found = {}
    for lane in graph.edges[tail].lanes:
        links = [link for link in graph.links.get((tail, lane), ()) if link.edge == head]
        if links:
            found[lane] = sorted(links, key=lambda link: link.lane)
    return found


def merge_of(graph: LaneGraph, ramp: str, main: str, merge: str) -> Merge:
    """How ``ramp`` joins ``main`` on ``merge``; ``UserError`` where one of them does not lead there."""
    if len({ramp, main, merge}) < 3:
        raise UserError(f"{graph.path}: ramp, main and merge are three edges, not {ramp}, {main} and {merge}")
    ways = {}
    for role, name in (("ramp", ramp), ("main", main)):
        ways[role] = links_between(graph, name, merge)
        if not ways[role]:
            raise UserError(
                f"{graph.path}: no lane of '{name}' ({role}) leads to '{merge}' (merge); name the edges at one "
                "junction, or leave --edges out and the merge is looked for"
            )
    theirs = {link.lane for links in ways["main"].values() for link in links}
    own = {lane: {link.lane for link in links} for lane, links in ways["ramp"].items()}
    free = set().union(*own.values()) - theirs
    targets = free or set().union(*own.values())
    side = 1 if sum(targets) / len(targets) <= sum(theirs) / len(theirs) else -1
    inner = max if side > 0 else min
    nearest = inner(targets)
    lane = inner(lane for lane, goals in own.items() if nearest in goals)
    return Merge(ramp, main, merge, side, lane, not free)


def merge_at(graph: LaneGraph, edges: Mapping[str, str]) -> Merge:
    """The merge that a user's edges name (ramp, main, merge; after may be left out), or the likeliest one.

    Raises ``UserError`` for names that the network does not have, and where it has no merge.
    """
    for role, name in edges.items():
        if name not in graph.edges:
            raise UserError(f"the network {graph.path} has no edge '{name}' ({role}); it has {_names(graph)}")
    if edges:
        return merge_of(graph, edges["ramp"], edges["main"], edges["merge"])
    found = find_merges(graph)
    if not found:
        raise UserError(
            f"{graph.path} has no merge: nowhere do exactly two edges become one; name them with "
            f"--edges ramp=A,main=B,merge=C from {_names(graph)}"
        )
    return found[0]


def _names(graph: LaneGraph, most: int = 40) -> str:
    names = sorted(graph.edges)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
