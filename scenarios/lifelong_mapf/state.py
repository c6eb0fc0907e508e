"""The state of a batch of grids, and where its goals come from."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Largest number of agents: agents are numbered in int16.
MAX_AGENTS = 32767


class State(NamedTuple):
    """The complete state of B copies: torch tensors, or numpy arrays that share their memory.

    Cells are flat: row * width + column. All counts start anew with each episode, except ``episode`` itself.
    """

    seed: Any  # int64 [B]
    episode: Any  # int64 [B], episodes finished since the copy was seeded
    key: Any  # int64 [B], of (seed, episode): all randomness of the episode derives from it
    steps: Any  # int32 [B], steps made
    map_index: Any  # int32 [B], into the pool
    position: Any  # int32 [B, N]
    goal: Any  # int32 [B, N]
    goals_done: Any  # int32 [B, N], goals reached, and so the number k of the present goal
    age: Any  # int32 [B, N], steps since the present goal was given, or since the agent last stood on its last one
    alive: Any  # bool [B, N]
    refused: Any  # bool [B, N], the last move led to a free cell and was not made because of other agents
    hidden: Any  # bool [B, N], missing from the agents plane (POGEMA's observation fault)
    last_off: Any  # int32 [B, N], one-shot: the last step after which the agent was not on its last goal
    refusals: Any  # int32 [B], refused moves
    collisions: Any  # int32 [B], shared cells and exchanged places, counted from the positions
    latency: Any  # int32 [B, horizon + 1], how many goals took so many steps


class Goals(NamedTuple):
    """Where goals come from; torch tensors or numpy arrays.

    cells int32 [M, G]: the goal cells of each of M maps, those of one component together. By cell, int32 [M, H * W]:
    ``base`` and ``count``, the stretch of its component in ``cells``; ``rank``, its own place there, -1 if no goal.
    task int32 [M, N, K], task_count int32 [M, N]: each agent's given goals, handed out before random ones.
    """

    cells: Any
    base: Any
    count: Any
    rank: Any
    task: Any
    task_count: Any


def allocate(copies: int, agents: int, horizon: int, device: torch.device) -> State:
    """The state of ``copies`` of ``agents`` before their first episodes: zeros."""

    def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(copies, *shape, dtype=dtype, device=device)

    return State(
        seed=zeros(dtype=torch.int64),
        episode=zeros(dtype=torch.int64),
        key=zeros(dtype=torch.int64),
        steps=zeros(),
        map_index=zeros(),
        position=zeros(agents),
        goal=zeros(agents),
        goals_done=zeros(agents),
        age=zeros(agents),
        alive=zeros(agents, dtype=torch.bool),
        refused=zeros(agents, dtype=torch.bool),
        hidden=zeros(agents, dtype=torch.bool),
        last_off=zeros(agents),
        refusals=zeros(),
        collisions=zeros(),
        latency=zeros(horizon + 1),
    )
