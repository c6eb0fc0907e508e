"""The role graph: who may call whom, checked before anything runs."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
from pydantic import ValidationError

from marl.errors import UserError, nearest
from marl.yaml_io import read_yaml
from scenarios.agent_hierarchy.config import GraphConfig

GRAPHS = Path(__file__).parent / "graphs"


def graph_names() -> list[str]:
    """The graphs that come with the package."""
    return sorted(path.stem for path in GRAPHS.glob("*.yaml"))


def load_graph(graph: str | GraphConfig) -> GraphConfig:
    """The graph of that name or file, checked. Raises ``UserError``."""
    if isinstance(graph, GraphConfig):
        return checked(graph, "the graph")
    path = GRAPHS / f"{graph}.yaml"
    if not path.is_file():
        path = Path(graph)
        if path.suffix not in (".yaml", ".yml"):
            raise UserError(f"role graph '{graph}' does not exist{nearest(graph, graph_names())}")
    try:
        return checked(GraphConfig.model_validate(read_yaml(path)), str(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"'{place}' in {path}: {first['msg'].removeprefix('Value error, ').lower()}") from None


def call_graph(graph: GraphConfig) -> nx.DiGraph[str]:
    """Roles as nodes, an edge from each role to those that it may call."""
    result: nx.DiGraph[str] = nx.DiGraph()
    result.add_nodes_from(graph.roles)
    result.add_edges_from((name, callee) for name, role in graph.roles.items() for callee in role.calls)
    return result


def levels(graph: GraphConfig) -> dict[str, int]:
    """Role -> the fewest calls that lead to it from the entry; the entry first, then by depth."""
    found = nx.single_source_shortest_path_length(call_graph(graph), graph.entry)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def checked(graph: GraphConfig, source: str) -> GraphConfig:
    """The same graph. Raises ``UserError`` that names the first fault."""
    if graph.entry not in graph.roles:
        raise UserError(f"entry '{graph.entry}' of {source} is none of its roles{nearest(graph.entry, [*graph.roles])}")
    for name, role in graph.roles.items():
        if not name.isidentifier():
            raise UserError(f"role '{name}' of {source} must be one word of letters, digits and underscores")
        for callee in role.calls:
            if callee not in graph.roles:
                known = nearest(callee, [*graph.roles])
                raise UserError(f"role '{name}' of {source} calls '{callee}', which is none of its roles{known}")
    calls = call_graph(graph)
    reached = nx.descendants(calls, graph.entry)
    lost = set(graph.roles) - reached - {graph.entry}
    if lost:
        raise UserError(f"role '{min(lost)}' of {source} is called by nobody: add it to the calls of a role")
    if graph.cycles == "forbidden" and not nx.is_directed_acyclic_graph(calls):
        circle = " -> ".join([edge[0] for edge in nx.find_cycle(calls)])
        raise UserError(f"roles of {source} call each other in a circle ({circle}): break it or set cycles: max_rounds")
    return graph
