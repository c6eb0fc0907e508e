"""Rules to measure a learned policy against. None of them learns; all see the world's state and never future goals."""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from marl.compiled import njit
from marl.envs.batched import BatchedEnv, TimeStep
from marl.errors import UserError
from marl.policies.base import Baseline, BoundPolicy, TunableBaseline
from marl.seeding import Stream, below, fold
from scenarios.lifelong_mapf.chains.policy import Chains, ChainsConfig
from scenarios.lifelong_mapf.guidance.base import GridWorld, GuidanceConfig, move_between
from scenarios.lifelong_mapf.guidance.choose import make_guidance
from scenarios.lifelong_mapf.guidance.shared import GoalFields
from scenarios.lifelong_mapf.maps.fields import MOVES
from scenarios.lifelong_mapf.maps.headings import N_TURNING_ACTIONS, actions_towards
from scenarios.lifelong_mapf.pibt.near_rule import NearPibt
from scenarios.lifelong_mapf.pibt.rule import Pibt
from scenarios.lifelong_mapf.pibt.swap import Swap
from scenarios.lifelong_mapf.search.guided_search import GuidedSearchConfig, guided_search
from scenarios.lifelong_mapf.search.windowed import Windowed, WindowedConfig

#: Larger maps are planned for around the agents' ways only.
NEAR_CELLS = 1 << 14


class _Config(Protocol):
    guidance: GuidanceConfig
    on_target: str


class LifelongWorld(GridWorld, Protocol):
    """What the rules read beyond ``GridWorld``.

    steps: integer ``[B]``, steps made in the present episode. turning: robots have to turn before they drive. heading:
    int8 ``[B, N]``, theirs.
    """

    config: _Config
    steps: Tensor
    turning: bool
    heading: Tensor


class PibtConfig(BaseModel):
    """Options of ``pibt`` and ``guided_pibt``: ``--policies pibt:swap=false``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    swap: bool = Field(True, description="agents that block each other in a corridor swap places where there is room")


class Random:
    """Every move with the same probability, by counter from the step's key."""

    def __init__(self, world: LifelongWorld):
        self._agents = torch.arange(world.position.shape[1], device=world.device)
        self._actions = N_TURNING_ACTIONS if world.turning else len(MOVES)

    def act(self, timestep: TimeStep) -> Tensor:
        key = fold(timestep.key, Stream.POLICY)
        return below(fold(key.unsqueeze(1), self._agents), self._actions)


class FollowPath:
    """Each agent takes the first move of its guided path, whatever the others do: guidance alone, as configured."""

    def __init__(self, world: LifelongWorld):
        self._world = world
        self._guidance = make_guidance(world, world.config.guidance, radius=1)

    def act(self, timestep: TimeStep) -> Tensor:
        world = self._world
        fresh = world.steps == 0
        if not fresh.all():
            self._guidance.advance()
        if fresh.any():
            self._guidance.restart(fresh)
        actions = np.zeros(world.position.shape, np.int64)
        _first_moves(
            world.position.cpu().numpy(), world.alive.cpu().numpy(), self._guidance.subgoal, world.width, actions
        )
        return _carried_out(world, torch.from_numpy(actions).to(world.device))


def _carried_out(world: LifelongWorld, moves: Tensor) -> Tensor:
    """The actions by which agents make ``moves``: these themselves, unless robots have to turn first."""
    return actions_towards(world.heading, moves) if world.turning else moves


@njit
def _first_moves(
    position: NDArray[np.int32],
    alive: NDArray[np.bool_],
    subgoal: NDArray[np.int32],
    width: int,
    actions: NDArray[np.int64],
) -> None:
    for b in range(position.shape[0]):
        for n in range(position.shape[1]):
            if alive[b, n]:
                actions[b, n] = move_between(position[b, n], subgoal[b, n], width)


class FieldPibt:
    """PIBT on the fields that ``guidance`` asks for (its weights; ``kind`` does not matter).

    near: know fields around the agents' ways only; default: on maps of more than ``NEAR_CELLS`` cells. swap: play the
    swap rule.
    """

    def __init__(self, world: LifelongWorld, guidance: GuidanceConfig, near: bool | None = None, swap: bool = True):
        self._world = world
        how = Swap(swap, world.config.on_target == "nothing")
        heading = world.heading if world.turning else None
        self._parts: tuple[NearPibt] | tuple[GoalFields, Pibt]
        if world.height * world.width > NEAR_CELLS if near is None else near:
            self._parts = (NearPibt(world, guidance, swap=how, heading=heading),)
        else:
            fields = GoalFields(world, guidance)
            self._parts = (fields, Pibt(world, fields, how, heading))

    def act(self, timestep: TimeStep) -> Tensor:
        fresh = self._world.steps == 0
        if not fresh.all():
            self._parts[0].advance()
        if fresh.any():
            restarted = fresh.cpu().numpy()
            for part in self._parts:
                part.restart(restarted)
        return _carried_out(self._world, self._parts[-1].act(timestep.key))


_PLAIN = GuidanceConfig(vector="plain")


def _world(env: BatchedEnv) -> LifelongWorld:
    return cast(LifelongWorld, env)


def random(env: BatchedEnv) -> BoundPolicy:
    """Uniformly random moves."""
    return Random(_world(env))


def follow_path(env: BatchedEnv) -> BoundPolicy:
    """The guided path without any learning."""
    return FollowPath(_world(env))


def pibt(env: BatchedEnv, options: PibtConfig) -> BoundPolicy:
    """PIBT on plain distances."""
    return FieldPibt(_world(env), _PLAIN, swap=options.swap)


def guided_pibt(env: BatchedEnv, options: PibtConfig) -> BoundPolicy:
    """PIBT on the guided distances of the world's configuration."""
    world = _world(env)
    return FieldPibt(world, world.config.guidance, swap=options.swap)


def windowed(env: BatchedEnv, options: WindowedConfig) -> BoundPolicy:
    """Anytime search over a rolling window."""
    return Windowed(_without_headings(env, "windowed"), options)


def searching(env: BatchedEnv, options: GuidedSearchConfig) -> BoundPolicy:
    """The same with learned guidance and a learned choice of what to plan anew."""
    return guided_search(_without_headings(env, "guided_search"), options)


def _without_headings(env: BatchedEnv, policy: str) -> LifelongWorld:
    """The world; ``UserError`` if its robots turn, which the policy's plans do not know of."""
    world = _world(env)
    if world.turning:
        raise UserError(
            f"policy '{policy}' plans for robots that do not turn: use pibt, guided_pibt or chains, or motion=moves"
        )
    return world


def chains(env: BatchedEnv, options: ChainsConfig) -> BoundPolicy:
    """Push chains over multi-step operations, and a search over them: for crowds."""
    return Chains(_world(env), options)


BASELINES: dict[str, Baseline] = {
    "random": random,
    "follow_path": follow_path,
    "pibt": TunableBaseline(PibtConfig, pibt),
    "guided_pibt": TunableBaseline(PibtConfig, guided_pibt),
    "windowed": TunableBaseline(WindowedConfig, windowed),
    "guided_search": TunableBaseline(GuidedSearchConfig, searching),
    "chains": TunableBaseline(ChainsConfig, chains),
}
