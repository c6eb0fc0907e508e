"""The figures of an episode."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.envs.batched import Metric
from scenarios.lifelong_mapf.state import State

_ALWAYS = {
    "collisions": Metric(
        "collisions", "lower", "shared cells and exchanged places among the moves made; the rules allow none"
    ),
    "refused_share": Metric("share of moves", "lower", "agent-steps whose move was refused because of other agents"),
}

LIFELONG = {
    "throughput": Metric("goals per step", "higher", "goals reached by all agents together, per step"),
    "latency_p50_steps": Metric("steps", "lower", "median of the steps from being given a goal to reaching it"),
    "latency_p95_steps": Metric("steps", "lower", "95th percentile of the same"),
    "oldest_goal_steps": Metric("steps", "lower", "age of the oldest goal that is under way at the end"),
    **_ALWAYS,
}

ERRANDS = {
    "throughput": Metric("errands per step", "higher", "errands finished by all agents together, per step"),
    "stops_per_step": Metric(
        "stops per step", "higher", "stops of errands visited in turn; latencies are those of stops"
    ),
}

BOUND_SHARE = {
    "bound_share": Metric("share", "higher", "throughput over that of agents which walk shortest paths unhindered")
}

ONE_SHOT = {
    "success": Metric("share of episodes", "higher", "all agents at their last goals, together"),
    "arrived_share": Metric("share of agents", "higher", "agents at their last goals at the end"),
    "makespan": Metric("steps", "lower", "steps until the last agent had arrived for good, the horizon if one had not"),
    "sum_of_costs": Metric("steps", "lower", "steps until each agent had arrived for good, summed over agents"),
    **_ALWAYS,
}


def _latency(latency: Tensor, percent: int) -> Tensor:
    """Nearest-rank percentile of the histograms [B, horizon + 1], float32 [B]; the horizon where no goal was reached.

    Goals still under way at the end are not counted, so short episodes look better than they are.
    """
    reached = latency.cumsum(1)
    rank = ((reached[:, -1] * percent + 99) // 100).clamp(min=1)
    steps = (reached < rank.unsqueeze(1)).sum(1)
    return steps.clamp(max=latency.shape[1] - 1).float()


def _always(state: State) -> dict[str, Tensor]:
    moves = state.steps.long() * state.position.shape[1]
    return {"collisions": state.collisions.float(), "refused_share": state.refusals / moves}


def lifelong(state: State) -> dict[str, Tensor]:
    """The figures ``LIFELONG`` of the present episodes, float32 [B] each; at least one step must have been made."""
    return {
        "throughput": state.goals_done.sum(1) / state.steps,
        "latency_p50_steps": _latency(state.latency, 50),
        "latency_p95_steps": _latency(state.latency, 95),
        "oldest_goal_steps": state.age.amax(1).float(),
        **_always(state),
    }


def errands(state: State, done: Tensor) -> dict[str, Tensor]:
    """The figures ``ERRANDS`` of the present episodes, float32 [B] each. done: int64 [B], errands finished."""
    return {"throughput": done / state.steps, "stops_per_step": state.goals_done.sum(1) / state.steps}


def one_shot(state: State) -> dict[str, Tensor]:
    """The figures ``ONE_SHOT`` of the present episodes, float32 [B] each.

    An agent's cost is the number of steps after which it was on its last goal for good (or left the board there), the
    length of the episode if it was not.
    """
    steps = state.steps.unsqueeze(1)
    arrived = state.last_off < steps
    cost = torch.where(arrived, state.last_off + 1, steps)
    return {
        "success": arrived.all(1).float(),
        "arrived_share": arrived.float().mean(1),
        "makespan": cost.amax(1).float(),
        "sum_of_costs": cost.sum(1).float(),
        **_always(state),
    }
