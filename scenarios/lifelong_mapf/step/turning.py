"""``Turning``: what a world with headings does beyond one without: the step underneath knows moves alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from scenarios.lifelong_mapf.maps.headings import FORWARD, N_TURNING_ACTIONS, WAIT, moves_of, turned
from scenarios.lifelong_mapf.observation import N_HEADINGS
from scenarios.lifelong_mapf.step.engines import View


class Turning:
    """The headings int8 ``[B, N]`` of robots; changed in place."""

    def __init__(self, heading: Tensor):
        self.heading = heading

    def carry_out(self, actions: Tensor, alive: Tensor) -> Tensor:
        """Make the turns among the actions of those alive, and return the moves of all, int64 ``[B, N]``.

        Raises ``ValueError`` for an action that there is not (on the CPU; elsewhere the host does not look).
        """
        if actions.device.type == "cpu":
            faulty = alive & ((actions < 0) | (actions >= N_TURNING_ACTIONS))
            if bool(faulty.any()):
                copy, agent = (int(place) for place in faulty.nonzero()[0])
                raise ValueError(f"action of agent {agent} in copy {copy} is {actions[copy, agent]}, expected 0 to 3")
        moves = moves_of(self.heading, actions)
        self.heading.copy_(torch.where(alive, turned(self.heading, actions), self.heading))
        return moves

    def proposed(self, actions: Tensor) -> Tensor:
        """The moves that actions would make, int64 ``[B, N]``."""
        return moves_of(self.heading, actions)

    def executed(self, proposed: Tensor, moves: Tensor) -> Tensor:
        """The actions that make ``moves``, each the one ahead or none, and keep the turns that were proposed."""
        still = torch.where(proposed == FORWARD, WAIT, proposed)
        return torch.where(moves > 0, FORWARD, still)

    def shown(self, view: View) -> View:
        """A view with the headings in it."""
        seen, central = view
        heading = one_hot(self.heading.long(), N_HEADINGS).float()
        return {**seen, "heading": heading}, None if central is None else torch.cat([central, heading], -1)
