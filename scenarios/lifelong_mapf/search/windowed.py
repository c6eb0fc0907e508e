"""``windowed``: anytime search over a rolling window of steps, in the place of a rule.

Every agent has a plan for the next ``window`` steps, and the plans agree (``space_time``). Each step of the world they
lose their first move and are extended by one move of PIBT at their ends (``rolling``); then large neighbourhood search
(``neighbourhoods``) makes them better until its budget is spent, and the first moves are carried out. PIBT never
fails, so neither does this. Goals that are not given yet are not known.

J. Li et al., "Lifelong multi-agent path finding in large-scale warehouses", AAAI 2021 (the rolling window); H. Jiang et
al., "Scaling lifelong multi-agent path finding to more realistic settings", SoCS 2024 (plans by PIBT, made better by
large neighbourhood search).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from marl.envs.batched import TimeStep
from marl.seeding import Stream, fold
from scenarios.lifelong_mapf.guidance.base import NONE, GridWorld, GuidanceConfig, present
from scenarios.lifelong_mapf.guidance.shared import GoalFields
from scenarios.lifelong_mapf.maps.fields import MOVES, Board
from scenarios.lifelong_mapf.maps.kinds import Kind, kind_of_map
from scenarios.lifelong_mapf.pibt.preferences import scale_of
from scenarios.lifelong_mapf.pibt.rule import NOT_NEAR, pibt_table
from scenarios.lifelong_mapf.pibt.swap import NO_SWAP, Swap, Ways
from scenarios.lifelong_mapf.search.neighbourhoods import FEATURES, Choice, Ground, Plans, improve, party
from scenarios.lifelong_mapf.search.rolling import carry_out, roll, start_anew, write_costs
from scenarios.lifelong_mapf.search.space_time import MAX_WINDOW, search_scratch

#: ``WindowedConfig.guidance``: as the world is configured, or by the kind of the map where that was left as it comes.
WORLD, AUTO = "world", "auto"

#: The guidance by kind: prices of central cells cost the search dearly on mazes and random maps.
VECTORS: Mapping[Kind, str] = {"warehouse": "warehouse", "maze": "plain", "random": "plain"}

#: Agents that ``windowed`` draws for an iteration, to start from the most delayed of them.
DRAWS = 4

#: Iterations between two looks at the clock.
_ROUND = 8


class WindowedConfig(BaseModel):
    """Options of ``windowed``: ``--policies windowed:window=12:iterations=200``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: int = Field(8, ge=1, le=MAX_WINDOW, description="steps that are planned ahead")
    iterations: int = Field(50, ge=1, le=1_000_000, description="iterations of the search per step of a copy")
    milliseconds: float | None = Field(
        None,
        gt=0,
        le=60_000,
        description="search for so long per step of a copy instead; then results differ from run to run",
    )
    neighbours: int = Field(6, ge=1, le=64, description="agents that are planned anew together, at most")
    guidance: str = Field(
        AUTO,
        description="a vector's name or file; world: as the world is configured; auto: the same, but the vector for "
        "this kind of map where that was left as it comes",
    )


class _Config(Protocol):
    guidance: GuidanceConfig
    on_target: str


class WindowedWorld(GridWorld, Protocol):
    """What the search reads beyond ``GridWorld``. steps: integer ``[B]``, steps made in the present episode."""

    config: _Config
    steps: Tensor


def named_guidance(world: WindowedWorld, name: str, vectors: Mapping[Kind, str]) -> GuidanceConfig:
    """What ``WindowedConfig.guidance`` means in ``world``; ``vectors`` for ``AUTO``, by the kind of the first map."""
    configured = world.config.guidance
    if name == WORLD or (name == AUTO and configured.weights() != GuidanceConfig().weights()):
        return configured
    if name == AUTO:
        name = vectors[kind_of_map(world.blocked[0], world.height, world.width)]
    return GuidanceConfig(vector=name)


class Windowed:
    """The search for all copies of ``world``, on ``guidance`` or else on that of the options.

    choice: (agents drawn for an iteration, weights of ``FEATURES`` by which it starts from one of them).
    Memory: the fields (``GoalFields``) and the plans of all agents, and scratch for one copy.
    """

    def __init__(
        self,
        world: WindowedWorld,
        options: WindowedConfig,
        guidance: GuidanceConfig | None = None,
        choice: tuple[int, Sequence[float]] = (DRAWS, ()),
    ):
        self._world, self._options = world, options
        self._fields = GoalFields(world, guidance or named_guidance(world, options.guidance, VECTORS))
        copies, agents = world.position.shape
        cells, window = world.height * world.width, options.window
        self._plan = np.full((copies, agents, window + 1), NONE, np.int32)
        self._goal = np.full((copies, agents), NONE, np.int32)
        self._age = np.zeros((copies, agents), np.int32)
        self._urgency = np.zeros(agents, np.int64)
        self._order = np.tile(np.arange(agents, dtype=np.int32), (copies, 1))
        self._tried = np.zeros((copies, agents), np.int32)
        self._choice = Choice(choice[0], np.array(choice[1], np.float64), np.empty(len(FEATURES), np.float64))
        # One copy after the other; nothing of these lasts.
        self._cost = np.ones((cells, len(MOVES)), np.int32)
        self._scale = scale_of(self._fields.weights, self._fields.units)
        self._cost[:, 0] += self._scale.stay
        self._delay = np.zeros(agents, np.int32)
        self._table = np.full((window + 1, cells), NONE, np.int16)
        self._fresh = np.zeros(agents + 2, np.int32)
        self._pibt = pibt_table(cells, agents)
        self._swap = Swap(True, world.config.on_target == "nothing")
        self._other = np.empty((agents, window + 1), np.int32)
        self._party = party(agents, min(options.neighbours, agents), window)
        self._search = search_scratch(window)

    def act(self, timestep: TimeStep) -> Tensor:
        world, fields = self._world, self._fields
        begun: NDArray[np.bool_] = (world.steps == 0).cpu().numpy()
        if not begun.all():
            fields.advance()
        if begun.any():
            fields.restart(begun)
        now = present(world, fields.exits)
        keys = fold(timestep.key, Stream.POLICY).cpu().numpy()
        actions = np.zeros(now.position.shape, np.int64)
        restart = world.config.on_target == "restart"
        for b in range(world.copies):
            m = int(now.maps[b])
            board = Board(now.exits[m], now.width)
            if fields.weights.priced:
                write_costs(board, fields.prices(), m, b, self._scale.stay, self._cost)
            ground = Ground(
                board,
                self._cost,
                fields.field[b],
                now.goal[b],
                now.alive[b],
                restart,
                fields.units,
            )
            plans = Plans(self._plan[b], self._delay, self._table, self._fresh, self._tried[b])
            age, order = self._age[b], self._order[b]
            rule = (order, self._urgency, self._scale, ground)
            ways = Ways(NO_SWAP, now.goal[b], fields.field[b], NOT_NEAR, b)
            roll(keys[b], bool(begun[b]), now.position[b], self._goal[b], age, *rule, ways, plans, self._pibt)
            start_anew(keys[b], age, *rule, ways._replace(swap=self._swap), plans, self._other, self._pibt)
            self._improve(keys[b], ground, plans)
            fault = carry_out(ground, plans, actions[b])
            if fault != NONE:
                raise RuntimeError(f"windowed: the plan of agent {fault} in copy {b} collides with another")
        return torch.from_numpy(actions).to(world.device)

    def _improve(self, key: np.int64, ground: Ground, plans: Plans) -> None:
        options = self._options
        if options.milliseconds is None:
            improve(key, 0, options.iterations, ground, plans, self._choice, self._party, self._search)
            return
        until = time.perf_counter() + options.milliseconds / 1e3
        first = 0
        while time.perf_counter() < until:
            improve(key, first, _ROUND, ground, plans, self._choice, self._party, self._search)
            first += _ROUND
