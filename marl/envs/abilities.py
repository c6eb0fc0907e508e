"""What a world may tell the coordination modules, beside the contract: where actions lead, and what conflicts.

Every ability is a small protocol that a world implements or not (plans: ``marl.envs.batched.Plans``). The modules of
``marl.coordination`` hold the algorithms and know no world.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

#: What agents that have not been decided upon stand with in ``committed``.
UNDECIDED = -1


class Prediction(NamedTuple):
    """Where agents will be.

    trajectory: ``[B, N, H, D]``, D coordinates at H future moments. companions: int64 ``[B, N, K]``, the agents that
    each agent listens to, -1 where there is none. origin: ``[B, N, D]``, the listener's own coordinates now.
    """

    trajectory: Tensor
    companions: Tensor
    origin: Tensor


@runtime_checkable
class Predicts(Protocol):
    """A world that can say where an action leads."""

    def enable_prediction(self, horizon: int, companions: int) -> tuple[float, ...]:
        """Prepare H-step predictions for K companions; returns the scale of each of the D coordinates."""

    def predict(self, actions: Tensor | None) -> Prediction:
        """The prediction at the present moment if agents take ``actions`` (int64 ``[B, N]``; None: carry on)."""

    def predict_final(self) -> Prediction | None:
        """``predict(None)`` at the end of the episodes that finished in the last step, None if none did."""


@runtime_checkable
class Supervised(Protocol):
    """A world that can judge actions one agent at a time; discrete actions, agents of one group."""

    def priority(self) -> Tensor:
        """float ``[B, N]``: who is decided upon first, the largest before the others."""

    def candidates(self, agent: Tensor) -> Tensor:
        """int64 ``[B, C]``: the legal actions of agent ``agent[b]`` (int64 ``[B]``), -1 filling up the row."""

    def margin(self, candidates: Tensor, agent: Tensor, committed: Tensor) -> Tensor:
        """float ``[B, C]``: room that each candidate leaves, negative if a conflict is predicted.

        Args:
            committed: int64 ``[B, N]``, the actions decided so far, ``UNDECIDED`` for the agents that come later.
        """


@runtime_checkable
class Resolves(Protocol):
    """A world that finds a joint action without any conflict itself.

    For worlds in which one pass in the order of priority is not enough: whoever comes last may have no way out, unless
    those before give up theirs (grids).
    """

    def resolve(self, proposed: Tensor, scores: Tensor | None) -> Tensor:
        """int64 ``[B, N]``: actions that conflict with no other, ``proposed`` (int64 ``[B, N]``) where that does.

        Args:
            scores: ``[B, N, A]``, which of the others an agent would rather have; None: it does not care.
        """


@runtime_checkable
class Adapts(Protocol):
    """A world that can show its agents what a policy was trained to see, whatever it would show them itself."""

    def adapt(self, options: Any) -> None:
        """Show what a world with these options (of the scenario's own model) shows; before anything is enabled.

        The tasks stay as they are, and so do choices that the user of this world has made.
        """


@runtime_checkable
class ShowsCorrections(Protocol):
    """A world that wants to know who was corrected, for example to show it."""

    def post_decision(self, corrected: Tensor) -> None:
        """corrected: bool ``[B, N]``, for the step that comes."""


def nearest(distance: Tensor, reach: float, count: int) -> Tensor:
    """Companions by distance: int64 ``[B, N, K]``, the K nearest within ``reach``, -1 filling up.

    Args:
        distance: ``[B, N, N]`` of each agent to every other, infinite where it cannot hear it (itself, for
            example).

    Equal distances: the lower index first.
    """
    near, who = distance.sort(dim=2, stable=True)
    who = torch.where(near <= reach, who, -1)[..., :count]
    return torch.nn.functional.pad(who, (0, count - who.shape[2]), value=-1)
