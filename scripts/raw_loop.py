#!/usr/bin/env python3
"""The plainest MAPPO loop on lifelong MAPF, a yardstick for what the platform's own loop costs; prints one JSON object.

    .venv/bin/python scripts/raw_loop.py [--copies 128] [--agents 32] ...

The same world, guidance, observation, 64-wide networks, batch and one epoch as scripts/bench_mappo, in plain torch: the
window unpacked to floats, actor and critic as ``nn.Sequential``, global random numbers, no masks, no recurrence, no
bookkeeping, no checkpoints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import torch
from torch import Tensor, nn

from marl.training.process import prepare_process
from scenarios.lifelong_mapf import LifelongMapf, MapfConfig
from scenarios.lifelong_mapf.generators import RandomMap

BITS = torch.arange(11, dtype=torch.int16)


def floats(observation: dict[str, Tensor], features: dict[str, Tensor]) -> Tensor:
    """All that one agent sees as float32 ``[B * N, F]``."""
    planes = torch.cat((observation["window"], features["path"]), dim=2)
    window = ((planes.unsqueeze(-1) >> BITS) & 1).flatten(2).float()
    parts = [window, observation["goal"], features["moves"], features["contest"]]
    return torch.cat(parts, dim=2).flatten(0, 1)


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=128)
    parser.add_argument("--agents", type=int, default=32)
    parser.add_argument("--size", type=int, default=20)
    parser.add_argument("--rollout", type=int, default=32)
    parser.add_argument("--minibatches", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=16)
    arguments = parser.parse_args()
    prepare_process()
    torch.manual_seed(0)
    world = LifelongMapf(
        MapfConfig(generator=RandomMap(size=arguments.size), agents=arguments.agents), arguments.copies
    )
    world.enable_plan()
    step = world.reset(0)
    see = floats(step.observation, world.plan().features)  # type: ignore[arg-type]
    actor, critic = mlp(see.shape[1], 5), mlp(step.state.shape[2], 1)  # type: ignore[union-attr]
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=5e-4, eps=1e-5)
    rows = arguments.copies * arguments.agents
    rates = []
    for repeat in range(arguments.repeats + 1):
        started = time.process_time()
        seen, states, actions, log_probs, values, rewards, ends = [], [], [], [], [], [], []
        with torch.no_grad():
            for _ in range(arguments.rollout):
                state = step.state.flatten(0, 1)  # type: ignore[union-attr]
                policy = torch.distributions.Categorical(logits=actor(see), validate_args=False)
                action = policy.sample()
                seen.append(see)
                states.append(state)
                actions.append(action)
                log_probs.append(policy.log_prob(action))
                values.append(critic(state).squeeze(1))
                step = world.step(action.view(arguments.copies, arguments.agents))
                plan = world.plan()
                see = floats(step.observation, plan.features)  # type: ignore[arg-type]
                rewards.append((step.reward + 0.01 * plan.reached).flatten())
                ends.append(step.truncated.flatten())
            following = critic(step.state.flatten(0, 1)).squeeze(1)  # type: ignore[union-attr]
            advantages, trace = [torch.zeros(rows)] * arguments.rollout, torch.zeros(rows)
            for t in reversed(range(arguments.rollout)):
                go_on = (~ends[t]).float()
                delta = rewards[t] + 0.99 * following - values[t]
                trace = delta + 0.99 * 0.95 * go_on * trace
                advantages[t], following = trace, values[t]
        observation, state, action, old, value, advantage = (
            torch.cat(column) for column in (seen, states, actions, log_probs, values, advantages)
        )
        target = advantage + value
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        for index in torch.randperm(len(old)).chunk(arguments.minibatches):
            policy = torch.distributions.Categorical(logits=actor(observation[index]), validate_args=False)
            ratio = (policy.log_prob(action[index]) - old[index]).exp()
            gain = torch.minimum(ratio * advantage[index], ratio.clamp(0.8, 1.2) * advantage[index])
            error = critic(state[index]).squeeze(1) - target[index]
            loss = -gain.mean() - 0.01 * policy.entropy().mean() + 0.5 * error.square().mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters()], 10.0)
            optimizer.step()
        spent = time.process_time() - started
        if repeat > 0:  # the first one compiles
            rates.append(arguments.rollout * rows / spent / 1e6)
    row = {
        "name": "raw loop of mappo on lifelong_mapf",
        "unit": "million agent-steps per CPU-second",
        "value": round(statistics.median(rates), 4),
        "device": "cpu",
        "threads": 1,
        "work": vars(arguments) | {"min": round(min(rates), 4), "max": round(max(rates), 4)},
    }
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
