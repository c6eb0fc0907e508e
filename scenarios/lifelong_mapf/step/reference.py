"""The step and the views in plain torch: the oracle of the compiled forms in tests, and what runs on a GPU.

Free of data-dependent loops: chains of agents that block each other are resolved by pointer doubling, in about log2 N
gathers. Functions mirror those of ``kernels`` and ``observation`` and give the same integers (and float32 figures).
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from marl.seeding import below, fold
from scenarios.lifelong_mapf.observation import partition
from scenarios.lifelong_mapf.state import Goals, State
from scenarios.lifelong_mapf.step.kernels import FINISH, GOALS, PRIORITY, RESTART, SOFT, STEP


def draw_goal(goals: Goals, key: Tensor, map_index: Tensor, cell: Tensor, k: Tensor) -> Tensor:
    """``kernels.draw_goal`` for all agents: key int64 [B], map_index int [B], cell and k int [B, N] -> int64 [B, N]."""
    m, cell = map_index.long().unsqueeze(1), cell.long()
    agents = torch.arange(cell.shape[1], device=cell.device)
    key = fold(fold(fold(key, GOALS).unsqueeze(1), agents), k.long())
    rank = goals.rank[m, cell].long()
    drawn = below(key, goals.count[m, cell] - (rank >= 0).long())
    drawn = drawn + ((rank >= 0) & (drawn >= rank))
    return goals.cells[m, goals.base[m, cell] + drawn].long()


def _wanted(exits: Tensor, width: int, position: Tensor, actions: Tensor) -> Tensor:
    """Where moves lead if nobody else is there, int64 ``[B, N]``; exits: of the cells ``position``, ``[B, N]``."""
    ways = torch.cat(
        [torch.ones_like(position)[..., None], exits[..., None] >> torch.arange(4, device=exits.device)], -1
    )
    free = (ways & 1).gather(-1, actions[..., None])[..., 0] == 1
    # Moves are up, down, left, right; a table of offsets would have to be fetched from the host.
    down = (actions == 2).long() - (actions == 1).long()
    right = (actions == 4).long() - (actions == 3).long()
    return torch.where(free, position + down * width + right, position)


def _occupants(cells: int, position: Tensor, alive: Tensor) -> Tensor:
    """Who stands where: int64 [B, cells + 1], N where nobody does; the last column takes the agents that have left."""
    n = position.shape[1]
    occupant = torch.full((position.shape[0], cells + 1), n, device=position.device)
    agents = torch.arange(n, device=position.device).expand_as(position)
    return occupant.scatter(1, torch.where(alive, position, cells), agents)


def _at(values: Tensor, agent: Tensor, nobody: int) -> Tensor:
    """``values`` [B, N] of the given agents [B, *], ``nobody`` for agent N."""
    padding = torch.full_like(values[:, :1], nobody)
    return torch.cat([values, padding], 1).gather(1, agent)


def resolve(collision: int, cells: int, position: Tensor, wanted: Tensor, alive: Tensor) -> Tensor:
    """Where the agents go: position, wanted int64 [B, N] (the own cell if nothing else is wanted) -> int64 [B, N]."""
    n = position.shape[1]
    agents = torch.arange(n, device=position.device).expand_as(position)
    occupant = _occupants(cells, position, alive)
    ahead = occupant.gather(1, wanted)
    moving = alive & (wanted != position)
    if collision == SOFT:
        moving = moving & (_at(wanted, ahead, -1) != position)
    elif collision == PRIORITY:
        moving = moving & ((ahead == n) | (agents > ahead))
    else:
        ones = moving.long()
        wishes = torch.zeros_like(occupant).scatter_add(1, wanted, ones).gather(1, wanted)
        moving = moving & (ahead == n) & (wishes == 1)
    claimed = torch.where(moving, wanted, cells)
    winner = torch.full_like(occupant, n).scatter_reduce(1, claimed, agents, "amin")
    moving = moving & (winner.gather(1, wanted) == agents)
    # An agent stays if anybody ahead of it in its chain does. Those who stay anyway, and nobody (agent N), end a chain.
    stays = torch.cat([~moving, torch.zeros_like(moving[:, :1])], 1)
    following = torch.cat([torch.where(moving, ahead, agents), torch.full_like(agents[:, :1], n)], 1)
    for _ in range(n.bit_length() + 1):
        stays = stays | stays.gather(1, following)
        following = following.gather(1, following)
    return torch.where(stays[:, :n], position, wanted)


def _count_collisions(cells: int, position: Tensor, target: Tensor, alive: Tensor, ahead: Tensor) -> Tensor:
    """Agents more than one on a cell after the move, and pairs that exchanged places: [B]."""
    n = position.shape[1]
    arrivals = torch.zeros(position.shape[0], cells + 1, dtype=torch.int64, device=position.device)
    arrivals.scatter_add_(1, torch.where(alive, target, cells), torch.ones_like(target))
    shared = (arrivals[:, :cells] - 1).clamp(min=0).sum(1)
    agents = torch.arange(n, device=position.device)
    exchanged = alive & (ahead < n) & (ahead > agents) & (_at(target, ahead, -1) == position)
    return shared + exchanged.sum(1)


def step(
    state: State, goals: Goals, exits: Tensor, width: int, collision: int, on_target: int, actions: Tensor
) -> Tensor:
    """``kernels.step``: changes ``state`` in place and returns the reward, float32 [B, N]. Actions must be 0 to 4."""
    cells = exits.shape[1]
    n = actions.shape[1]
    m = state.map_index.long().unsqueeze(1)
    alive, position = state.alive.clone(), state.position.long()
    wanted = _wanted(exits[m, position], width, position, torch.where(alive, actions, 0))
    target = resolve(collision, cells, position, wanted, alive)

    ahead = _occupants(cells, position, alive).gather(1, target)
    agents = torch.arange(n, device=m.device)
    state.collisions.add_(_count_collisions(cells, position, target, alive, ahead))
    state.refused.copy_(target != wanted)
    state.refusals.add_(state.refused.sum(1))
    left = _at((target != position).long(), ahead, 0) == 1
    state.hidden.copy_(alive & (ahead > agents) & left if collision == SOFT else torch.zeros_like(left))

    state.steps.add_(1)
    state.position.copy_(target)
    state.age.add_(alive)
    on_goal = alive & (target == state.goal)
    goals_done = state.goals_done + 1
    task_count = goals.task_count[m.squeeze(1)]
    paid = on_goal if on_target == RESTART else on_goal & (goals_done <= task_count.clamp(min=1))
    given = paid & (goals_done < task_count)
    state.goals_done.add_(paid)
    histogram = torch.zeros_like(state.latency, dtype=torch.int64)
    age = torch.where(paid, state.age, 0).long().clamp(max=histogram.shape[1] - 1)
    state.latency.add_(histogram.scatter_add_(1, age, paid.long()))
    if on_target != RESTART:
        state.last_off.copy_(torch.where(alive & (~on_goal | given), state.steps.unsqueeze(1), state.last_off))
    if goals.task.shape[2]:
        k = goals_done.clamp(max=goals.task.shape[2] - 1).long()
        state.goal.copy_(torch.where(given, goals.task[m, agents, k], state.goal))
    if on_target == RESTART:
        drawn = draw_goal(goals, state.key, state.map_index, target, goals_done)
        state.goal.copy_(torch.where(paid & ~given, drawn, state.goal))
    elif on_target == FINISH:
        state.alive.logical_and_(~(paid & ~given))
    state.age.mul_(~on_goal)
    return paid.float()


def step_keys(state: State) -> Tensor:
    """The key of each copy's present moment, a function of (seed, episode, step): int64 [B]."""
    return fold(fold(state.key, STEP), state.steps.long())


def observe(
    state: State, height: int, width: int, radius: int, fault: bool, obstacle_rows: Tensor
) -> tuple[Tensor, Tensor]:
    """``observation.observe`` for all copies: window int16 [B, N, 2, D] and goal float32 [B, N, 3]."""
    copies = state.position.shape[0]
    side = 2 * radius + 1
    row, column = state.position.long() // width, state.position.long() % width
    visible = state.alive & ~state.hidden if fault else state.alive
    padded = torch.zeros(copies, (height + 2 * radius) * (width + 2 * radius), dtype=torch.int16, device=row.device)
    padded.scatter_reduce_(1, (row + radius) * (width + 2 * radius) + column + radius, visible.short(), "amax")
    padded = padded.view(copies, height + 2 * radius, width + 2 * radius)
    agent_rows = torch.zeros_like(padded[:, :, :width])
    for j in range(side):
        agent_rows += padded[:, :, j : j + width] << j
    rows = row.unsqueeze(-1) + torch.arange(side, device=row.device)
    columns = column.unsqueeze(-1)
    walls = obstacle_rows[state.map_index.long()[:, None, None], columns, rows]
    agents = agent_rows[torch.arange(copies, device=row.device)[:, None, None], rows, columns]
    down = (state.goal // width - row).float()
    right = (state.goal % width - column).float()
    distance = down.abs() + right.abs()
    goal = torch.stack(
        [down / (down.abs() + radius), right / (right.abs() + radius), distance / (distance + 4 * radius)], -1
    )
    return torch.stack([walls, agents], 2), goal


def _blocks(plane: Tensor, radius: int) -> Tensor:
    """uint8 [B, N, D, D] -> float32 [B, N, 9]: the share of set cells in the blocks of the 3x3 partition."""
    edges = partition(radius)
    shares = []
    for top, bottom in itertools.pairwise(edges):
        for left, right in itertools.pairwise(edges):
            inverse = np.float32(1) / np.float32((bottom - top) * (right - left))
            count = plane[..., top:bottom, left:right].sum((-1, -2), dtype=torch.int64)
            shares.append(count.float() * float(inverse))
    return torch.stack(shares, -1)


def central_state(
    state: State,
    width: int,
    radius: int,
    horizon: int,
    reach: int,
    exits: Tensor,
    free_cells: Tensor,
    window: Tensor,
    goal: Tensor,
) -> Tensor:
    """``observation.central_state`` for all copies: float32 [B, N, N_STATE]."""
    n = state.position.shape[1]
    m = state.map_index.long()
    planes = (window.unsqueeze(-1) >> torch.arange(2 * radius + 1, device=m.device)) & 1
    ways = exits[m.unsqueeze(1), state.position.long()].unsqueeze(-1) >> torch.arange(4, device=m.device)
    agents = planes[:, :, 1]
    beside = [(radius - 1, radius), (radius + 1, radius), (radius, radius - 1), (radius, radius + 1)]
    occupied = torch.stack([agents[:, :, row, column] for row, column in beside], -1)

    down = (state.goal // width - state.position // width).abs()
    right = (state.goal % width - state.position % width).abs()
    total = torch.where(state.alive, down + right, 0).sum(1).float()
    left = state.alive.sum(1)
    mean = total / left.clamp(min=1).float()
    paths = state.goals_done.sum(1).float() * float(reach) / (n * state.steps.long()).clamp(min=1).float()
    copy = [
        left.float() / free_cells[m].float(),
        mean / (mean + reach),
        state.refused.sum(1).float() / n,
        state.steps.float() / horizon,
        left.float() / n,
        paths / (1 + paths),
    ]
    age = state.age.float()
    return torch.cat(
        [
            goal,
            (age / (age + reach)).unsqueeze(-1),
            state.refused.float().unsqueeze(-1),
            (ways & 1).float(),
            occupied.float(),
            _blocks(agents, radius),
            _blocks(planes[:, :, 0], radius),
            torch.stack(copy, -1).unsqueeze(1).expand(-1, n, -1),
        ],
        -1,
    )
