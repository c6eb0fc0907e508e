"""Generations: the members of a population play one episode of the same instances each, only how well is recorded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.coordination.pipeline import Pipeline
from marl.envs.waiting import any_or_unknown
from marl.errors import UserError
from marl.policies.population import Population
from marl.rollout.collector import EpisodeMeans
from marl.rollout.finite import Watch


@dataclass
class Generation:
    """fitness: float64 ``[P]``, mean of the world's primary metric over each member's episodes, more is better.

    Episodes that were lost with their simulator (metric ``lost``) do not count; a member that lost all of its own has
    the mean of the others. mean_reward: of all acting agents' steps of the episodes.
    """

    fitness: Tensor
    mean_reward: float


class Generations:
    """Plays generations in a world of B copies, B / P instances by each of the P members, one episode of each.

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
        #: Steps of each copy in a generation, at most: on the CPU it ends when every copy has finished its episode. A
        #: copy that has goes on until then, uncounted.
        self.steps = env.spec.horizon
        #: Instances that each member plays, the same for all.
        self.instances = env.copies // population

    @torch.no_grad()
    def collect(self, number: int, seeds: Tensor) -> tuple[Generation, EpisodeMeans]:
        """Play a generation. Returns it and the means of its episodes, the first of each copy, lost ones among them.

        seeds: int64 ``[B / P]``, of the instances. Members meet the same worlds and draw with the same random numbers.
        Raises ``RuntimeError`` if a copy does not finish within its horizon, ``UserError`` if all episodes are lost,
        ``NotFiniteError`` if a reward or an observation is none.
        """
        pipeline, env = self._pipeline, self._pipeline.env
        members = self._members(number)
        with self._phase("world"):
            timestep = env.reset(seeds.repeat(self._population))
        with self._phase("guidance"):
            timestep = pipeline.view(timestep)
        memory = pipeline.begin(members, timestep)
        score, earned, decisions = (torch.zeros(env.copies, dtype=torch.float64, device=env.device) for _ in range(3))
        playing = torch.ones(env.copies, dtype=torch.bool, device=env.device)
        counts = torch.zeros_like(playing)
        episodes = EpisodeMeans()
        # The members never read the central state, and to search it costs about as much as all the rest.
        watch = Watch(env.spec, lambda copy: f"copy {copy}, of member {copy // self.instances},", state=False)
        watch.see(timestep)
        for _ in range(self.steps):
            with self._phase("policy"):
                decision = pipeline.act(members, timestep, memory, self._greedy)
            with self._phase("world"):
                after = env.step(decision.executed)
            with self._phase("guidance"):
                after = pipeline.view(after)
            watch.see(after)
            acting = timestep.alive & playing.unsqueeze(1)
            earned += torch.where(acting, after.reward, 0.0).sum(1)
            decisions += acting.sum(1)
            first = after.done & playing
            score += torch.where(first, after.metrics[self._metric], 0.0)
            counts |= first & (after.metrics["lost"] == 0) if "lost" in after.metrics else first
            episodes.add(after._replace(done=first))
            timestep, memory, playing = after, decision.memory, playing & ~first
            if not any_or_unknown(playing):
                break
        watch.check()
        if bool(playing.any()):
            raise RuntimeError(f"{type(env).__name__} has not finished an episode of each copy in {self.steps} steps")
        if not bool(counts.any()):
            raise UserError(
                f"all episodes of generation {number} were lost with their simulators: mend what the warnings above "
                f"tell of, then continue with --resume"
            )
        fitness = self._sign * self._means(score, counts)
        return Generation(fitness, float(earned.sum() / decisions.sum().clamp(min=1.0))), episodes

    def _means(self, score: Tensor, counts: Tensor) -> Tensor:
        """Of each member's instances that count; where none does, the mean of the other members. ``[P]``."""
        score = torch.where(counts, score, 0.0).view(self._population, self.instances).sum(1)
        count = counts.view(self._population, self.instances).sum(1)
        own = score / count
        return torch.where(count > 0, own, own[count > 0].mean())
