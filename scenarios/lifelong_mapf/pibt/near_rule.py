"""PIBT for large maps, on fields that are known around the agents' ways only (``near_fields``)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marl.compiled import njit
from marl.seeding import Stream, fold
from scenarios.lifelong_mapf.guidance.base import NONE, GridWorld, GuidanceConfig, Present, present
from scenarios.lifelong_mapf.guidance.prices import Prices, SharedCosts
from scenarios.lifelong_mapf.maps.fields import Board
from scenarios.lifelong_mapf.pibt.near_fields import TRUST, NearFields, near_fields, near_scratch, write_near_scores
from scenarios.lifelong_mapf.pibt.preferences import Scale, add_prices, add_turns, scale_of
from scenarios.lifelong_mapf.pibt.rule import PibtTable, facing, pibt_table, put_agents, settle_moves, sort_by_urgency
from scenarios.lifelong_mapf.pibt.swap import NO_SWAP, Swap, Ways

_NO_FIELD = np.empty((0, 0), np.int32)


class NearPibt:
    """As ``Pibt`` on ``GoalFields``; on prices, ways are nearly as cheap (``near_fields``; trust 0: as cheap).

    Call ``restart``, ``advance`` and ``act`` as those of ``GoalFields`` and ``Pibt``.
    """

    def __init__(
        self,
        world: GridWorld,
        config: GuidanceConfig,
        trust: float = TRUST,
        swap: Swap = NO_SWAP,
        heading: Tensor | None = None,
    ):
        self._swap, self._heading = swap, heading
        self._world = world
        self._costs = SharedCosts(world, config)
        copies, agents = world.position.shape
        cells = world.height * world.width
        self._fields = near_fields(world, self._costs.units, trust=trust)
        self._near = near_scratch(cells, self._costs.weights.directed)
        self._goal = np.full((copies, agents), NONE, np.int32)
        self._age = np.zeros((copies, agents), np.int32)
        self._order = np.tile(np.arange(agents, dtype=np.int32), (copies, 1))
        self._urgency = np.zeros((copies, agents), np.int64)
        self._scores = np.zeros((copies, agents, 5), np.int32)
        self._scale = scale_of(self._costs.weights, self._costs.units)
        self._table = pibt_table(cells, agents)
        self._wanted = np.zeros(cells, np.int32)
        self._everywhere = np.ones(copies, np.bool_)

    def restart(self, restarted: NDArray[np.bool_]) -> None:
        """Forget everything about copies that began a new episode (bool ``[B]``)."""
        self._costs.restart(restarted)
        self._fields.planned[restarted] = NONE
        self._age[restarted] = 0
        self._goal[restarted] = self._world.goal.cpu().numpy()[restarted]

    def advance(self) -> None:
        """Take in the present positions."""
        self._costs.advance()

    def act(self, key: Tensor) -> Tensor:
        """Actions int64 ``[B, N]`` at the present positions; key: int64 ``[B]``. Call once per step."""
        goal = self._world.goal.cpu().numpy()
        away = self._world.position.cpu().numpy() != goal
        self._age = np.where((goal == self._goal) & away, self._age + 1, 0).astype(np.int32)
        self._goal = goal.copy()
        actions = np.zeros(goal.shape, np.int64)
        now, prices = present(self._world, self._costs.exits), self._costs.prices()
        write_near_scores(self._everywhere, now, prices, self._fields, self._near, self._scores)
        _decide(
            fold(key, Stream.POLICY).cpu().numpy(),
            now,
            self._swap,
            self._fields,
            _NO_FIELD,
            prices,
            self._scale,
            facing(self._heading, goal),
            self._costs.units,
            self._age,
            self._urgency,
            self._wanted,
            self._order,
            self._scores,
            self._table,
            actions,
        )
        return torch.from_numpy(actions).to(self._world.device)

    @property
    def tiles(self) -> tuple[int, int]:
        """How many tiles are in use, and how many ever were at a time."""
        given_back, taken = self._fields.tally.tolist()
        return taken - given_back, taken


@njit
def _decide(
    key: NDArray[np.int64],
    now: Present,
    swap: Swap,
    near: NearFields,
    no_field: NDArray[np.int32],
    prices: Prices,
    scale: Scale,
    heading: NDArray[np.int8],
    units: int,
    age: NDArray[np.int32],
    urgency: NDArray[np.int64],
    wanted: NDArray[np.int32],
    order: NDArray[np.int32],
    scores: NDArray[np.int32],
    table: PibtTable,
    actions: NDArray[np.int64],
) -> None:
    copies, agents = order.shape
    for b in range(copies):
        m = now.maps[b]
        position, alive, board = now.position[b], now.alive[b], Board(now.exits[m], now.width)
        table.scores[:] = scores[b]
        for n in range(agents):
            urgency[b, n] = scale.waited * age[b, n] - scale.closer * np.int64(scores[b, n, 0])
        sort_by_urgency(urgency[b], order[b])
        put_agents(position, alive, table)
        add_prices(position, alive, board, prices, m, b, scale, table.here, wanted, table.scores)
        add_turns(heading[b], alive, units, table.scores)
        ways = Ways(swap, now.goal[b], no_field, near, b)
        settle_moves(key[b], position, alive, board, ways, order[b], table, actions[b])
