"""Generations: the members of a population play whole episodes of the same instances, and only how well is recorded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.coordination.pipeline import Pipeline
from marl.errors import UserError
from marl.policies.population import Population
from marl.rollout.collector import EpisodeMeans


@dataclass
class Generation:
    """fitness: float64 ``[P]``, mean of the world's primary metric over each member's episodes, more is better.

    mean_reward: of all acting agents' steps.
    """

    fitness: Tensor
    mean_reward: float


class Generations:
    """Plays generations in a world of B copies, B / P instances by each of the P members.

    members: number of the generation -> the population that plays it. greedy: members take their likeliest actions.
    ``phase(name)`` is entered around the time spent in the world and in the networks. Nothing is carried over from one
    generation to the next. Raises ``UserError`` if the copies cannot be shared out, or nothing says who did well.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        members: Callable[[int], Population],
        population: int,
        greedy: bool = False,
        phase: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext(),
    ):
        env = pipeline.env
        if env.copies % population:
            raise UserError(
                f"copies={env.copies} is not a multiple of algorithm.population={population}: every member plays in as "
                f"many copies as the others"
            )
        self._metric = env.spec.primary_metric
        better = env.spec.metrics[self._metric].better if self._metric in env.spec.metrics else "neither"
        if better == "neither":
            raise UserError(
                f"{type(env).__name__} has no primary metric of which more or less is better, and that is what "
                f"evolution goes by: train with another --system"
            )
        self._sign = 1.0 if better == "higher" else -1.0
        self._pipeline, self._members, self._population = pipeline, members, population
        self._greedy, self._phase = greedy, phase
        #: Steps of each copy in a generation: every copy finishes an episode.
        self.steps = env.spec.horizon
        #: Instances that each member plays, the same for all.
        self.instances = env.copies // population

    @torch.no_grad()
    def collect(self, number: int, seeds: Tensor) -> tuple[Generation, EpisodeMeans]:
        """Play a generation. Returns it and the means of all episodes that finished.

        seeds: int64 ``[B / P]``, of the instances. Members meet the same worlds and draw with the same random numbers.
        """
        pipeline, env = self._pipeline, self._pipeline.env
        members = self._members(number)
        with self._phase("world"):
            timestep = env.reset(seeds.repeat(self._population))
        timestep = pipeline.view(timestep)
        memory = pipeline.begin(members, timestep)
        score = torch.zeros(env.copies, dtype=torch.float64, device=env.device)
        finished, earned, decisions = (torch.zeros_like(score) for _ in range(3))
        episodes = EpisodeMeans()
        for _ in range(self.steps):
            with self._phase("policy"):
                decision = pipeline.act(members, timestep, memory, self._greedy)
            with self._phase("world"):
                after = env.step(decision.executed)
            with self._phase("guidance"):
                after = pipeline.view(after)
            earned += (after.reward * timestep.alive).sum(1)
            decisions += timestep.alive.sum(1)
            score += torch.where(after.done, after.metrics[self._metric], 0.0)
            finished += after.done
            episodes.add(after)
            timestep, memory = after, decision.memory
        fitness = self._sign * (score / finished).view(self._population, self.instances).mean(1)
        return Generation(fitness, float(earned.sum() / decisions.sum().clamp(min=1.0))), episodes
