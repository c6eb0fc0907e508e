"""The options of the world: the ``world:`` part of a run's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Amount = Annotated[float, Field(ge=0.0, le=1e6)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class RoleConfig(_Frozen):
    """One role of a hierarchy."""

    calls: tuple[str, ...] = ()
    """Roles that it may delegate to."""
    tools: tuple[str, ...] = ()
    """Tools that it may use: cache, fresh, compute, check, ``module:function`` of your own, ``SERVER/TOOL`` of an MCP
    server of the graph, or ``SERVER/*`` for all of them."""
    knows: tuple[int | str, ...] | None = None
    """Relations that its lookups cover: numbers of generated ones, names of your own; null: all."""
    failure: Probability = 0.0
    """Chance that a lookup of this role finds nothing: an unhelpful sub-agent."""
    turns: int = Field(6, ge=1, le=100)
    """Turns that it may take in one conversation."""
    reads: Literal["task", "question", "caller"] = "task"
    """What it sees when called: its task, also the user's question, or also what its caller has seen."""
    final: bool = False
    """Its answer goes to the user and ends the episode."""
    budget: int | None = Field(None, ge=0, le=10_000)
    """Calls that it may make in an episode, in all its conversations together; null: no limit of its own."""
    prompt: str = Field("", max_length=20_000)
    """What it is told at the top of each of its conversations, after its name and its tools (``grammar: json``)."""


class McpConfig(_Frozen):
    """A server of tools that speaks the Model Context Protocol."""

    command: tuple[str, ...] = ()
    """The program that is started and spoken to over its standard streams, and its arguments."""
    url: str = ""
    """Or the address of a server that runs already (streamable HTTP)."""

    @model_validator(mode="after")
    def _one_way(self) -> McpConfig:
        if bool(self.command) == bool(self.url):
            raise ValueError("a server of tools has either a command or a url")
        return self


class GraphConfig(_Frozen):
    """Who may call whom."""

    entry: str
    """The role that the user talks to."""
    roles: dict[str, RoleConfig] = Field(min_length=1)
    servers: dict[str, McpConfig] = Field(default_factory=dict)
    """MCP servers by name, whose tools roles may use; needs the extra ``mcp``."""
    cycles: Literal["forbidden", "max_rounds"] = "forbidden"
    """Whether roles may call each other in a circle."""
    max_rounds: int = Field(2, ge=1, le=20)
    """How often a role may be open at once, where circles are allowed."""


class TaskConfig(_Frozen):
    """What is asked. Every episode has its own knowledge, so that nothing can be learned by heart."""

    file: Path | None = None
    """A JSON file with questions (and knowledge) to use instead of generated ones."""
    entities: int = Field(24, ge=2, le=1000)
    """Things that questions are about, e0 and so on."""
    relations: int = Field(8, ge=1, le=100)
    """Relations between them, r0 and so on."""
    hops: tuple[int, ...] = (1, 2, 3)
    """Numbers of lookups in a question; each entry is equally likely, and one may be named several times."""
    arithmetic: Probability = 0.0
    """Share of questions that go on with arithmetic (with hops 0: that are arithmetic only)."""
    operations: tuple[int, ...] = (1, 2)
    """Numbers of arithmetic operations in such a question."""
    modulus: int = Field(20, ge=2, le=1000)
    """Numbers are 0 to this, exclusive; arithmetic wraps around."""
    stale: tuple[int, ...] = (1, 4, 6)
    """Numbers of the relations that the cache gets wrong."""

    @model_validator(mode="after")
    def _consistent(self) -> TaskConfig:
        if not self.hops or min(self.hops) < 0 or max(self.hops) > 10:
            raise ValueError("hops must be numbers from 0 to 10")
        if not self.operations or min(self.operations) < 1 or max(self.operations) > 10:
            raise ValueError("operations must be numbers from 1 to 10")
        return self


class CostConfig(_Frozen):
    """What calls cost, and what costs and mistakes do to the reward."""

    delegation: Amount = 1.0
    """Cost of asking a sub-agent."""
    tools: dict[str, Amount] = Field(default_factory=lambda: {"fresh": 0.5, "check": 1.0})
    """Tools that are not named here cost nothing."""
    weight: Amount = 0.03
    """The reward of a success is 1 minus this times the cost, and never below 0."""
    invalid: Amount = 0.01
    """Penalty for a text that is no legal call."""


class ExpertConfig(_Frozen):
    """Systematic weaknesses of the scripted demonstrator that a warm start imitates."""

    prefers_first: Probability = 0.65
    """It asks the first of its sub-agents, whoever knows the relation."""
    prefers_cache: Probability = 0.65
    """It uses the first of its tools, whether or not it is reliable for the relation."""
    stops_early: Probability = 0.5
    """It answers questions of three and more steps one step early."""
    useless_check: Probability = 0.6
    """It makes a check that tells it nothing."""
    over_delegates: Probability = 0.0
    """It asks a sub-agent for what a tool of its own would tell it."""
    mistake: Probability = 0.0
    """It says something random, on top of the systematic weaknesses."""


class HierarchyConfig(_Frozen):
    """Options of the agent hierarchy."""

    graph: str | GraphConfig = "planner_searchers"
    """A graph of this package, a YAML file, or the graph itself."""
    tasks: TaskConfig = TaskConfig()
    costs: CostConfig = CostConfig()
    expert: ExpertConfig = ExpertConfig()
    grammar: Literal["compact", "json"] = "compact"
    """How calls are written: ``ask e5 r1 north``, or as JSON. Both are always understood."""
    max_turns: int = Field(48, ge=1, le=10_000)
    """Turns of an episode, of all roles together; more end it."""
    max_calls: int = Field(24, ge=1, le=10_000)
    """Delegations and tool calls of an episode; more are refused."""
    context: int = Field(96, ge=16, le=1_000_000)
    """Words (compact) or tokens that a conversation may take before it is closed."""
    plain_answers: bool = False
    """A text without any call is the answer, as models give it that were made for chats (``grammar: json``); false: an
    agent must use a tool, ``answer`` among them, in every turn."""
    tool_seconds: float = Field(1.0, gt=0.0, le=600.0)
    """Time after which a tool of your own is given up."""
    tool_characters: int = Field(500, ge=1, le=1_000_000)
    """Characters of what a tool of your own returns that an agent reads; it is told how many were cut."""
    announce: bool = False
    """Intent: a called agent sees what all agents above it are about: their last call, and the step that they will make
    next. In a run ``coordination.intent.enabled`` decides."""
    announce_delay: int = Field(0, ge=0, le=64)
    """Calls by which an announcement is late: it tells of an earlier call. In a run ``coordination.intent.delay``."""
    announce_loss: Probability = 0.0
    """Chance that an announcement does not arrive; in a run ``coordination.intent.loss``."""
    announce_noise: Probability = 0.0
    """Chance that a word of it is another one; in a run ``coordination.intent.noise``."""
    plan: bool = False
    """Guidance: the question comes with a plan of steps, and a called agent is told which of them its task is. In a run
    ``coordination.guidance.enabled=false`` switches it off."""
    guard: bool = False
    """Safety: an invalid call is replaced by the nearest legal one; in a run if ``coordination.safety.enabled``."""
    guard_price: Amount = 0.0
    """Taken off the reward of an agent whose call was replaced. In a run ``coordination.safety.penalty`` decides."""
    held_out: bool = False
    """Use the tasks that training never meets."""
