"""What a hierarchy is, worked out once: roles with their tools, depths, vocabulary, and the least cost of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import networkx as nx

from marl.errors import UserError
from scenarios.agent_hierarchy.calls import Call, render
from scenarios.agent_hierarchy.config import GraphConfig, HierarchyConfig, RoleConfig
from scenarios.agent_hierarchy.graph import call_graph, levels, load_graph
from scenarios.agent_hierarchy.tasks import MARKS, NOTHING, SIZE, Step, Task, TaskFile, read_tasks
from scenarios.agent_hierarchy.tool_servers import ToolServers
from scenarios.agent_hierarchy.tools import ANSWER, Tool, delegation, load_tool

LOOKUPS = ("cache", "fresh")
_WORLD_WORDS = ("ok", "invalid", "over", "executed", *MARKS)


@dataclass(frozen=True)
class Role:
    """A role with everything that it may say. knows: relations of its lookups, or None for all."""

    name: str
    options: RoleConfig
    tools: Mapping[str, Tool]
    schemas: tuple[dict[str, Any], ...]
    knows: frozenset[str] | None

    def covers(self, relation: str) -> bool:
        return self.knows is None or relation == SIZE or relation in self.knows

    def makers(self, step: Step) -> list[str]:
        """Its tools that can make a step, whether or not they know the relation: a tool of the user's own that has
        the step's name, else ``compute`` for an operation and a lookup for everything else."""
        if step.name in self.tools and self.tools[step.name].own:
            return [step.name]
        fitting = ("compute",) if step.operand else LOOKUPS
        return [name for name in self.tools if name in fitting]


class Hierarchy:
    """A configuration, resolved. Raises ``UserError`` if it contradicts itself; see ``answerable.hierarchy_of``."""

    def __init__(self, config: HierarchyConfig):
        self.config = config
        self.graph: GraphConfig = load_graph(config.graph)
        self.levels = levels(self.graph)
        servers = ToolServers(self.graph.servers, config.tool_seconds)
        self.roles = {name: _role(name, self.graph.roles[name], servers) for name in self.levels}
        self.entry = self.graph.entry
        if config.grammar == "compact":
            _check_compact(config, self.roles)
        if config.tasks.stale and max(config.tasks.stale) >= config.tasks.relations:
            raise UserError(f"world.tasks.stale names relation {max(config.tasks.stale)} of {config.tasks.relations}")
        self._calls = call_graph(self.graph)
        self._step_cost = lru_cache(maxsize=4096)(self._least)
        #: The questions of a file; None: they are generated.
        self.tasks: TaskFile | None = read_tasks(config.tasks.file) if config.tasks.file else None
        #: Relations that the cache has wrong, at least in part.
        self.stale = frozenset(f"r{n}" for n in config.tasks.stale) if self.tasks is None else self.tasks.stale

    @property
    def asked(self) -> tuple[Task, ...]:
        """The questions of the file for this use, training or evaluation."""
        assert self.tasks is not None
        return self.tasks.held_out if self.config.held_out else self.tasks.training

    def cost_of(self, tool: str) -> float:
        return self.config.costs.tools.get(tool, 0.0)

    def can_make(self, step: Step) -> bool:
        """Whether a role has a tool for a step, and knows the relation if it is one."""
        return self._step_cost(step) is not None

    def optimum(self, task: Task) -> tuple[float, int] | None:
        """The least cost of answering a task, and the calls that it takes; None if it has no steps or no way."""
        if not task.steps:
            return None
        found = [self._step_cost(step) for step in task.steps]
        if any(each is None for each in found):
            return None
        # Handing over to whoever may answer the user takes a way through the graph of its own.
        ways = nx.single_source_shortest_path_length(self._calls, self.entry)
        finals = [ways[name] for name, role in self.roles.items() if role.options.final]
        over = 0 if not finals or self.roles[self.entry].options.final else min(finals)
        costs = [each for each in found if each is not None]
        cost = sum(cost for cost, _ in costs) + over * self.config.costs.delegation
        return cost, sum(calls for _, calls in costs) + over

    def _least(self, step: Step) -> tuple[float, int] | None:
        """The least cost of one step and its number of calls, over all roles that can make it."""
        best: tuple[float, int] | None = None
        for role in self.roles.values():
            for tool in role.makers(step):
                if (tool in LOOKUPS and not role.covers(step.name)) or (tool == "cache" and step.name in self.stale):
                    continue
                depth = self.levels[role.name]
                cost = depth * self.config.costs.delegation + self.cost_of(tool)
                if best is None or cost < best[0]:
                    best = cost, depth + 1
        return best

    def vocabulary(self) -> tuple[str, ...]:
        """All words of the compact grammar."""
        tasks = self.config.tasks
        words = [
            *self.roles,
            "ask",
            "answer",
            "add",
            "sub",
            "mul",
            SIZE,
            NOTHING,
            "ok",
            "invalid",
            "over",
            "plan",
            "above",
        ]
        words += [name for role in self.roles.values() for name in role.tools]
        words += [f"r{n}" for n in range(tasks.relations)] + [f"e{n}" for n in range(tasks.entities)]
        calculates = tasks.arithmetic > 0 or 0 in tasks.hops
        words += [str(n) for n in range(tasks.modulus)] if calculates else []
        words += [] if self.tasks is None else self.tasks.words()
        return tuple(dict.fromkeys(words))

    def examples(self) -> tuple[str, ...]:
        """Some legal and some faulty texts, for sampling actions."""
        grammar = self.config.grammar
        texts = [render(Call("answer", {"text": "e1"}), grammar), "answer", "ask r0", '{"name":', "cache r0 e0 e0"]
        for name in self.roles:
            texts.append(render(Call("ask", {"task": "e1 r0", "agent": name}), grammar))
        texts.append(render(Call("cache", {"relation": "r0", "entity": "e1"}), grammar))
        return tuple(texts)


def _check_compact(config: HierarchyConfig, roles: Mapping[str, Role]) -> None:
    """Raise ``UserError`` for what has words of its own, which the compact grammar has not."""
    prompted = next((role.name for role in roles.values() if role.options.prompt), None)
    if prompted is not None:
        raise UserError(f"the prompt of role '{prompted}' has words of its own: choose world.grammar=json")
    if config.plain_answers:
        raise UserError("world.plain_answers=true is for texts in plain words: choose world.grammar=json")


def _role(name: str, options: RoleConfig, servers: ToolServers) -> Role:
    tools: dict[str, Tool] = {}
    for reference in options.tools:
        for tool in servers.tools(reference) if servers.means(reference) else (load_tool(reference),):
            if tool.name in tools:
                raise UserError(f"role '{name}' has two tools called '{tool.name}': name one of them only")
            tools[tool.name] = tool
    if options.calls:
        tools["ask"] = delegation(options.calls)
    tools["answer"] = ANSWER
    knows = None if options.knows is None else frozenset(f"r{n}" if type(n) is int else str(n) for n in options.knows)
    return Role(name, options, tools, tuple(tool.schema() for tool in tools.values()), knows)
