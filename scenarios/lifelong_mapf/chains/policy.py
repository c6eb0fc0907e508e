"""``chains``: push chains and a search over them (``push``), as a rule for crowds.

Every step: prices of the traffic seen (``guidance.prices``), costs to go on them (``fields``), one pass over all robots
in the order of their age (``push.settle``), then large neighbourhood search until the budget is spent
(``push.improve``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from marl.compiled import njit
from marl.envs.batched import TimeStep
from marl.seeding import Stream, fold
from scenarios.lifelong_mapf.chains.graph import Operations, StateGraph, grid_graph, operations
from scenarios.lifelong_mapf.chains.planner import Effort, Planner
from scenarios.lifelong_mapf.guidance.base import present
from scenarios.lifelong_mapf.guidance.prices import SharedCosts
from scenarios.lifelong_mapf.maps.fields import BUCKETS, MOVES, Board
from scenarios.lifelong_mapf.maps.headings import AHEAD
from scenarios.lifelong_mapf.maps.kinds import Kind
from scenarios.lifelong_mapf.search.rolling import write_costs
from scenarios.lifelong_mapf.search.windowed import AUTO, WindowedWorld, named_guidance

#: The guidance by kind of map.
VECTORS: Mapping[Kind, str] = {"warehouse": "search-warehouse", "maze": "chains-random", "random": "chains-random"}

#: Steps of an operation: turning takes some of them.
STEPS, TURNING_STEPS = 3, 4

#: Most of them: from a state lead at most ``5 ** 4`` ways, and the numbers of more would not fit into a key.
MOST_STEPS = 4


class ChainsConfig(BaseModel):
    """Options of ``chains``: ``--policies chains:operations=2:iterations=1000``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operations: int | None = Field(
        None,
        ge=1,
        le=MOST_STEPS,
        description=f"steps that a robot plans ahead; default: {STEPS}, robots that turn {TURNING_STEPS}",
    )
    iterations: int = Field(300, ge=0, le=1_000_000, description="iterations of the search per step of a copy")
    milliseconds: float | None = Field(
        None,
        gt=0,
        le=60_000,
        description="search for so long per step of a copy instead; then results differ from run to run",
    )
    push: int = Field(1, ge=1, le=4, description="robots that one operation may push at once, at most")
    depth: int = Field(12, ge=1, le=256, description="robots of a chain, at most")
    nodes: int = Field(3000, ge=1, le=1_000_000, description="operations that a chain looks at, at most")
    tries: int = Field(
        1, ge=1, le=1000, description="how often a robot may fail to make way in a chain; 10 for boards nearly full"
    )
    refresh: int | None = Field(
        None,
        ge=0,
        description="robots whose distances are made anew in a step as prices move; default: by the map's size",
    )
    closer: float = Field(0.3, ge=0, le=20, description="steps of waiting that weigh as much as being a step nearer")
    guidance: str = Field(
        AUTO,
        description="a vector's name or file; world: as the world is configured; auto: the same, but the vector for "
        "this kind of map where that was left as it comes",
    )


class ChainsWorld(WindowedWorld, Protocol):
    """What the planner reads beyond ``WindowedWorld``: whether robots have to turn,

    and their headings int8 ``[B, N]``.
    """

    turning: bool
    heading: Tensor


class Chains:
    """The planner for all copies of ``world``, one ``Planner`` each.

    Memory: two bytes per robot and free cell of a copy.
    """

    def __init__(self, world: ChainsWorld, options: ChainsConfig):
        self._world, self._options = world, options
        self._costs = SharedCosts(world, named_guidance(world, options.guidance, VECTORS))
        self._graphs: dict[int, tuple[StateGraph, Operations]] = {}
        self._planners: list[Planner | None] = [None] * world.copies
        self._cost = np.full((world.height * world.width, len(MOVES)), self._costs.units, np.int32)
        names = ("iterations", "milliseconds", "push", "depth", "nodes", "tries", "refresh", "closer")
        self._effort = Effort(**{name: getattr(options, name) for name in names})

    def act(self, timestep: TimeStep) -> Tensor:
        world, costs = self._world, self._costs
        begun: NDArray[np.bool_] = (world.steps == 0).cpu().numpy()
        if not begun.all():
            costs.advance()
        if begun.any():
            costs.restart(begun)
        now = present(world, costs.exits)
        keys = fold(timestep.key, Stream.POLICY).cpu().numpy()
        headings = world.heading.cpu().numpy()
        actions = np.zeros(now.position.shape, np.int64)
        for b in range(world.copies):
            m = int(now.maps[b])
            planner = self._planner(b, m, begun[b])
            graph = planner.graph
            if costs.weights.priced:
                write_costs(Board(now.exits[m], now.width), costs.prices(), m, b, 0, self._cost)
            priced = np.empty(graph.next.shape, np.int32)
            _state_costs(graph, self._cost, priced)
            state, goal = graph.number[now.position[b]], graph.number[now.goal[b]]
            if world.turning:
                state = (len(AHEAD) * state + headings[b]).astype(np.int32)
            actions[b] = planner.step(keys[b], state, goal, now.alive[b], priced)
        return torch.from_numpy(actions).to(world.device)

    def _planner(self, b: int, m: int, begun: bool) -> Planner:
        """The planner of copy b, made or made anew if an episode has begun, on map m."""
        planner = self._planners[b]
        if begun or planner is None:
            if m not in self._graphs:
                world = self._world
                graph = grid_graph(world.blocked[m], world.height, world.width, world.turning)
                steps = self._options.operations or (TURNING_STEPS if world.turning else STEPS)
                self._graphs[m] = graph, operations(graph, steps)
            graph, moves = self._graphs[m]
            if planner is None or planner.graph is not graph:
                stay = self._world.config.on_target == "nothing"
                robots = self._world.position.shape[1]
                planner = Planner(graph, moves, robots, self._effort, self._costs.units, stay)
                self._planners[b] = planner
            planner.restart()
        return planner


@njit
def _state_costs(graph: StateGraph, cost: NDArray[np.int32], priced: NDArray[np.int32]) -> None:
    """Prices by cell of the grid and move (int32 ``[cells, 5]``) as those of states and actions (``[S, A]``)."""
    for state in range(graph.cell.size):
        flat = graph.flat[graph.cell[state]]
        for action in range(graph.move.shape[1]):
            priced[state, action] = min(cost[flat, graph.move[state, action]], BUCKETS - 1)
