"""Safety: in the order of priority, an action whose prediction conflicts is replaced by the safest legal one.

After the priority-based supervisor of Chen et al., "Deep Multi-Agent Reinforcement Learning for Highway On-Ramp Merging
in Mixed Traffic", IEEE T-ITS 2023, arXiv 2105.05701, algorithm 2, for any world: the world says who comes first, what
an agent may do, and how much room each choice leaves; lower priorities see the corrected actions of higher ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from marl.envs.batched import BatchedEnv, Metric, TimeStep
from marl.errors import UserError

#: What agents that have not been decided upon stand with in ``committed``.
UNDECIDED = -1

METRICS: Mapping[str, Metric] = {
    "interventions_per_step": Metric("share", "lower", "corrected actions / actions of living agents"),
}


@runtime_checkable
class Supervised(Protocol):
    """A world that can judge actions before they are executed; discrete actions, agents of one group."""

    def priority(self) -> Tensor:
        """float ``[B, N]``: who is decided upon first, the largest before the others."""

    def candidates(self, agent: Tensor) -> Tensor:
        """int64 ``[B, C]``: the legal actions of agent ``agent[b]`` (int64 ``[B]``), -1 filling up the row."""

    def margin(self, candidates: Tensor, agent: Tensor, committed: Tensor) -> Tensor:
        """float ``[B, C]``: room that each candidate leaves, negative if a conflict is predicted.

        committed: int64 ``[B, N]``, the actions decided so far, ``UNDECIDED`` for the agents that come later.
        """


@runtime_checkable
class ShowsCorrections(Protocol):
    """A world that wants to know who was corrected, for example to show it."""

    def post_decision(self, corrected: Tensor) -> None:
        """corrected: bool ``[B, N]``, for the step that comes."""


class Correction(NamedTuple):
    """executed: int64 ``[B, N]``. corrected: bool ``[B, N]``, where it is not what was proposed."""

    executed: Tensor
    corrected: Tensor


class Safety:
    """The supervisor of one world, with its account of interventions.

    penalty: what a correction costs the corrected agent, in the reward of the step that follows. Without a price the
    policy learns to lean on the supervisor; with one, corrections are a frequent and early sign of danger.
    Raises ``UserError`` if the world cannot be supervised.
    """

    def __init__(self, env: BatchedEnv, penalty: float = 0.0):
        if not isinstance(env, Supervised):
            raise UserError(f"{type(env).__name__} has no supervisor: set coordination.safety.enabled=false")
        if len(env.spec.groups) != 1:
            raise UserError("safety needs agents of one group: set coordination.safety.enabled=false")
        self._env: Supervised = env
        self._interventions = torch.zeros(env.copies, device=env.device)
        self._decisions = torch.zeros(env.copies, device=env.device)
        self._penalty = penalty
        self._unpaid: Tensor | None = None

    def correct(self, timestep: TimeStep, proposed: Tensor, scores: Tensor | None = None) -> Correction:
        """Replace conflicting actions.

        proposed: int64 ``[B, N]``. scores: ``[B, N, A]``, decide between replacements of equal margin; None: the first.
        """
        alive = timestep.alive
        order = torch.where(alive, self._env.priority(), -torch.inf).argsort(dim=1, descending=True, stable=True)
        acting, proposals = alive.gather(1, order), proposed.gather(1, order)
        committed = torch.full_like(proposed, UNDECIDED)
        executed = proposed.clone()
        for rank in range(int(acting.sum(1).max())):
            agent, place = order[:, rank].contiguous(), order[:, rank : rank + 1]
            acts, wanted = acting[:, rank : rank + 1], proposals[:, rank : rank + 1]
            candidates = self._env.candidates(agent)
            margin = self._env.margin(candidates, agent, committed).masked_fill(candidates < 0, -torch.inf)
            best = margin == margin.amax(1, keepdim=True)
            keep = ((candidates == wanted) & (best | (margin >= 0))).any(1, keepdim=True) | ~acts
            decided = wanted
            if not bool(keep.all()):
                liking: Tensor | float = 0.0
                if scores is not None:
                    own = scores.gather(1, place.unsqueeze(2).expand(-1, 1, scores.shape[2])).squeeze(1)
                    liking = own.gather(1, candidates.clamp(min=0))
                choice = torch.where(best, liking, -torch.inf).argmax(1, keepdim=True)
                decided = torch.where(keep, wanted, candidates.gather(1, choice))
                executed.scatter_(1, place, decided)
            committed.scatter_(1, place, torch.where(acts, decided, UNDECIDED))
        corrected = alive & (executed != proposed)
        self._interventions += corrected.sum(1)
        self._decisions += alive.sum(1)
        self._unpaid = corrected
        if isinstance(self._env, ShowsCorrections):
            self._env.post_decision(corrected)
        return Correction(executed, corrected)

    def account(self, timestep: TimeStep) -> TimeStep:
        """Add ``interventions_per_step`` of the episode to the metrics, and take the penalties off the rewards.

        Call once after each ``reset`` and ``step``.
        """
        share = self._interventions / self._decisions.clamp(min=1.0)
        self._interventions = torch.where(timestep.done, 0.0, self._interventions)
        self._decisions = torch.where(timestep.done, 0.0, self._decisions)
        reward = timestep.reward
        if self._penalty and self._unpaid is not None:
            reward = reward - self._penalty * self._unpaid
        self._unpaid = None
        return timestep._replace(reward=reward, metrics={**timestep.metrics, "interventions_per_step": share})

    def state(self) -> dict[str, Tensor]:
        """The account of the present episodes, for checkpoints."""
        return {"interventions": self._interventions.clone(), "decisions": self._decisions.clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue the account of ``state``."""
        self._interventions, self._decisions = state["interventions"].clone(), state["decisions"].clone()
