"""Safety: in the order of priority, an action whose prediction conflicts is replaced by the safest legal one.

After the priority-based supervisor of Chen et al., "Deep Multi-Agent Reinforcement Learning for Highway On-Ramp Merging
in Mixed Traffic", IEEE T-ITS 2023, arXiv 2105.05701, algorithm 2, for any world: the world says who comes first, what
an agent may do, and how much room each choice leaves; lower priorities see the corrected actions of higher ones. A
world that resolves all conflicts at once (``Resolves``) is asked for the joint action instead; the account, the price
and the log-probability of the proposed action are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from marl.config import SafetyConfig
from marl.coordination.module import Module
from marl.coordination.safety_rule import made_rule
from marl.envs.abilities import UNDECIDED, Resolves, ShowsCorrections, Supervised
from marl.envs.batched import BatchedEnv, Metric, TimeStep, Tree
from marl.errors import UserError

__all__ = ["METRICS", "UNDECIDED", "Correction", "Resolves", "Safety", "ShowsCorrections", "Supervised"]

METRICS: Mapping[str, Metric] = {
    "interventions_per_step": Metric("share", "lower", "corrected actions / actions of living agents"),
}


class Correction(NamedTuple):
    """executed: int64 ``[B, N]``. corrected: bool ``[B, N]``, where it is not what was proposed."""

    executed: Tensor
    corrected: Tensor


class Safety(Module):
    """The supervisor of one world, with its account of interventions.

    options: ``margin`` is the room that a proposal has to leave, in the world's unit; 0 by default, more is stricter.
    ``penalty`` is what a correction costs the corrected agent, in the reward of the step that follows: without a price
    the policy learns to lean on the supervisor, with one, corrections are a frequent and early sign of danger. Both may
    begin with another value, see ``schedule``. ``rule`` names who judges in the place of the world.
    Raises ``UserError`` if the world cannot be supervised so.
    """

    def __init__(self, env: BatchedEnv, options: SafetyConfig | None = None):
        self.metrics = METRICS
        self._options = options = options or SafetyConfig()
        supervisor: object = env if options.rule is None else made_rule(options.rule, env)
        if not isinstance(supervisor, Supervised | Resolves):
            raise UserError(
                f"{type(supervisor).__name__} has no supervisor (priority, candidates and margin; or resolve): set "
                "coordination.safety.enabled=false, or name one of your own as coordination.safety.rule=module:function"
            )
        if len(env.spec.groups) != 1:
            raise UserError("safety needs agents of one group: set coordination.safety.enabled=false")
        if isinstance(supervisor, Resolves) and (options.margin != 0.0 or options.early_margin is not None):
            raise UserError(
                f"{type(supervisor).__name__} leaves no conflict at all, so that there is no margin to choose: "
                "leave coordination.safety.margin and early_margin out"
            )
        self._env, self._supervisor = env, supervisor
        self._interventions = torch.zeros(env.copies, device=env.device)
        self._decisions = torch.zeros(env.copies, device=env.device)
        self._unpaid: Tensor | None = None
        #: On a CPU the loop over agents stops where nobody acts, and skips what needs no correction; elsewhere looking
        #: would cost more, for it waits for the device.
        self.early_exits = env.device.type == "cpu"
        self.schedule(1.0)

    def view(self, timestep: TimeStep) -> TimeStep:
        return self.account(timestep)

    def execute(self, timestep: TimeStep, proposed: Tree, scores: Tensor | None) -> Tree:
        assert isinstance(proposed, Tensor)
        return self.correct(timestep, proposed, scores).executed

    def begin(self) -> None:
        """Before the first decision of a rollout: nothing has been corrected yet, whatever was left unfinished."""
        self._interventions = torch.zeros_like(self._interventions)
        self._decisions = torch.zeros_like(self._decisions)
        self._unpaid = None

    def schedule(self, fraction: float) -> None:
        """Take the margin and the penalty of a moment of training; fraction: the part of the run that is done.

        From their early values they go linearly to the final ones, which they reach at the part ``annealed``.
        """
        options = self._options
        late = min(1.0, fraction / options.annealed)

        def between(early: float | None, final: float) -> float:
            return final if early is None else early + late * (final - early)

        self.margin = between(options.early_margin, options.margin)
        self.penalty = between(options.early_penalty, options.penalty)

    def correct(self, timestep: TimeStep, proposed: Tensor, scores: Tensor | None = None) -> Correction:
        """Replace conflicting actions.

        Args:
            proposed: int64 ``[B, N]``.
            scores: ``[B, N, A]``, decide between replacements of equal margin; None: the first.
        """
        if isinstance(self._supervisor, Resolves):
            executed = self._supervisor.resolve(proposed, scores)
        else:
            executed = self._in_order(self._supervisor, timestep.alive, proposed, scores)
        corrected = timestep.alive & (executed != proposed)
        self._interventions += corrected.sum(1)
        self._decisions += timestep.alive.sum(1)
        self._unpaid = corrected
        if isinstance(self._env, ShowsCorrections):
            self._env.post_decision(corrected)
        return Correction(executed, corrected)

    def _in_order(self, world: Supervised, alive: Tensor, proposed: Tensor, scores: Tensor | None) -> Tensor:
        """The executed actions: one agent of each copy after the other, the most urgent first."""
        order = torch.where(alive, world.priority(), -torch.inf).argsort(dim=1, descending=True, stable=True)
        acting, proposals = alive.gather(1, order), proposed.gather(1, order)
        committed = torch.full_like(proposed, UNDECIDED)
        executed = proposed.clone()
        for rank in range(int(acting.sum(1).max()) if self.early_exits else alive.shape[1]):
            agent, place = order[:, rank].contiguous(), order[:, rank : rank + 1]
            acts, wanted = acting[:, rank : rank + 1], proposals[:, rank : rank + 1]
            candidates = world.candidates(agent)
            margin = world.margin(candidates, agent, committed).masked_fill(candidates < 0, -torch.inf)
            best = margin == margin.amax(1, keepdim=True)
            keep = ((candidates == wanted) & (best | (margin >= self.margin))).any(1, keepdim=True) | ~acts
            decided = wanted
            if not self.early_exits or not bool(keep.all()):
                liking: Tensor | float = 0.0
                if scores is not None:
                    own = scores.gather(1, place.unsqueeze(2).expand(-1, 1, scores.shape[2])).squeeze(1)
                    liking = own.gather(1, candidates.clamp(min=0))
                choice = torch.where(best, liking, -torch.inf).argmax(1, keepdim=True)
                decided = torch.where(keep, wanted, candidates.gather(1, choice))
                executed.scatter_(1, place, decided)
            committed.scatter_(1, place, torch.where(acts, decided, UNDECIDED))
        return executed

    def account(self, timestep: TimeStep) -> TimeStep:
        """Add ``interventions_per_step`` of the episode to the metrics, and take the penalties off the rewards.

        Call once after each ``reset`` and ``step``.
        """
        share = self._interventions / self._decisions.clamp(min=1.0)
        self._interventions = torch.where(timestep.done, 0.0, self._interventions)
        self._decisions = torch.where(timestep.done, 0.0, self._decisions)
        reward = timestep.reward
        if self.penalty and self._unpaid is not None:
            reward = reward - self.penalty * self._unpaid
        self._unpaid = None
        return timestep._replace(reward=reward, metrics={**timestep.metrics, "interventions_per_step": share})

    def state(self) -> dict[str, Tensor]:
        """The account of the present episodes, for checkpoints."""
        return {"interventions": self._interventions.clone(), "decisions": self._decisions.clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue the account of ``state``."""
        self._interventions, self._decisions = state["interventions"].clone(), state["decisions"].clone()
