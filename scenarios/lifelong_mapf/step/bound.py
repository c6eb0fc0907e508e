"""The collision-free bound: what the agents would reach if each walked alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.compiled import njit
from scenarios.lifelong_mapf.maps.fields import Board, step_field
from scenarios.lifelong_mapf.state import Goals
from scenarios.lifelong_mapf.step.kernels import draw_goal


@njit
def _reached_alone(
    goals: Goals,
    key: Any,
    map_index: Any,
    starts: Any,
    exits: Any,
    width: int,
    steps: Any,
    field: Any,
    queue: Any,
    out: Any,
) -> None:
    for b in range(starts.shape[0]):
        m = map_index[b]
        out[b] = 0
        for i in range(starts.shape[1]):
            cell = starts[b, i]
            time = k = 0
            while True:
                if k < goals.task_count[m, i]:
                    goal = goals.task[m, i, k]
                else:
                    goal = draw_goal(goals, key[b], m, cell, i, k)
                step_field(Board(exits[m], width), goal, field, queue)
                # A goal on the present cell takes a step of its own.
                time += max(field[cell], 1)
                if time > steps[b]:
                    break
                out[b] += 1
                cell = goal
                k += 1


def collision_free_goals(
    goals: Goals, key: Tensor, map_index: Tensor, starts: Tensor, exits: Tensor, width: int, steps: Tensor
) -> Tensor:
    """Goals that the agents of each episode reach within ``steps`` [K], each walking shortest paths alone: int64 [K].

    No joint plan reaches more. key int64 [K], map_index int32 [K], starts int32 [K, N], exits uint8 [M, H * W]; tensors
    on the CPU, as ``goals``. Takes one breadth-first search per goal.
    """
    reached = torch.empty(starts.shape[0], dtype=torch.int64)
    _reached_alone(
        Goals(*(table.numpy() for table in goals)),
        key.numpy(),
        map_index.numpy(),
        starts.numpy(),
        exits.numpy(),
        width,
        steps.numpy(),
        np.empty(exits.shape[1], np.int32),
        np.empty(exits.shape[1], np.int32),
        reached.numpy(),
    )
    return reached
