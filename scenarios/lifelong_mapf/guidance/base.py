"""What a planner tells the agents of a grid world: the part that both forms of guidance share.

A ``Guidance`` keeps one plan per agent and shows it as two features, both made of what the plan says around the agent:

- ``path``: int16 ``[B, N, 1, D]``, a ``BitWindow`` of side D = 2 * radius + 1 around the agent with the cells of its
  planned path, its own cell included, until the path leaves the window for the first time;
- ``moves``: float32 ``[B, N, 5]``, what each move (stay, up, down, left, right) does to the cost to go, as a multiple
  of what the best neighbour saves: -1 the best move, 0 staying, up to +1 for worse ones, +1 for blocked ones.

The sub-goal of an agent is the next cell of its path (Follower's K = 1; on its goal, that cell). ``reached`` says who
stands on the sub-goal that was set one step before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from marl.compiled import njit
from marl.envs.spaces import BitWindow
from marl.errors import UserError
from scenarios.lifelong_mapf.guidance.vectors import Weights, read_vector
from scenarios.lifelong_mapf.maps.fields import MOVES, Board, neighbour

#: No sub-goal, no goal known yet.
NONE = -1

#: The vector of whoever has not chosen one.
_DEFAULT = "default"


class GuidanceNumbers(BaseModel):
    """The numbers of the shared guidance (``guidance.prices``); those left out come from a vector."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    static_weight: float | None = Field(None, ge=0, le=10, description="price of central cells, 0 for none")
    occupancy_weight: float | None = Field(None, ge=0, le=50, description="price of a cell that is always occupied")
    waiting_weight: float | None = Field(None, ge=0, le=50, description="price of a cell where agents always wait")
    decay: float | None = Field(None, ge=0, lt=1, description="decay per step of the averages of occupancy and waiting")
    opposing_weight: float | None = Field(
        None, ge=0, le=50, description="price of a move that is always made in reverse"
    )
    flow_decay: float | None = Field(None, ge=0, lt=1, description="decay per step of the average of moves")
    lanes_weight: float | None = Field(None, ge=0, le=20, description="price against the lane on open ground")
    corridor_rows_weight: float | None = Field(None, ge=0, le=20, description="the same in corridors along rows")
    corridor_columns_weight: float | None = Field(None, ge=0, le=20, description="the same in corridors along columns")
    stay_weight: float | None = Field(None, ge=0, le=20, description="PIBT: price of staying, beyond that of the cell")
    contest_weight: float | None = Field(
        None, ge=0, le=20, description="PIBT: price of a cell for each other agent that wants it"
    )
    head_on_weight: float | None = Field(
        None, ge=0, le=20, description="PIBT: price of a cell whose occupant wants that of the agent"
    )
    closer_first: float | None = Field(
        None, ge=0, le=20, description="PIBT: steps of waiting that weigh as much as being one step nearer to the goal"
    )
    crowd: float | None = Field(
        None,
        ge=0,
        le=1,
        description="agents per free cell from which on central cells and lanes cost in full, below in proportion; "
        "0: always in full",
    )


class GuidanceConfig(GuidanceNumbers):
    """How agents are guided: on ``shared`` costs (default, fast) or as the ``follower`` of the paper."""

    kind: Literal["shared", "follower"] = Field(
        "shared", description="shared: one field per goal on costs that all agents share; follower: A* at every step"
    )
    contest: bool = Field(True, description="tell neighbours who wants the cells around them, and who goes first")
    recent: bool = Field(
        False,
        description="tell agents where they saw others one step ago, what became of their own last move, and who "
        "in their sight has a lower number",
    )
    egocentric: bool = Field(
        False,
        description="show agents what is around them turned so that their path leads up: for actors with "
        "inputs=[ahead, own], relabel=turned, as without relabel their moves would not match the picture",
    )
    fellows: float = Field(
        0.0, ge=0, le=1, description="follower: part of the sub-goal reward that is the mean of all within 2 cells"
    )
    forget: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="follower: share of what it saw of others that an agent forgets in a step (1 less a decay)",
    )
    lane: float = Field(
        0.0,
        ge=0,
        le=100,
        description="follower: price against the lane in corridors, times the agents per free cell that an agent has "
        "seen when it is given its goal; a step costs at most 8 (shared: corridor_rows_weight and crowd)",
    )
    open_lane: float = Field(0.0, ge=0, le=100, description="follower: the same on open ground (shared: lanes_weight)")
    choices: bool = Field(False, description="shared: tell a scorer of moves what is known of each of them")
    vector: str = Field(
        _DEFAULT, description="shared: the numbers that are not set themselves; a shipped vector or a file of one"
    )

    @model_validator(mode="after")
    def _check_kind(self) -> GuidanceConfig:
        for name in ("fellows", "forget", "lane", "open_lane"):
            if self.kind != "follower" and getattr(self, name):
                raise UserError(f"guidance.{name} is for guidance.kind=follower: set that, or leave it out")
        return self

    @model_validator(mode="after")
    def _check_vector(self) -> GuidanceConfig:
        values = read_vector(self.vector)
        try:
            GuidanceNumbers.model_validate(values)
        except ValidationError as error:
            worst = error.errors()[0]
            name = ".".join(map(str, worst["loc"]))
            reason = worst["msg"][0].lower() + worst["msg"][1:]
            raise UserError(f"'{name}' of guidance '{self.vector}' is {worst['input']!r}: {reason}") from None
        return self

    def shown_as(self, other: GuidanceConfig) -> GuidanceConfig:
        """The guidance ``other``, on the numbers of this one where they have been chosen."""
        chosen = {name: value for name in Weights._fields if (value := getattr(self, name)) is not None}
        if self.vector != _DEFAULT:
            unset = dict.fromkeys(Weights._fields)
            return other.model_copy(update={**unset, **chosen, "vector": self.vector})
        return other.model_copy(update=chosen)

    def weights(self) -> Weights:
        """The numbers: those set here, then those of the vector, then 0."""
        chosen = {name: getattr(self, name) for name in Weights._fields}
        return Weights(**read_vector(self.vector) | {name: x for name, x in chosen.items() if x is not None})


class GridWorld(Protocol):
    """What guidance and the rules read of a world of B copies, N agents, M maps of ``height`` x ``width``.

    blocked: uint8 ``[M, cells]``; map_index: integer ``[B]``; position, goal: integer ``[B, N]``, flat cells;
    alive: bool ``[B, N]``.
    """

    copies: int
    height: int
    width: int
    device: torch.device
    blocked: NDArray[np.uint8]
    map_index: Tensor
    position: Tensor
    goal: Tensor
    alive: Tensor


class Present(NamedTuple):
    """The arrays of a ``GridWorld`` at this moment, as kernels read them; exits: ``open_moves`` of the M maps."""

    maps: NDArray[np.int32]
    position: NDArray[np.int32]
    goal: NDArray[np.int32]
    alive: NDArray[np.bool_]
    exits: NDArray[np.uint8]
    width: int


def present(world: GridWorld, exits: NDArray[np.uint8]) -> Present:
    """What kernels read of ``world`` now; on the CPU without copying."""
    return Present(
        world.map_index.cpu().numpy(),
        world.position.cpu().numpy(),
        world.goal.cpu().numpy(),
        world.alive.cpu().numpy(),
        exits,
        world.width,
    )


class Guidance(ABC):
    """One plan per agent of ``world``, with features in windows of ``radius`` cells.

    Call ``restart`` after copies began a new episode, ``advance`` once after each step of the world (when it has new
    positions and goals, before finished copies restart), then read ``features`` and ``reached``. Plans are computed on
    the CPU; a world on another device pays for the transfer of positions and features.
    """

    def __init__(self, world: GridWorld, radius: int):
        self.world = world
        self.radius = radius
        side = 2 * radius + 1
        self.spaces: dict[str, spaces.Space[Any]] = {
            "path": BitWindow(1, side, side),
            "moves": spaces.Box(-1.0, 1.0, (len(MOVES),), np.float32),
        }
        copies, agents = world.position.shape
        self._subgoal = np.full((copies, agents), NONE, np.int32)
        self._path = np.zeros((copies, agents, 1, side), np.int16)
        self._moves = np.zeros((copies, agents, len(MOVES)), np.float32)
        self._reached = np.zeros((copies, agents), np.bool_)

    def restart(self, mask: Tensor) -> None:
        """Forget what was seen in the copies of ``mask`` (bool ``[B]``) and plan anew; leaves ``reached`` as it was."""
        restarted = mask.cpu().numpy()
        if restarted.all():
            self._path, self._moves = np.empty_like(self._path), np.empty_like(self._moves)
        else:
            self._path, self._moves = self._path.copy(), self._moves.copy()
        self._restart(restarted)

    def advance(self) -> None:
        """Take in the step that all copies just made."""
        self._reached = self.world.position.cpu().numpy() == self._subgoal
        self._path, self._moves = np.empty_like(self._path), np.empty_like(self._moves)
        self._advance()

    def features(self) -> dict[str, Tensor]:
        """``path`` and ``moves`` at the present moment; zeros for agents that are not alive. Never changed later."""
        return {name: torch.from_numpy(array).to(self.world.device) for name, array in self.arrays().items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What ``features`` shows, on the CPU."""
        return {"path": self._path, "moves": self._moves}

    @property
    def reached(self) -> Tensor:
        """bool ``[B, N]``: in the step just made the agent came to stand on the sub-goal set before it.

        float32 where agents share what reaching one earns.
        """
        return torch.from_numpy(self._reached).to(self.world.device)

    @property
    def subgoal(self) -> NDArray[np.int32]:
        """int32 ``[B, N]``: the next cell of each path, ``NONE`` for agents that are not alive. Read only."""
        return self._subgoal

    def snapshot(self) -> dict[str, Tensor]:
        """The state of all copies, tensors with leading dimension B that later steps do not change."""
        return {name: torch.from_numpy(array.copy()) for name, array in self._state().items()}

    def restore(self, snapshot: dict[str, Tensor], source: Tensor | None = None, target: Tensor | None = None) -> None:
        """Put copies ``source`` (int64 ``[K]``) of the snapshot into copies ``target``; None: all."""
        into = np.arange(self.world.copies) if target is None else target.cpu().numpy()
        self._path, self._moves, self._reached = self._path.copy(), self._moves.copy(), self._reached.copy()
        for name, array in self._state().items():
            if name not in snapshot:
                raise UserError(
                    "this run was begun by a marl whose guidance kept other things in mind: start a new one from its "
                    "weights with --init"
                )
            saved = snapshot[name] if source is None else snapshot[name][source.cpu()]
            array[into] = saved.cpu().numpy()

    def _state(self) -> dict[str, NDArray[Any]]:
        """Every array of the state by name; subclasses add their own."""
        return {
            "subgoal": self._subgoal,
            "path": self._path,
            "moves": self._moves,
            "reached": self._reached,
        }

    @abstractmethod
    def _restart(self, restarted: NDArray[np.bool_]) -> None:
        """Forget and plan anew in the restarted copies: write their features and sub-goals."""

    @abstractmethod
    def _advance(self) -> None:
        """Take in the present positions and goals of all copies: write features and sub-goals."""


def agent_fields(world: GridWorld) -> NDArray[np.int32]:
    """Zeros ``[B, N, cells]``; ``UserError`` if the memory does not suffice."""
    shape = (*world.position.shape, world.height * world.width)
    try:
        return np.zeros(shape, np.int32)
    except MemoryError:
        copies, agents, cells = shape
        needed = 4 * copies * agents * cells / 2**30
        raise UserError(
            f"distance fields of {copies} copies x {agents} agents x {cells} cells need {needed:.0f} GiB: "
            "use fewer copies or agents"
        ) from None


@njit
def move_between(cell: int, target: int, width: int) -> int:
    """The move (0 to 4) from ``cell`` to ``target``, the same cell or a neighbour."""
    if target == cell:
        return 0
    # Vertical first: in a grid of width 1 there are no columns to go to.
    if target == cell - width:
        return 1
    if target == cell + width:
        return 2
    return 3 if target < cell else 4


@njit(inline="always")
def best_neighbour(board: Board, field: NDArray[np.int32], cell: int) -> int:
    """The neighbour with the smallest value, the first of them in the order of moves; ``cell`` if none is smaller."""
    best, value = cell, field[cell]
    for move in range(1, 5):
        target = neighbour(board, cell, move)
        # Two selections and no jump: the outcome cannot be predicted.
        smaller = field[target] < value
        best = target if smaller else best
        value = field[target] if smaller else value
    return best


@njit
def write_moves(board: Board, field: NDArray[np.int32], cell: int, best: int, moves: NDArray[np.float32]) -> None:
    """The feature ``moves`` ``[5]`` of an agent on ``cell`` with the ``best_neighbour`` ``best``.

    On the goal nothing can be saved, and every move but staying costs the full unit.
    """
    here = field[cell]
    unit = np.float32(max(here - field[best], 1))
    moves[0] = 0.0
    for move in range(1, 5):
        target = neighbour(board, cell, move)
        change = np.float32(field[target] - here) / unit
        moves[move] = np.float32(1.0) if target == cell else min(change, np.float32(1.0))
